"""What `deployments/prefect.yaml` promises."""

from pathlib import Path

import yaml

from visual_r1.config import RunConfig, read_preset

ROOT = Path(__file__).parents[2]


def quickstart() -> dict[str, object]:
    (deployment,) = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    return deployment


def test_the_form_in_the_ui_shows_the_preset_written_out() -> None:
    given = quickstart()["parameters"]["config"]
    assert given == {"preset": "quickstart", **read_preset("quickstart")}
    assert RunConfig.model_validate(given) == RunConfig(preset="quickstart")


def test_a_form_filled_with_every_default_is_the_same_run() -> None:
    filled = RunConfig(preset="quickstart").model_dump(mode="json")
    assert RunConfig.model_validate(filled).digest() == RunConfig(preset="quickstart").digest()


def test_the_schedule_waits_to_be_switched_on() -> None:
    deployment = quickstart()
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert deployment["work_pool"]["name"] == "visual-r1"
