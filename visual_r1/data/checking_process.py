"""The program of a process that checks rows for another one: `checking` starts and feeds it.

Rows come numbered through a socket, and their outcomes go back by the same numbers, in their order.
A number that comes again, without a row, is of one that is wanted no more. It ends when the socket
closes, however the process at its other end ended. It imports little, for it is started again and
again.
"""

import os
import queue
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from visual_r1.data.images import KnownImages
from visual_r1.data.rows import Outcome, Row, SourceRow, outcome_of
from visual_r1.freed_memory import keep_freed_memory

# Pictures that are known by the process, and those that come again soon are.
KNOWN = 256


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of row `number`, where the pictures that stayed as they came are left out.

    `same` has for each picture of the problem which picture of the row it is, None for another one.
    Without an outcome, the row is to be checked where it came from: it cannot be sent about.
    """

    number: int
    outcome: Outcome | None
    same: tuple[int | None, ...] = ()

    @staticmethod
    def of(number: int, outcome: Outcome, row: SourceRow) -> "Reply":
        """The reply without the pictures that `row` has."""
        checked = outcome.checked
        if checked is None:
            return Reply(number, outcome)
        places = {id(data): place for place, data in enumerate(row.images)}
        same = tuple(places.get(id(data)) for data in checked.problem.images)
        left = (
            b"" if place is not None else data
            for data, place in zip(checked.problem.images, same, strict=True)
        )
        return Reply(number, _with_images(outcome, tuple(left)), same)

    def whole(self, row: Row) -> Outcome:
        """The outcome with all its pictures."""
        assert self.outcome is not None
        if self.outcome.checked is None or not isinstance(row, SourceRow):
            return self.outcome
        images = (
            data if place is None else row.images[place] or b""
            for data, place in zip(self.outcome.checked.problem.images, self.same, strict=True)
        )
        return _with_images(self.outcome, tuple(images))


def _with_images(outcome: Outcome, images: tuple[bytes, ...]) -> Outcome:
    assert outcome.checked is not None
    problem = replace(outcome.checked.problem, images=images)
    return replace(outcome, checked=replace(outcome.checked, problem=problem))


def main(descriptor: int) -> None:
    """Serve the socket until it closes."""
    connection: Connection[Reply | None, tuple[int, Row | None]] = Connection(descriptor)
    rows: queue.SimpleQueue[tuple[int, Row]] = queue.SimpleQueue()
    dropped: set[int] = set()
    keep_freed_memory()
    connection.send(None)  # ready
    # What comes is always taken, so that the other end never waits to send while this one does.
    threading.Thread(target=_take, args=(connection, rows, dropped), daemon=True).start()
    known = KnownImages(KNOWN)
    while True:
        number, row = rows.get()
        if number in dropped:
            dropped.discard(number)
            continue
        read = row.read()
        outcome = outcome_of(read, known.check)
        reply = Reply.of(number, outcome, read) if read is row else Reply(number, outcome)
        try:
            try:
                connection.send(reply)
            except RecursionError:  # meta is nested deeply
                connection.send(Reply(number, None))
        except OSError:  # nobody wants it any more
            return


def _take(
    connection: "Connection[Reply | None, tuple[int, Row | None]]",
    rows: "queue.SimpleQueue[tuple[int, Row]]",
    dropped: set[int],
) -> None:
    while True:
        try:
            number, row = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        if row is None:
            dropped.add(number)
        else:
            rows.put((number, row))
