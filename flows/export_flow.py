"""A checkpoint of a run to a PEFT adapter.

    visual-r1 export runs/quickstart-0a1b2c3d --checkpoint best
    visual-r1 export quickstart-0a1b2c3d --into adapters/geometry

It is written under `exports/step-40/adapter/` of the run, with the digests of its files beside it;
`into` gives another name there, or a folder elsewhere that gets a copy. `flows.by_run` is the
command.
"""

from tasks.environment import settle_prefect

settle_prefect()

from pathlib import Path
from typing import Any

from prefect import flow

from tasks.forms import CHECKPOINT, RUN, form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.records.ending import conclude, concluded
from tasks.records.record import open_record
from tasks.slots import its_turn
from tasks.tasks import export as export_checkpoint
from tasks.tasks import prepare
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.printing import say
from visual_r1.runs.export import copy_adapter, place_of_export
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.validations import named_checkpoint


@remembered
@concluded
@form(
    run=RUN,
    checkpoint=CHECKPOINT,
    into={
        "type": "string",
        "description": "Where the adapter goes: a name under exports/ of the run, or a folder "
        "elsewhere; by default exports/step-40.",
    },
)
@flow(
    name="export",
    description="Writes a checkpoint of a run as an adapter that PEFT reads.",
    validate_parameters=False,
)
def export(
    run: str | None = None,
    checkpoint: str = "final",
    into: str | None = None,
    overrides: dict[str, Any] | None = None,
    preset: str | None = None,
    config: RunConfig | None = None,
) -> dict[str, object]:
    """Export a checkpoint (best, final or a step) of the run; where the adapter is."""
    config = chosen_config(preset, overrides, config, run=run)
    row = named_checkpoint(config.run_dir, checkpoint)  # before a folder is made, or a server asked
    name, copy = place_of_export(into, row)
    with (
        its_turn(config),
        open_run_folder(config, trains=False),
        open_backend(config),
        open_record(config, f"export step-{row.step}"),
    ):
        dataset = prepare(config, needs=[])
        exported = export_checkpoint(config, dataset, row, name)
        adapter = Path(str(exported["adapter"]))
        if copy is not None:
            adapter = copy_adapter(config.run_dir, name, copy)
        say(told := f"step {row.step}: {adapter}")
        conclude(told)
        return exported | {"adapter": str(adapter)}
