"""A dataset to Parquet: `python flows/prepare_flow.py --data.source FOLDER_OR_HUB_ID`."""

import sys

from tasks.interruption import listen

if __name__ == "__main__":
    listen()

from flows.command import first_look, run_as_command
from tasks.environment import settle_prefect

if __name__ == "__main__":
    first_look(needs_server=False)
settle_prefect()

from typing import Any

from prefect import flow

from tasks.forms import form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.records.ending import concluded
from tasks.records.record import conclude_preparation, open_record
from tasks.tasks import prepare as prepare_dataset
from visual_r1.config import RunConfig
from visual_r1.printing import say


@remembered
@concluded
@form("data")
@flow(
    name="prepare",
    description="Reads a source of problems, checks and mends each row, and writes the dataset as "
    "Parquet; a source that was prepared before is looked at and left as it is.",
    validate_parameters=False,
)
def prepare(
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    config: RunConfig | None = None,
) -> dict[str, object]:
    """The dataset of the configuration; returns its folder, digest and counts."""
    config = chosen_config(preset, overrides, config, asks_server=False)
    with open_record(config, "prepare"):
        dataset = prepare_dataset(config, needs=[])
        counts = dict(dataset.counts)
        shown = ", ".join(f"{count} {name}" for name, count in counts.items())
        conclude_preparation(config, dataset)
        say(f"{dataset.folder}: {shown}; its README.md tells more")
        return {"folder": str(dataset.folder), "digest": dataset.digest, **counts}


if __name__ == "__main__":
    sys.exit(run_as_command(prepare, needs_server=False))
