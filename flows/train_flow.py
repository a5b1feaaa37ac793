"""Prepare, evaluate the base model, train in chunks, export, evaluate again, report.

    python flows/train_flow.py                      # the quickstart: no account, no GPU
    python flows/train_flow.py --preset geometry3k  # hosted Tinker, with TINKER_API_KEY
    python flows/train_flow.py --help               # every setting is a flag

Kill it at any moment and start it again: it goes on from the last checkpoint.
"""

import sys

from tasks.interruption import listen

if __name__ == "__main__":
    listen()

from flows.command import begin_server_ahead, first_look, run_as_command, tell_done
from tasks.environment import settle_prefect

is_done = __name__ == "__main__" and first_look(may_be_done=True)
settle_prefect()
if is_done:
    tell_done()
if __name__ == "__main__":
    begin_server_ahead()

from typing import Any

from prefect import State, flow

from tasks.alarms import heed_alarms
from tasks.costs import heed_budget, settle_bill
from tasks.forms import form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.promotion import promote_checkpoint
from tasks.records.ending import concluded
from tasks.records.record import open_record
from tasks.slots import its_turn
from tasks.stop_button import heed_stop
from tasks.tasks import (
    evaluate,
    export,
    prepare,
    settle_labels,
    settle_ledger,
    settle_rows,
    settle_start,
    summarize,
    train_chunk,
    validate,
)
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.doctor.budget import require_first_chunk
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.goal import require_goal
from visual_r1.runs.nearest import say_why_anew
from visual_r1.stopwatch import Stopwatch


@remembered
@concluded
@form("run_name", "steps", "more_steps", "model", "start_from", "data")
@flow(
    name="train",
    description="Prepares the data, evaluates what it begins with, trains, evaluates again and "
    "reports; a run that was stopped goes on from its last checkpoint.",
    validate_parameters=False,
)
def train(
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    config: RunConfig | None = None,
) -> dict[str, object] | State:
    """One run, from the data to the report; returns the summary, or how an alarm paused it."""
    return from_data_to_report(chosen_config(preset, overrides, config, begins=True))


def from_data_to_report(config: RunConfig) -> dict[str, object] | State:
    """The page of both flows that train: this one, and `flows.sft_flow`."""
    with (
        its_turn(config),
        open_run_folder(config) as run_dir,
        open_backend(config),
        open_record(config),
    ):
        say_why_anew(config)
        stopwatch = Stopwatch(run_dir)
        dataset = prepare(config)
        settle_labels(config, dataset)
        settle_start(config, dataset)
        settle_rows(config, dataset)
        require_first_chunk(config, dataset)
        evaluate(config, dataset, "baseline", config.model.start_from)
        require_first_chunk(config, dataset)  # by what that has shown of its answers
        stopwatch.lap()

        settle_ledger(config, dataset)
        checkpoint = None
        validate(config, dataset, checkpoint)
        while checkpoint is None or checkpoint.step < config.train.steps:
            checkpoint = train_chunk(config, dataset, checkpoint)
            validate(config, dataset, checkpoint)
            stopwatch.lap()
            if (paused := heed_alarms(config, checkpoint)) is not None:
                return paused
            heed_stop(config, checkpoint)
            if heed_budget(config, dataset, checkpoint):
                break

        exported = export(config, dataset, checkpoint)
        evaluate(config, dataset, "final", exported["sampler_path"])
        settle_bill(config)
        summary = summarize(config, checkpoint, stopwatch.lap())
        if config.run.promote_as:
            promote_checkpoint(config, dataset, checkpoint, config.run.promote_as)
        return summary


if __name__ == "__main__":
    sys.exit(run_as_command(train, check=require_goal, begins=True))
