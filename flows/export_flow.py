"""A checkpoint of a run to a PEFT adapter.

    visual-r1 export runs/quickstart-0a1b2c3d --checkpoint best
    visual-r1 export quickstart-0a1b2c3d --into adapters/geometry

It is written under `exports/step-40/adapter/` of the run, with the digests of its files beside it;
`into` gives another name there, or a folder elsewhere that gets a copy. With `check` it is compared
with what the server says, with `merge` a full model is written too, and `push` uploads it.
`flows.by_run` is the command.
"""

from tasks.environment import settle_prefect

settle_prefect()

from pathlib import Path
from typing import Any

from prefect import flow

from tasks.exporting import Wishes, complete
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
from visual_r1.exports.contents import alone_in, require_room_for
from visual_r1.exports.record import read_export
from visual_r1.printing import say
from visual_r1.runs.export import copy_adapter, place_of_export, with_reference_of
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.run import open_run
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
    merge={
        "type": "boolean",
        "default": False,
        "description": "Also write a full model: the base model with the adapter added.",
    },
    push={
        "type": "string",
        "description": "A repository of the Hugging Face hub, OWNER/NAME; it is made private.",
    },
    check={
        "type": "boolean",
        "default": False,
        "description": "Compare what PEFT computes with what the server says of 32 prompts.",
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
    merge: bool = False,
    push: str | None = None,
    check: bool = False,
    overrides: dict[str, Any] | None = None,
    preset: str | None = None,
    config: RunConfig | None = None,
) -> dict[str, object]:
    """Export a checkpoint (best, final or a step) of the run; where the adapter is."""
    wishes = Wishes(merge=merge, check=check, push=push)
    wishes.require_possible()
    config = chosen_config(preset, overrides, config, run=run)
    row = named_checkpoint(config.run_dir, checkpoint)  # before a folder is made, or a server asked
    name, copy = place_of_export(into, row)
    if copy is not None:
        require_room_for(config.model.name, copy)
    with (
        its_turn(config),
        open_run_folder(config, trains=False),
        open_backend(config),
        open_record(config, f"export step-{row.step}"),
    ):
        dataset = prepare(config, needs=["test"] if check else [])
        exported = export_checkpoint(config, dataset, row, name)
        if check:
            with open_run(config, dataset) as opened:
                with_reference_of(opened, row, name)
        with alone_in(config.run_dir / name, wait=True):
            made = read_export(config.run_dir, name)
            assert made is not None, "the task wrote it, or found it there"
            url = complete(config.run_dir / name, made, wishes, config)
        adapter = Path(str(exported["adapter"]))
        if copy is not None:
            adapter = copy_adapter(config.run_dir, name, copy)
        say(told := f"step {row.step}: {adapter}")
        conclude(told)
        return exported | {"adapter": str(adapter), "pushed": url}
