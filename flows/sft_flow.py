"""A cold start: prepare, evaluate, learn responses in chunks, export, evaluate again, report.

    python flows/sft_flow.py --data.source solved.parquet       # responses in its column `response`
    python flows/sft_flow.py --data.source solved.parquet --sft.responses solution --run.name cold
    python flows/train_flow.py --model.start_from cold          # reinforcement from where it ended
    python flows/sft_flow.py --help                             # every setting is a flag

Kill it at any moment and start it again: it goes on from the last checkpoint.
"""

import sys
from collections.abc import Sequence

from tasks.interruption import listen

if __name__ == "__main__":
    listen()

from flows.command import first_look, run_as_command
from tasks.environment import settle_prefect
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config


def load(arguments: Sequence[str] | None) -> RunConfig:
    """The configuration of the command line, of a run that learns responses."""
    from visual_r1.sft.settings import supervised

    return supervised(load_config(arguments))


if __name__ == "__main__":
    first_look(load=load)
settle_prefect()

from typing import Any

from prefect import State, flow

from flows.train_flow import from_data_to_report
from tasks.forms import form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.records.ending import concluded
from visual_r1.runs.goal import require_goal


@remembered
@concluded
@form("run_name", "steps", "more_steps", "model", "start_from", "data", "responses")
@flow(
    name="sft",
    description="Learns the responses that a dataset brings along, between two evaluations; its "
    "last checkpoint is where reinforcement can start from.",
    validate_parameters=False,
)
def sft(
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    config: RunConfig | None = None,
) -> dict[str, object] | State:
    """One run, from the data to the report; returns the summary, or how an alarm paused it."""
    return from_data_to_report(
        chosen_config(preset, overrides, config, begins=True, supervises=True)
    )


if __name__ == "__main__":
    sys.exit(run_as_command(sft, check=require_goal, load=load, begins=True))
