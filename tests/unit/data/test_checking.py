"""Rows checked by several processes: what comes out is what one process gives."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from drawn import figure, hub_row, write_parquet

from visual_r1.config import DataSection
from visual_r1.cores import cores
from visual_r1.data import checking, images
from visual_r1.data.checking import Checking
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.data.drawn_row import DrawnRow
from visual_r1.data.rows import Outcome, Row, SourceRow, outcome_of
from visual_r1.errors import DataError

# All that may become of a picture: kept, known by then, mended, two in one row, refused.
PICTURES: list[tuple[bytes | None, ...]] = [
    *((figure(n),) for n in range(20)),
    (figure(3),),
    (figure(21, mode="RGBA"), figure(22)),
    (figure(23, kind="WEBP", lossless=True),),
    (figure(24)[:-300],),
    (None,),
]


def nested(depth: int) -> dict[str, Any]:
    """Deeper than some of what is on its way can follow."""
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def rows() -> list[Row]:
    found: list[Row] = [
        SourceRow(f"row {n}", f"id-{n}", some, f"Find x {n}.", str(n))
        for n, some in enumerate(PICTURES)
    ]
    found.append(SourceRow("deep", "deep", (figure(30),), "Find x.", "1", meta={"a": nested(930)}))
    found.append(SourceRow("deeper", "deeper", (figure(31),), "Find x.", "1", meta=nested(2000)))
    return [*found, *(DrawnRow(0, "test", n) for n in range(10)), SourceRow("x", "", defect="torn")]


def whole() -> list[tuple[int, Outcome]]:
    return [(number, outcome_of(row.read())) for number, row in enumerate(rows())]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are started at once, however little there is to do."""
    monkeypatch.setattr(checking, "TRIED", 1)
    monkeypatch.setattr(checking, "WORTH_A_PROCESS_S", 1e-9)


@pytest.fixture
def checked_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of the rows that this process checks itself."""
    found: list[str] = []

    def noted(row: SourceRow, check: Any) -> Outcome:
        found.append(row.place)
        return outcome_of(row, check)

    monkeypatch.setattr(checking, "outcome_of", noted)
    return found


def others() -> list[psutil.Process]:
    mine = psutil.Process().children()
    return [one for one in mine if "checking_process" in " ".join(one.cmdline())]


@pytest.mark.usefixtures("eager")
def test_several_processes_give_what_one_gives_in_its_order(checked_here: list[str]) -> None:
    with Checking(len(rows()), most=3) as several:

        def coming() -> Iterator[tuple[int, Row]]:
            for number, row in enumerate(rows()):
                if number == 2:
                    assert several.settle() == 3
                yield number, row

        assert list(several.outcomes(coming())) == whole()
        assert len(others()) == 2
    assert others() == []
    # The first rows had nobody else yet. How many came back depends on the load: nobody waits.
    assert checked_here[0] == "row 0" and len(checked_here) < len(rows())


@pytest.mark.usefixtures("eager")
def test_what_a_killed_process_had_is_checked_without_it(caplog: pytest.LogCaptureFixture) -> None:
    with Checking(len(rows()), most=2) as several, caplog.at_level(logging.WARNING):

        def coming() -> Iterator[tuple[int, Row]]:
            for number, row in enumerate(rows()):
                if number == 1:
                    assert several.settle() == 2
                    (other,) = others()
                    other.send_signal(signal.SIGSTOP)  # so that it has rows when it dies
                if number == 3:
                    other.kill()
                yield number, row

        assert list(several.outcomes(coming())) == whole()
    assert "a process that checks rows has ended" in caplog.text


@pytest.mark.usefixtures("eager")
def test_where_a_source_breaks_off_all_rows_before_are_given_first() -> None:
    def coming() -> Iterator[tuple[int, Row]]:
        for number, row in list(enumerate(rows()))[:5]:
            if number == 1:
                assert one.settle() == 2
                others()[0].send_signal(signal.SIGSTOP)
            yield number, row
        others()[0].send_signal(signal.SIGCONT)  # it has the last rows
        raise DataError("torn.")

    given: list[tuple[int, Outcome]] = []
    with Checking(5, most=2) as one, pytest.raises(DataError, match="torn"):
        for outcome in one.outcomes(coming()):
            given.append(outcome)  # noqa: PERF402 - what came before it raises counts
    assert given == whole()[:5]


@pytest.mark.usefixtures("eager")
def test_rows_that_another_process_will_not_have_begun_are_taken_back(
    checked_here: list[str],
) -> None:
    """It stands still with all rows but the first, and goes on with the first of them."""

    def coming() -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(few):
            if number == 1:
                assert several.settle() == 2
                others()[0].send_signal(signal.SIGSTOP)
            yield number, row
        threading.Timer(1, others()[0].send_signal, (signal.SIGCONT,)).start()

    few = rows()[:12]
    more = [SourceRow(f"row {n}", f"id-{n}", (figure(n),), "Find x.", "1") for n in range(40, 60)]
    with Checking(len(rows()), most=2) as several:
        assert list(several.outcomes(coming())) == whole()[:12]
        assert checked_here == ["row 0", *(f"row {n}" for n in range(11, 1, -1))]
        # What it was told to forget it does not send; what it has sent is nobody else's.
        expected = [(number, outcome_of(row)) for number, row in enumerate(more)]
        assert list(several.outcomes(enumerate(more))) == expected


def test_what_is_wanted_no_more_is_not_checked() -> None:
    helper = checking._start()
    try:
        assert helper.connection.recv() is None  # it is ready
        large = SourceRow("large", "0", (figure(0, size=(3000, 2000)),), "Find x.", "1")
        for number in range(3):
            helper.connection.send((number, large))
        helper.connection.send((1, None))
        replies = [helper.connection.recv(), helper.connection.recv()]
    finally:
        checking._end(helper)
    assert [reply.number for reply in replies if reply is not None] == [0, 2]


FORCED = """
import json, os, signal, sys
from pathlib import Path
from visual_r1.config import DataSection
from visual_r1.data import checking, preparation
from visual_r1.data.dataset import prepare

checking.cores, checking.TRIED, checking.WORTH_A_PROCESS_S = lambda: 3, 1, 1e-9
preparation.SHARD_BYTES, preparation.COMMIT_ROWS = 75_000, 8
start = checking.Checking._start

def settled(self, count):
    start(self, count)
    assert self.settle() == 3
    print(json.dumps([one.process.pid for one in self._helpers]), flush=True)

checking.Checking._start = settled

class Killer:
    done = 0
    def start(self, stage, total, unit, done=0): self.done = done
    def advance(self, n=1, **shown):
        self.done += n
        if self.done == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    def finish(self, summary=""): pass

prepare(DataSection(**json.loads(sys.argv[3])), Path(sys.argv[1]), Killer())
"""


def forced(out: Path, settings: dict[str, Any], kill_at: int) -> tuple[int, list[int]]:
    command = [sys.executable, "-c", FORCED, str(out), str(kill_at), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, json.loads(done.stdout)


def contents(dataset: Dataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.folder.glob("*.parquet"))}


@pytest.mark.usefixtures("eager")
def test_a_preparation_by_several_processes_is_killed_and_ends_with_the_bytes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visual_r1.data.preparation.SHARD_BYTES", 75_000)
    some = [hub_row(n) for n in range(120)]
    some[20] = hub_row(20, answer="")
    some[70] = hub_row(3)
    some[110] = hub_row(4, answer="77")
    settings = {"source": str(write_parquet(tmp_path / "set" / "train.parquet", some).parent)}
    monkeypatch.setattr(checking, "cores", lambda: 1)
    whole = prepare(DataSection(**settings), tmp_path / "one")
    code, first = forced(tmp_path / "several", settings, kill_at=60)
    assert code == -signal.SIGKILL
    psutil.wait_procs([psutil.Process(pid) for pid in first if psutil.pid_exists(pid)], timeout=60)
    assert not any(psutil.pid_exists(pid) for pid in first)
    monkeypatch.setattr(checking, "cores", lambda: 2)
    assert contents(prepare(DataSection(**settings), tmp_path / "several")) == contents(whole)


def test_a_source_that_is_cut_by_a_hash_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = images.whole_image

    def noted(data: bytes, **rest: Any) -> Any:
        decoded.append(data)
        return decode(data, **rest)

    monkeypatch.setattr(images, "whole_image", noted)
    source = write_parquet(tmp_path / "set" / "train.parquet", map(hub_row, range(30))).parent
    dataset = prepare(DataSection(source=str(source)), tmp_path)
    assert dataset.counts["test"] == 6 and len(decoded) == 30


OTHERS = """
import json, time
from PIL import Image
from visual_r1.data.fingerprint import look_of


def others():
    return time.process_time() - time.thread_time()


found = {}
for size in ((400, 400), (511, 511), (90, 510), (4000, 3000)):
    picture = Image.effect_noise(size, 40)
    look_of(picture)
    awake = True
    while awake:  # what woke with the imports goes to sleep again
        before, mine = others(), time.thread_time()
        while time.thread_time() < mine + 0.02:
            pass
        awake = others() - before > 1e-3
    before, mine = others(), time.thread_time()
    for _ in range(30):
        look_of(picture)
    found[str(size)] = (others() - before, time.thread_time() - mine)
print(json.dumps(found))
"""


@pytest.mark.skipif(cores() < 2, reason="one core has no second thread")
def test_the_look_of_a_figure_keeps_one_thread_busy() -> None:
    """By processor time: BLAS' threads, once woken, are as busy as the one that called them."""
    threads = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in threads}
    ran = subprocess.run(
        [sys.executable, "-c", OTHERS], check=True, env=environment, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, tuple[float, float]] = json.loads(ran.stdout)
    assert len(found) == 4
    for size, (others_s, mine_s) in found.items():
        assert others_s < 0.3 * mine_s + 0.005, size


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        (  # a job in a slice that has less
            {
                "proc/self/cgroup": "0::/some/job\n",
                "sys/fs/cgroup/some/job/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/some/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ({}, 64),
    ],
)
def test_a_container_has_the_cores_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == expected
