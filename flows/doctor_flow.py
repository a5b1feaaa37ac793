"""`visual-r1 doctor` as a deployment: its findings are a page in Prefect's UI."""

from typing import Any

from tasks.environment import settle_prefect

settle_prefect()

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.doctor import prefect_settings
from tasks.forms import form
from tasks.outcome import SERVER_FAILURES, remembered
from tasks.parameters import chosen_config
from tasks.records.ending import concluded
from tasks.records.names import artifact_key
from tasks.slots import its_turn
from visual_r1.config import RunConfig
from visual_r1.doctor.examination import examine
from visual_r1.doctor.markdown import report, verdict
from visual_r1.errors import ConfigError
from visual_r1.printing import open_logger, say

logger = open_logger("visual_r1.flows")


@remembered
@concluded
@form(
    "run_name",
    "steps",
    "model",
    "data",
    measure={
        "type": "boolean",
        "default": False,
        "description": "Also run one real step, on an adapter that is thrown away: it costs what a "
        "step costs.",
    },
    budget={
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Also propose a run that so many US dollars pay for.",
    },
)
@flow(
    name="doctor",
    description="Looks at a run before it is started: what will fail, and what it will take.",
    validate_parameters=False,
)
def doctor(
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    config: RunConfig | None = None,
    measure: bool = False,
    budget: float | None = None,
) -> State:
    """Examine the run that the parameters describe; Failed where it would fail."""
    config = chosen_config(preset, overrides, config)
    with its_turn(config):
        examination = examine(config, measure=measure, budget=budget)
    examination.add(*prefect_settings(config))
    page = report(examination, config)
    say(page)
    try:
        create_markdown_artifact(
            page,
            key=artifact_key(config, "doctor"),
            description=f"What the doctor found in {config.run_name}.",
        )
    except SERVER_FAILURES as error:
        logger.warning("Prefect has no artifact of the findings (%s).", type(error).__name__)
    errors = [one for one in examination.diagnoses if one.severity == "error"]
    if errors:
        told = " ".join(f"{one.subject}: {one.says} {one.advice}".strip() for one in errors)
        raise ConfigError(f"{verdict(examination)}. {told}")
    return Completed(message=f"{config.run_name}: {verdict(examination)}")
