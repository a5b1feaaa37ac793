"""What the records at Prefect cost a run, in seconds of computing.

    python benchmarks/records.py RUN                                  # a temporary server
    PREFECT_API_URL=http://127.0.0.1:4200/api python benchmarks/records.py RUN

RUN is the folder of a finished run. Its story is told to Prefect again, task by task and step by
step, as it was when it happened but for the training: once with its records and once with Prefect's
own alone (the flow, its tasks and their states). The difference is what the records cost, in this
process and in the server's. Both artifacts are sent at every step here; a run does so every 15
seconds at most, so that the figure is an upper bound for steps of less.
"""

import argparse
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from tasks.environment import prefect_server, settle_prefect

settle_prefect(Path(sys.argv[1]).resolve().parents[1] if len(sys.argv) > 1 else None)

from prefect import flow, task
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from tasks.default_server import finish_temporary_server, temporary_server
from tasks.records import artifacts, record
from tasks.records.ending import concluded
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.report.summary import read_summary
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.journal import MetricsRow, read_metrics
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.validations import Validations


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


@task(name="chunk", task_run_name="train to step {row.step}")
def _chunk(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None, row: LedgerRow, told: bool
) -> None:
    if not told:
        return
    record.doing(f"training to step {row.step}", start.step if start else 0)
    first = start.step if start else 0
    for step in _rows[first : row.step]:
        record.step_done(step)
        opened = record._open.get()  # each is sent by itself: nothing newer takes its place
        assert opened is not None
        opened.sender.wait(60)
    record.chunk_saved(config, dataset, start, row)


@task(name="validate")
def _validate(config: RunConfig, step: int, told: bool) -> None:
    found = [row for row in Validations(config.run_dir).rows() if row.step == step]
    if told and found:
        record.doing(f"validating step {step}", step)
        record.validated(config, found[0])


_rows: list[MetricsRow] = []


@concluded
@flow(name="records", persist_result=False)
def _tell(config: RunConfig, told: bool) -> None:
    if not told:
        _story(config, told=False)
        return
    with record.open_record(config):
        _story(config, told=True)


def _story(config: RunConfig, *, told: bool) -> None:
    rows = Ledger(config.run_dir).rows()
    dataset = Dataset(config.output_dir / "data" / "dataset", rows[0].dataset_digest, {"train": 1})
    start: LedgerRow | None = None
    for row in rows:
        _chunk(config, dataset, start, row, told)
        _validate(config, row.step, told)
        start = row
    summary = read_summary(config.run_dir)
    if told and summary is not None:
        record.summarized(config, summary)


@contextmanager
def computing(server: psutil.Process | None) -> Generator[list[float]]:
    """For the block, the seconds of computing in this process and in the server's."""
    seconds: list[float] = []
    before = (time.process_time(), _of(server))
    yield seconds
    APILogWorker.drain_all(timeout=60)
    EventsWorker.drain_all(timeout=60)
    settled = _of(server)
    while True:  # what the server writes after it has answered
        time.sleep(2)
        if (now := _of(server)) - settled < 0.05:
            break
        settled = now
    seconds += [time.process_time() - before[0], now - before[1]]


def _of(server: psutil.Process | None) -> float:
    if server is None:
        return 0.0
    family = [server, *server.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def server_process() -> psutil.Process | None:
    """The server that Prefect uses here; None where it is on another machine."""
    if (url := prefect_server()) is None:
        own = temporary_server()
        own.start()
        assert own.server_process is not None
        return psutil.Process(own.server_process.pid)
    port = int(url.split(":")[2].split("/")[0])
    for one in psutil.net_connections("tcp"):
        listens = one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
        if listens and one.pid:
            return psutil.Process(one.pid)
    return None


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    config = config_of_run(given.run)
    _rows[:] = read_metrics(config.run_dir)
    artifacts.TELL_EVERY_S = 0.0
    server = server_process()
    chunks = len(Ledger(config.run_dir).rows())
    say(f"{config.run_name}: {len(_rows)} steps in {chunks} chunks; {given.times} times each")
    found: dict[bool, list[list[float]]] = {True: [], False: []}
    for told in [True, False, *[True, False] * given.times]:
        with computing(server) as seconds:
            _tell(config, told)
        found[told].append(seconds)
    ours = {
        told: [median(one) for one in zip(*each[1:], strict=True)]  # the first one warms up
        for told, each in found.items()
    }
    for place, name in enumerate(("this process", "the server")):
        told, alone = ours[True][place], ours[False][place]
        say(f"{name}: {told:.2f} s with the records, {alone:.2f} s without")
    extra = sum(ours[True]) - sum(ours[False])
    say(f"the records: {extra:.2f} s, {extra / chunks:.3f} s a chunk; {extra / 6:.2f}% of 10 min")
    finish_temporary_server()


if __name__ == "__main__":
    main()
