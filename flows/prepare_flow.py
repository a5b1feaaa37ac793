"""A dataset to Parquet: `python flows/prepare_flow.py --data.source FOLDER_OR_HUB_ID`."""

import sys

from flows.command import first_look, run_as_command
from tasks.environment import settle_prefect

if __name__ == "__main__":
    first_look(needs_server=False)
settle_prefect()

from prefect import flow

from tasks.tasks import prepare as prepare_dataset
from tasks.temporary_server import guard_temporary_server
from visual_r1.config import RunConfig
from visual_r1.printing import say


@flow(name="prepare", on_running=[guard_temporary_server])
def prepare(config: RunConfig) -> dict[str, object]:
    """The dataset of `config`; returns its folder, digest and counts."""
    dataset = prepare_dataset(config, needs=[])
    counts = dict(dataset.counts)
    shown = ", ".join(f"{count} {name}" for name, count in counts.items())
    say(f"{dataset.folder}: {shown}; its README.md tells more")
    return {"folder": str(dataset.folder), "digest": dataset.digest, **counts}


if __name__ == "__main__":
    sys.exit(run_as_command(prepare, needs_server=False))
