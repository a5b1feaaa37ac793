"""What `deployments/prefect.yaml` promises."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from tasks.forms import SHORT
from tasks.parameters import chosen_config, with_short_names
from visual_r1.config import RunConfig, preset_names

ROOT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8")
)["deployments"]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))


def name_of(deployment: dict[str, Any]) -> str:
    return f"{flow_of(deployment).name}/{deployment['name']}"


def test_there_is_one_for_all_that_people_start() -> None:
    names = {name_of(deployment) for deployment in DEPLOYMENTS}
    assert {f"train/{preset}" for preset in preset_names()} < names
    others = {"prepare/dataset", "evaluate/checkpoint", "export/adapter", "promote/model"}
    assert others | {"train/nightly", "sweep/rates", "doctor/run", "sft/cold_start"} < names


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name_of)
def test_each_is_deployed_as_its_flow_takes_it(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert deployment["work_pool"]["name"] == "visual-r1"
    assert deployment["description"].endswith(".")
    assert flow.name in deployment["tags"]
    schema = parameter_schema(flow).model_dump_for_openapi()
    for schedule in [{}, *deployment.get("schedules", [])]:
        parameters = deployment["parameters"] | schedule.get("parameters", {})
        validate(parameters, schema, raise_on_error=True)
        short = {SHORT[name]: value for name, value in parameters.items() if name in SHORT}
        overrides = with_short_names(parameters["overrides"], short, SHORT)
        config = chosen_config(parameters.get("preset"), overrides, None, asks_server=False)
        assert config.preset in (deployment["name"], "quickstart")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name_of)
def test_every_schedule_waits_to_be_switched_on(deployment: dict[str, Any]) -> None:
    schedules = deployment.get("schedules", [])
    assert not any(schedule["active"] for schedule in schedules)
    assert all(schedule["timezone"] == "UTC" for schedule in schedules)
    slugs = [schedule["slug"] for schedule in schedules]
    assert len(set(slugs)) == len(slugs)


@pytest.mark.parametrize("preset", preset_names())
def test_the_deployment_of_a_preset_is_that_preset_with_nothing_over_it(preset: str) -> None:
    [deployment] = [one for one in DEPLOYMENTS if one["name"] == preset]
    assert deployment["parameters"] == {"preset": preset, "overrides": {}}
    assert chosen_config(preset, {}, None) == RunConfig(preset=preset)
