"""Rows checked by all cores, their outcomes in the order of the rows.

What comes out is what one process would give, whatever the number of cores, the order in which they
finish, and whichever of them dies. This process hands rows to others as far as they keep up, and
checks the next one itself where they do not. Where it would wait for them, it takes back the last
row of the one that has the most, so that all are done at the same time. The others are programs of
their own, which know nothing of the main module that a `multiprocessing` of another kind would run
again.
"""

import os
import pickle
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, cast

from visual_r1.cores import cores
from visual_r1.data import checking_process
from visual_r1.data.checking_process import Reply
from visual_r1.data.images import CheckedImage, KnownImages
from visual_r1.data.rows import Outcome, Row, SourceRow, outcome_of
from visual_r1.errors import DataError
from visual_r1.freed_memory import keep_freed_memory
from visual_r1.printing import open_logger

logger = open_logger("visual_r1.data")

# One process notes what is done; more than so many others would wait for it.
MOST_PROCESSES = 15
# A process takes about this long to start: it is started where that much work is left for it.
WORTH_A_PROCESS_S = 0.5
# After so many rows it is known what one costs.
TRIED = 16
# What a process has waiting, so that it never waits itself.
AHEAD_S = 0.25
_LEAST_AHEAD, _MOST_AHEAD = 2, 256
# What may wait in all: rows, and bytes of pictures beyond the first row.
MOST_ROWS = 2048
MOST_BYTES = 64 * 2**20
# Pictures known here: those of a set that is cut by a hash after it was checked (`splits.SMALL`).
KNOWN = 4096


@dataclass(slots=True)
class _Slot:
    """A row between its source and its outcome."""

    used: int
    row: Row
    size: int
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Helper:
    """Another process, and the rows that it has."""

    process: "subprocess.Popen[bytes]"
    connection: "Connection[Any, Reply | None]"
    ready: bool = False
    slots: dict[int, _Slot] = field(default_factory=dict[int, _Slot])


class Checking(AbstractContextManager["Checking"]):
    """Checks about `expected` rows in this process, and in others where that pays.

    Args:
        expected: rows that will come.
        most: processes at most, this one among them; as many as there are cores where None.
    """

    def __init__(self, expected: int, most: int | None = None) -> None:
        keep_freed_memory()
        self._left = expected
        self._most = min(MOST_PROCESSES, (cores() if most is None else most) - 1)
        self._helpers: list[_Helper] = []
        self._heard = selectors.DefaultSelector()
        self._started = self._most <= 0
        self._known = KnownImages(KNOWN)
        self._tried, self._row_s = 0, 0.0
        self._number = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the other processes; what they have is of no use any more."""
        for helper in self._helpers:
            _end(helper)
        self._helpers = []
        self._heard.close()

    def outcomes(self, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        """The outcome of each row, with the number that came with it, in their order.

        Some more rows are taken than outcomes are given. Raises what `rows` raises, a `DataError`
        after the outcomes of all rows before it.
        """
        coming, waiting, held = iter(rows), deque[_Slot](), 0
        failure: DataError | None = None
        ended = False
        while True:
            if not all(one.ready for one in self._helpers) or (
                waiting and waiting[0].outcome is None
            ):
                self._collect()
            while waiting and (outcome := waiting[0].outcome) is not None:
                slot = waiting.popleft()
                held -= slot.size
                self._left -= 1
                yield slot.used, outcome
            if ended or len(waiting) >= MOST_ROWS or held >= MOST_BYTES:
                if waiting:
                    if not self._take_back():
                        self._collect(wait_for_it=True)
                elif failure is not None:
                    raise failure
                elif ended:
                    return
                continue
            try:
                used, row = next(coming)
            except StopIteration:
                ended = True
            except DataError as error:
                ended, failure = True, error
            else:
                waiting.append(_Slot(used, row, _size(row)))
                held += waiting[-1].size
                self._give(waiting[-1])

    def settle(self) -> int:
        """Wait until all processes that were started are ready; how many check rows then, this one
        among them."""
        while not all(helper.ready for helper in self._helpers):
            self._collect(wait_for_it=True)
        return 1 + len(self._helpers)

    def _give(self, slot: _Slot) -> None:
        """Hand a row to the process that has the fewest, or check it here where all have enough."""
        if not self._is_known(slot.row):
            ahead = AHEAD_S / self._row_s if self._row_s else 0
            ahead = min(_MOST_AHEAD, max(_LEAST_AHEAD, int(ahead)))
            free = [one for one in self._helpers if one.ready and len(one.slots) < ahead]
            for helper in sorted(free, key=lambda one: len(one.slots)):
                number, self._number = self._number, self._number + 1
                helper.slots[number] = slot
                try:
                    message = pickle.dumps((number, slot.row), pickle.HIGHEST_PROTOCOL)
                    helper.connection.send_bytes(message)
                except OSError:
                    self._lose(helper)
                except RecursionError:  # meta is nested deeply
                    self._check(helper.slots.pop(number))
                return
        self._check(slot)

    def _take_back(self) -> bool:
        """Check a row here that another process has and will not have begun; whether there is one.

        Where that process has begun it just now, its reply is one that nobody waits for.
        """
        most = max(self._helpers, key=lambda one: len(one.slots), default=None)
        if most is None or len(most.slots) < _LEAST_AHEAD:
            return False
        number, slot = most.slots.popitem()
        try:
            most.connection.send((number, None))
        except OSError:
            self._lose(most)
        self._check(slot)
        return True

    def _is_known(self, row: Row) -> bool:
        """Whether there is nothing to decode."""
        return isinstance(row, SourceRow) and all(
            data is not None and self._known.knows(data) for data in row.images
        )

    def _check(self, slot: _Slot) -> None:
        known = self._is_known(slot.row)
        began = time.perf_counter()
        slot.outcome = outcome_of(slot.row.read(), self._known.check)
        took = time.perf_counter() - began
        if known:
            return
        self._tried += 1
        # The mean of all up to some number of rows, and of about so many last ones from there on.
        self._row_s += (took - self._row_s) / min(self._tried, 4 * TRIED)
        if self._tried >= TRIED and not self._started:
            worth = int(self._left * self._row_s / WORTH_A_PROCESS_S)
            if worth >= 1:
                self._start(min(self._most, worth))

    def _start(self, count: int) -> None:
        self._started = True
        try:
            for _ in range(count):
                helper = _start()
                self._helpers.append(helper)
                self._heard.register(helper.connection, selectors.EVENT_READ, helper)
        except OSError as error:
            logger.warning("rows are checked by %d processes: %s.", len(self._helpers) + 1, error)

    def _collect(self, *, wait_for_it: bool = False) -> None:
        """Take what the other processes have sent; wait for something where that is asked."""
        while self._helpers:
            sent = self._heard.select(None if wait_for_it else 0)
            if not sent:
                return
            for key, _ in sent:
                helper: _Helper = key.data
                try:
                    reply = helper.connection.recv()
                except (EOFError, OSError):
                    self._lose(helper)
                    continue
                if reply is None:
                    helper.ready = True
                    continue
                slot = helper.slots.pop(reply.number, None)
                if slot is None:  # it was taken back
                    continue
                if reply.outcome is None:
                    self._check(slot)
                else:
                    slot.outcome = self._whole(reply, slot.row)
            wait_for_it = False

    def _whole(self, reply: Reply, row: Row) -> Outcome:
        outcome = reply.whole(row)
        if (checked := outcome.checked) is not None and isinstance(row, SourceRow):
            found = zip(
                checked.problem.images, checked.pixels, checked.looks, checked.tiles, strict=True
            )
            for same, one in zip(reply.same, found, strict=True):
                if same is not None:
                    self._known.note(CheckedImage(*one))
        return outcome

    def _lose(self, helper: _Helper) -> None:
        """Go on without a process that has ended: its rows are checked here."""
        self._helpers = [one for one in self._helpers if one is not helper]
        self._heard.unregister(helper.connection)
        _end(helper)
        logger.warning(
            "a process that checks rows has ended, for want of memory perhaps; its rows are "
            "checked without it."
        )
        for slot in helper.slots.values():
            self._check(slot)


def _size(row: Row) -> int:
    return sum(len(data or b"") for data in row.images) if isinstance(row, SourceRow) else 0


def _start() -> _Helper:
    ours, theirs = cast("tuple[Connection[Any, Any], Connection[Any, Any]]", Pipe())
    # It computes in one thread and calls no service; Ctrl-C is for this process.
    environment = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # Not by -m: what it sends back would then be of its main module.
    code = f"from {checking_process.__name__} import main; main({theirs.fileno()})"
    process = subprocess.Popen(
        (sys.executable, "-c", code),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )
    theirs.close()
    return _Helper(process, ours)


def _end(helper: _Helper) -> None:
    with suppress(OSError):
        helper.connection.close()
    helper.process.kill()
    helper.process.wait()
