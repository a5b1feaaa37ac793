"""What `deployments/prefect.yaml` promises."""

from pathlib import Path

import yaml

from visual_r1.config import RunConfig

ROOT = Path(__file__).parents[2]


def quickstart() -> dict[str, object]:
    (deployment,) = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    return deployment


def test_the_deployment_is_the_preset_with_nothing_over_it() -> None:
    assert quickstart()["parameters"] == {"preset": "quickstart", "overrides": {}}


def test_a_form_filled_with_every_default_is_the_same_run() -> None:
    filled = RunConfig(preset="quickstart").model_dump(mode="json")
    assert RunConfig.model_validate(filled).digest() == RunConfig(preset="quickstart").digest()


def test_the_schedule_waits_to_be_switched_on() -> None:
    deployment = quickstart()
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert deployment["work_pool"]["name"] == "visual-r1"
