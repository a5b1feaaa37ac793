"""From what a user writes to the runs, and what is refused before the first is trained."""

from pathlib import Path
from typing import Any

import pytest

from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError, RunError
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.sweeps.folder import open_sweep_folder
from visual_r1.sweeps.members import require_startable
from visual_r1.sweeps.plan import Plan, draw, make_plan
from visual_r1.sweeps.sweep import RandomDraws, Sweep, read_sweep, sweep_of

RATE, SIZE = "train.learning_rate", "train.group_size"


def plan_of(base: dict[str, Any] | None = None, **sweep: Any) -> Plan:
    values = {"preset": "quickstart"} | (base or {})
    return make_plan(Sweep(name="tried", **sweep), RunConfig.model_validate(values))


def labels(plan: Plan) -> list[str]:
    return [member.name for member in plan.members]


def test_a_grid_with_seeds_is_every_combination_with_every_seed():
    plan = plan_of(grid={RATE: [3e-4, 1e-3], SIZE: [4, 8]}, seeds=[0, 5])
    assert [setting.label for setting in plan.settings] == [
        "group_size=4, learning_rate=0.0003",
        "group_size=8, learning_rate=0.0003",
        "group_size=4, learning_rate=0.001",
        "group_size=8, learning_rate=0.001",
    ]
    assert [member.seed for member in plan.members] == [0, 5] * 4
    first = plan.members[1].config
    assert (first.train.learning_rate, first.train.group_size, first.train.seed) == (3e-4, 4, 5)
    assert len({member.run for member in plan.members}) == 8


def test_a_member_has_the_name_that_the_run_has_by_itself():
    member = plan_of(grid={RATE: [3e-4]}).members[0]
    alone = RunConfig.model_validate({"preset": "quickstart", "train": {"learning_rate": 3e-4}})
    assert member.run == alone.run_name
    assert member.config == alone


def test_values_that_join_leave_the_runs_from_before():
    before = {member.run for member in plan_of(grid={RATE: [3e-4, 1e-3]}, seeds=[0]).members}
    after = {
        member.run for member in plan_of(grid={RATE: [1e-3, 3e-4, 3e-3]}, seeds=[0, 1]).members
    }
    assert before < after


def test_a_list_stands_as_it_is_and_an_empty_one_is_the_base():
    plan = plan_of(combinations=[{}, {RATE: 1e-4, SIZE: 16}])
    assert labels(plan) == ["base seed=0", "group_size=16, learning_rate=0.0001 seed=0"]
    assert plan.members[0].config == plan.base


def test_what_is_asked_for_twice_is_trained_once():
    plan = plan_of(grid={RATE: [1e-4, 1e-4]}, combinations=[{RATE: 1e-4}], seeds=[1, 1])
    assert labels(plan) == ["learning_rate=0.0001 seed=1"]


def test_a_grid_over_train_seed_is_seeds():
    (setting,) = plan_of(grid={"train.seed": [3, 4]}).settings
    assert (setting.label, [member.seed for member in setting.members]) == ("base", [3, 4])


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ({"grid": {"train.learnin_rate": [1]}}, "did you mean train.learning_rate"),
        ({"grid": {RATE: [1e-3, -1]}}, r"learning_rate=-1 .*greater than 0"),
        ({"grid": {SIZE: [4, 1]}, "seeds": [0, 1]}, r"group_size=1 .*greater than or equal to 2"),
        ({"grid": {"algorithm.minibatches": [1, 999]}}, "a step has 128 samples"),
        ({"combinations": [{}, {"train": 5}]}, "train"),
        ({"grid": {"logging.wandb": [True, False]}}, "logging.wandb make no other run"),
        ({"grid": {"train.more_steps": [5]}}, "all train to train.steps"),
        ({"grid": {"run.promote_as": ["best"]}}, "the best of many"),
        ({"grid": {"sft.responses": ["response"]}}, "makes this a supervised run"),
        ({"grid": {"train.steps": [10, 20]}}, "train.steps make no other run"),
        ({"seeds": [0], "grid": {"train.seed": [1]}}, "are the same setting"),
        ({"seeds": list(range(101))}, r"101 runs .*max_members of 100"),
    ],
)
def test_what_is_wrong_in_any_member_is_said(sweep: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says) as raised:
        plan_of(**sweep)
    assert "\n" not in str(raised.value)


def test_a_base_that_is_one_run_alone_is_refused():
    for base in (
        {"run": {"name": "mine"}},
        {"train": {"resume_from_step": 4}},
        {"train": {"more_steps": 4}},
    ):
        with pytest.raises(ConfigError, match="of one run alone"):
            plan_of(base, seeds=[0])


def test_the_runs_of_a_sweep_are_not_promoted_one_by_one():
    with pytest.raises(ConfigError, match="the best of many is promoted in part by luck"):
        plan_of({"run": {"promote_as": "nightly"}}, seeds=[0, 1])


# The file.


def test_a_file_is_read_with_quoted_names_and_with_tables(tmp_path: Path):
    path = tmp_path / "rates.toml"
    path.write_text(
        'seeds = [0]\n[grid]\ntrain.learning_rate = [1e-3]\n"train.group_size" = [4, 8]\n'
        "[random]\ncount = 2\n[random.settings]\n"
        "train.learning_rate = {log_uniform = [1e-4, 1e-3]}\n"
        "[halving]\nsteps = [20]\n"
    )
    sweep = read_sweep(path)
    assert sweep.name == "rates"
    assert sweep.grid == {RATE: [1e-3], SIZE: [4, 8]}
    assert sweep.random is not None
    assert sweep.random.settings[RATE].log_uniform == (1e-4, 1e-3)
    assert sweep.halving is not None
    assert sweep.halving.eta == 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "nothing is varied"),
        ({"gird": {RATE: [1]}}, "gird: there is no such key; a sweep has name, seeds, grid"),
        ({"grid": {RATE: []}}, "train.learning_rate has no value"),
        ({"grid": {RATE: 1e-3}}, "grid.train.learning_rate: input should be a valid list"),
        ({"random": {"count": 1, "settings": {RATE: {"uniform": [2, 1]}}}}, "smaller to a larger"),
        ({"random": {"count": 1, "settings": {RATE: {"log_uniform": [0, 1]}}}}, "positive"),
        ({"random": {"count": 1, "settings": {RATE: {"integer": True}}}}, "is one of uniform"),
        ({"seeds": [0], "halving": {"steps": [20, 10]}}, "each larger than the last"),
        ({"seeds": [0], "name": "a/b"}, "without slashes"),
    ],
)
def test_what_is_wrong_with_the_file_is_one_sentence(values: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says) as raised:
        sweep_of({"name": "tried"} | values, "rates.toml")
    assert str(raised.value).startswith("The sweep in rates.toml cannot be read: ")


# Draws.


def draws(count: int, seed: int = 0, **more: dict[str, Any]) -> list[dict[str, Any]]:
    settings = {RATE: {"log_uniform": [1e-4, 1e-2]}} | more
    return draw(RandomDraws.model_validate({"count": count, "seed": seed, "settings": settings}))


def test_draws_are_the_same_again_and_more_of_them_leave_the_first():
    assert draws(4) == draws(9)[:4]
    assert draws(4) != draws(4, seed=1)
    beside = draws(4, **{SIZE: {"choice": [4, 8]}})
    assert [one[RATE] for one in beside] == [one[RATE] for one in draws(4)]


def test_draws_follow_their_rules():
    many = draws(
        400,
        **{
            SIZE: {"uniform": [2, 16], "integer": True},
            "algorithm.advantage": {"choice": ["grpo", "rloo"]},
            "train.clip_epsilon": {"uniform": [0.1, 0.3]},
        },
    )
    rates = [one[RATE] for one in many]
    assert all(1e-4 <= rate <= 1e-2 and rate == float(f"{rate:.4g}") for rate in rates)
    # Half of them in each decade; uniform draws would put 9 of 10 into the upper one.
    assert 160 < sum(rate < 1e-3 for rate in rates) < 240
    assert {one[SIZE] for one in many} == set(range(2, 17))
    assert 160 < sum(one["algorithm.advantage"] == "grpo" for one in many) < 240
    assert 0.19 < sum(one["train.clip_epsilon"] for one in many) / 400 < 0.21


# The folder.


def test_the_plan_is_kept_and_says_what_joined_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    base = {"output_dir": str(tmp_path)}
    with open_sweep_folder(plan_of(base, grid={RATE: [1e-4, 1e-3]})) as folder:
        assert folder == tmp_path / "sweeps/tried"
    assert not caplog.messages
    changed = plan_of(base, grid={RATE: [1e-3, 1e-2]})
    with (
        open_sweep_folder(changed),
        pytest.raises(RunError, match="by another process"),
        open_sweep_folder(changed),
    ):
        pass
    assert "have joined: learning_rate=0.01 seed=0" in caplog.messages[0]
    assert "have left; their runs stay where they are: learning_rate=0.0001" in caplog.messages[1]
    plan_file = tmp_path / "sweeps/tried/plan.json"
    plan_file.write_text(plan_file.read_text().replace("0.01", "0.02"))
    with open_sweep_folder(changed):
        assert "is damaged" in caplog.messages[2]


def test_a_run_that_went_further_is_found_before_the_first_is_trained(tmp_path: Path):
    plan = plan_of({"output_dir": str(tmp_path)}, grid={RATE: [1e-4, 1e-3]})
    require_startable(plan)
    with open_run_folder(plan.members[1].config) as run_dir:
        Ledger(run_dir).append(
            LedgerRow(
                step=80,
                state_path="tinker://a/weights/s",
                sampler_path="tinker://a/sampler_weights/s",
                expires_at=None,
                config_digest=plan.members[1].config.digest(),
                dataset_digest="0",
                backend="embedded",
                created_at="2026-01-01T00:00:00+00:00",
                updates=80,
            )
        )
    with pytest.raises(RunError, match=r"learning_rate=0.001 seed=0\) has trained 80 steps"):
        require_startable(plan)
