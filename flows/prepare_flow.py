"""A dataset to Parquet: `python flows/prepare_flow.py --data.source FOLDER_OR_HUB_ID`."""

import sys

from tasks.environment import settle_prefect

settle_prefect()

from prefect import flow  # noqa: E402

from flows.command import run_as_command  # noqa: E402
from tasks.prepare import prepare as prepare_dataset  # noqa: E402
from tasks.temporary_server import guard_temporary_server  # noqa: E402
from visual_r1.config import RunConfig  # noqa: E402


@flow(name="prepare", on_running=[guard_temporary_server])
def prepare(config: RunConfig) -> dict[str, object]:
    """The dataset of `config`; returns its folder, digest and counts."""
    dataset = prepare_dataset(config)
    counts = {split: len(dataset.problems(split)) for split in ("train", "validation", "test")}
    print(f"{dataset.folder}: " + ", ".join(f"{n} {split}" for split, n in counts.items()))
    return {"folder": str(dataset.folder), "digest": dataset.digest, **counts}


if __name__ == "__main__":
    sys.exit(run_as_command(prepare))
