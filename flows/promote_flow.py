"""A run's checkpoint to the current model, or the reason why not.

    visual-r1 promote runs/quickstart-0a1b2c3d                  # its newest checkpoint
    visual-r1 promote quickstart-0a1b2c3d --checkpoint best --name geometry
    visual-r1 promote quickstart-0a1b2c3d --force --because "…" # a person decides

It is compared with the current model of that name on the same test problems, as pairs; without one
with the base model. See `visual_r1.promotion.judgement` for the rule. The record with its evidence
is models/<name>.json. `flows.by_run` is the command; its exit status 4: it was not promoted.
"""

from tasks.environment import settle_prefect

settle_prefect()

from typing import Any

from prefect import State, flow

from tasks.forms import CHECKPOINT, RUN, form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.promotion import promote_checkpoint, promotion_state
from tasks.records.ending import conclude, concluded
from tasks.records.record import open_record
from tasks.slots import its_turn
from tasks.tasks import prepare
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.validations import named_checkpoint


@remembered
@concluded
@form(
    run=RUN,
    checkpoint=CHECKPOINT,
    name={
        "type": "string",
        "description": "Which model it is to be: models/NAME.json; by default the run's preset.",
    },
    force={
        "type": "boolean",
        "default": False,
        "description": "A person decides, whatever the figures say; the reason is kept.",
    },
    because={
        "type": "string",
        "description": "The reason of a person who decides.",
    },
)
@flow(
    name="promote",
    description="Makes a run's checkpoint the current model where it is better than the one before "
    "it on the same problems, or says why not.",
    validate_parameters=False,
)
def promote(
    run: str | None = None,
    checkpoint: str = "final",
    name: str | None = None,
    force: bool = False,
    because: str = "",
    overrides: dict[str, Any] | None = None,
    preset: str | None = None,
    config: RunConfig | None = None,
) -> dict[str, Any] | State:
    """Promote a checkpoint of the run to the model `name`; returns whether, and why."""
    config = chosen_config(preset, overrides, config, run=run)
    row = named_checkpoint(config.run_dir, checkpoint)
    with (
        its_turn(config),
        open_run_folder(config, trains=False),
        open_backend(config),
        open_record(config, f"promote step-{row.step}"),
    ):
        dataset = prepare(config, ["test"])
        outcome = promote_checkpoint(config, dataset, row, name, force=force, because=because)
        conclude(outcome["why"])
        return promotion_state(outcome)
