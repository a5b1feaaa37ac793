"""Prepare, evaluate the base model, train in chunks, export, evaluate again, report.

    python flows/train_flow.py                      # the quickstart: no account, no GPU
    python flows/train_flow.py --preset geometry3k  # hosted Tinker, with TINKER_API_KEY
    python flows/train_flow.py --help               # every setting is a flag

Kill it at any moment and start it again: it goes on from the last checkpoint.
"""

import sys

from tasks.environment import settle_prefect

settle_prefect()

from prefect import flow  # noqa: E402

from flows.command import run_as_command  # noqa: E402
from tasks.evaluate import evaluate  # noqa: E402
from tasks.export import export  # noqa: E402
from tasks.prepare import prepare  # noqa: E402
from tasks.summarize import summarize  # noqa: E402
from tasks.temporary_server import guard_temporary_server  # noqa: E402
from tasks.train_chunk import settle_ledger, train_chunk  # noqa: E402
from visual_r1.backend import open_backend  # noqa: E402
from visual_r1.config import RunConfig  # noqa: E402
from visual_r1.run_folder import open_run_folder  # noqa: E402
from visual_r1.stopwatch import Stopwatch  # noqa: E402


@flow(name="train", on_running=[guard_temporary_server])
def train(config: RunConfig) -> dict[str, object]:
    """One run, from the data to the report; returns the summary."""
    with open_run_folder(config) as run_dir, open_backend(config):
        stopwatch = Stopwatch(run_dir)
        dataset = prepare(config)
        evaluate(config, dataset, "baseline")
        stopwatch.lap()

        settle_ledger(config, dataset)
        checkpoint = None
        while checkpoint is None or checkpoint.step < config.train.steps:
            checkpoint = train_chunk(config, dataset, checkpoint)
            stopwatch.lap()

        exported = export(config, checkpoint)
        evaluate(config, dataset, "final", exported["sampler_path"])
        return summarize(config, checkpoint, stopwatch.lap())


if __name__ == "__main__":
    sys.exit(run_as_command(train))
