"""What a flow is given: by short names, overrides or a whole configuration, and on which server."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.utilities.callables import parameter_schema, parameters_to_args_kwargs
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.doctor_flow import doctor
from flows.evaluate_flow import evaluate
from flows.export_flow import export
from flows.prepare_flow import prepare
from flows.promote_flow import promote
from flows.sweep_flow import sweep
from flows.train_flow import train
from tasks.forms import SHORT, form
from tasks.parameters import chosen_config, with_short_names
from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig, preset_names
from visual_r1.config.names import settings
from visual_r1.errors import ConfigError
from visual_r1.runs.folder import open_run_folder

FLOWS = [train, prepare, evaluate, doctor, export, promote, sweep]
KEYS = {"TINKER_API_KEY": "tml-a-key", "TINKER_BASE_URL": "http://127.0.0.1:1"}


@pytest.fixture
def in_a_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process that a worker starts."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "3d5a1f0c-0000-0000-0000-000000000000")


def test_a_preset_with_overrides_or_nothing_at_all() -> None:
    assert chosen_config(None, None, None) == RunConfig(preset="quickstart")
    assert chosen_config("seed", {}, {}) == RunConfig(preset="seed")
    assert chosen_config("quickstart", {"train.steps": 6}, None).train.steps == 6


def test_a_configuration_of_a_program_is_taken_as_it_is() -> None:
    config = RunConfig(preset="quickstart")
    assert chosen_config("quickstart", None, config) is config
    with pytest.raises(ConfigError, match="both are given"):
        chosen_config(None, {"train.steps": 6}, config)


@pytest.mark.parametrize(
    ("overrides", "named", "made"),
    [
        (None, {"train.steps": 6}, {"train.steps": 6}),
        ({"train.seed": 1}, {"train.steps": 6}, {"train.seed": 1, "train.steps": 6}),
        ({"train.steps": 6}, {"train.steps": 6, "run.name": ""}, {"train.steps": 6}),
        ({"train": {"steps": 6}}, {"train.steps": None}, {"train.steps": 6}),
    ],
)
def test_short_names_are_overrides(
    overrides: dict[str, Any] | None, named: dict[str, Any], made: dict[str, Any]
) -> None:
    assert with_short_names(overrides, named, SHORT) == made


def test_a_setting_by_both_its_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^steps is 6, and overrides give train.steps 7"):
        with_short_names({"train": {"steps": 7}}, {"train.steps": 6}, SHORT)


@pytest.mark.usefixtures("in_a_deployment")
@pytest.mark.parametrize("preset", ["quickstart", "vision_sr1"])
@pytest.mark.parametrize("overrides", [{}, {"backend.server": "auto"}])
def test_a_key_alone_moves_no_deployment_to_a_server_that_costs_money(
    preset: str, overrides: dict[str, Any]
) -> None:
    config = chosen_config(preset, overrides, None)
    assert choose_kind(config, KEYS) == "embedded"
    assert config.digest() == RunConfig(preset=preset).digest()


@pytest.mark.usefixtures("in_a_deployment")
@pytest.mark.parametrize("preset", ["geometry3k", "seed"])
def test_a_deployment_that_needs_a_server_has_to_name_it(preset: str) -> None:
    with pytest.raises(ConfigError, match=r'overrides \{"backend.server": "remote"\}'):
        chosen_config(preset, {}, None)
    remote = chosen_config(preset, {"backend.server": "remote"}, None)
    assert choose_kind(remote, {"TINKER_API_KEY": "tml-a-key"}) == "hosted"
    own = chosen_config(preset, {"backend.base_url": "http://127.0.0.1:9"}, None)
    assert choose_kind(own, {}) == "self-hosted"
    embedded = chosen_config(preset, {"backend.server": "embedded"}, None)
    assert choose_kind(embedded, KEYS) == "embedded"
    # What asks no server is not asked for one.
    assert chosen_config(preset, {}, None, asks_server=False).preset == preset


@pytest.mark.usefixtures("in_a_deployment")
def test_a_whole_configuration_is_no_way_around_it() -> None:
    with pytest.raises(ConfigError, match="needs a Tinker server"):
        chosen_config(None, None, RunConfig(preset="geometry3k"))
    with pytest.raises(ConfigError, match="needs a Tinker server"):
        chosen_config(None, None, {"preset": "geometry3k"})


@pytest.mark.usefixtures("in_a_deployment")
@pytest.mark.parametrize("stored", [{"server": "remote"}, {"base_url": "http://127.0.0.1:9"}])
def test_the_server_that_a_run_was_trained_on_is_no_parameter(
    stored: dict[str, str], tmp_path: Path
) -> None:
    begun = RunConfig.model_validate(
        {"preset": "geometry3k", "output_dir": tmp_path, "run": {"name": "old"}, "backend": stored}
    )
    with open_run_folder(begun):
        pass
    for said in ({}, {"backend.server": "auto"}, {"evaluation.problems": 8}):
        with pytest.raises(ConfigError, match="costs money only where its"):
            chosen_config(None, {"output_dir": str(tmp_path)} | said, None, run="old")
    named = {"output_dir": str(tmp_path), "backend.server": "remote"}
    assert chosen_config(None, named, None, run="old").backend.server == "remote"


@pytest.mark.usefixtures("in_a_deployment")
def test_a_model_in_a_folder_needs_no_server(tmp_path: Path) -> None:
    config = chosen_config("geometry3k", {"model.name": str(tmp_path)}, None)
    assert choose_kind(config, KEYS) == "embedded"


def test_on_the_command_line_the_environment_chooses_as_it_did() -> None:
    config = chosen_config("geometry3k", None, None)
    assert choose_kind(config, KEYS) == "self-hosted"
    assert choose_kind(config, {}) == "embedded"


@pytest.mark.usefixtures("in_a_deployment")
def test_a_run_that_cannot_be_leaves_no_folder(tmp_path: Path) -> None:
    wrong = {"output_dir": str(tmp_path), "run.name": "n-{n}", "prompt.template": "nope"}
    with pytest.raises(ConfigError, match="nope"):
        chosen_config("quickstart", wrong, None, begins=True)
    assert list(tmp_path.iterdir()) == []


# The form.


def schema(flow: Any) -> dict[str, Any]:
    return parameter_schema(flow).model_dump_for_openapi()


def refused(flow: Any, given: Mapping[str, Any]) -> str:
    """What the server says of parameters; an empty text where it takes them."""
    try:
        validate(dict(given), schema(flow), raise_on_error=True)
    except ValidationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_of_a_form_is_described_for_its_reader(flow: Any) -> None:
    fields = schema(flow)["properties"]
    names = list(fields)
    assert names[0] == "preset"
    assert names[-2:] == ["overrides", "config"]
    assert [fields[name]["position"] for name in names] == list(range(len(names)))
    for name, field in fields.items():
        assert field["description"].endswith((".", ")")), name
        assert not set(field["description"]) & set("<>`"), "one of the two UIs shows it wrongly"
    assert fields["preset"]["enum"] == preset_names()
    assert flow.description != flow.fn.__doc__
    assert "`" not in flow.description
    assert set(names) == set(inspect.signature(flow.fn).parameters)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_form_that_is_left_empty_is_taken_and_says_nothing(flow: Any) -> None:
    """Both UIs post null for an empty field."""
    fields = schema(flow)["properties"]
    posted = {name: field.get("default") for name, field in fields.items()}
    assert refused(flow, posted) == ""
    assert posted["overrides"] == posted["config"] == {}
    args, kwargs = parameters_to_args_kwargs(flow.fn, posted)
    assert chosen_config(posted["preset"], posted["overrides"], posted["config"]) == RunConfig(
        preset="quickstart"
    )
    assert inspect.signature(flow.fn).bind(*args, **kwargs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "Quickstart"}, "'Quickstart' is not one of"),
        ({"steps": 0}, "0 is less than the minimum of 1"),
        ({"steps": "six"}, "'six' is not"),
        ({"overrides": {"train.steps": 0}}, "0 is less than the minimum of 1"),
        ({"overrides": {"algorithm.advantage": "grppo"}}, "'grppo' is not one of"),
        ({"overrides": []}, "[] is not of type 'object'"),
    ],
)
def test_the_server_refuses_what_is_out_of_bounds(given: dict[str, Any], said: str) -> None:
    assert said in refused(train, given)


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.steps": 6, "validation.problems": None, "limits.max_kl": "none"},
        {"train": {"steps": 6}},
        {"algorithm.loss_config": {"beta": 0.1}, "data.columns.keep": "a,b"},
        {"train.stepz": 6},  # of which the flow says more
    ],
)
def test_the_server_takes_what_the_flow_takes(overrides: dict[str, Any]) -> None:
    assert refused(train, {"overrides": overrides}) == ""


@pytest.mark.parametrize("preset", preset_names())
def test_the_server_takes_every_value_of_every_preset(preset: str) -> None:
    dumped = RunConfig(preset=preset).model_dump(mode="json")

    def value(name: str) -> Any:
        found: Any = dumped
        for part in name.split("."):
            found = found[part]
        return found

    assert refused(train, {"overrides": {name: value(name) for name in settings()}}) == ""


def test_a_parameter_that_is_not_described_is_in_the_form_by_its_type() -> None:
    def work(
        count: int, preset: str | None = None, overrides: Any = None, config: Any = None
    ) -> tuple[int, Any]:
        return count, overrides

    made = form("steps")(prefect.flow(work, validate_parameters=False))
    fields = schema(made)["properties"]
    assert list(fields) == ["preset", "count", "steps", "overrides", "config"]
    assert fields["count"]["type"] == "integer"
    assert schema(made)["required"] == ["count"]
    assert made.fn(count=3, steps=6, preset="") == (3, {"train.steps": 6})
    assert made.fn(3) == (3, None)
