import math
import sys
from collections.abc import Generator
from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visual_r1.config import RewardSection, RunConfig
from visual_r1.data.problem import Problem
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import ConfigError, RewardError, RunError
from visual_r1.rewards import RewardInput, load_custom, score
from visual_r1.rewards.custom import CustomReward
from visual_r1.runs.folder import keep_files, require_same_files

ROOT = Path(__file__).parents[3]
SAMPLE = RewardInput(Problem("1", (b"",), "<image>Find C.", "62"), "<answer>62</answer>", seed=7)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A working directory of the test's own; what is imported from it is forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    load_custom.cache_clear()
    yield tmp_path
    load_custom.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def one_of(function: Any) -> CustomReward:
    return CustomReward("my_module:my_reward", function, None)


def test_it_is_found_in_the_working_directory_and_counts(here: Path) -> None:
    (here / "mine.py").write_text(
        "def my_reward(sample, grade):\n    return len(sample.response) + grade.right\n"
    )
    section = RewardSection(custom="mine:my_reward", custom_weight=0.5)
    scored = score(section, SAMPLE)
    assert scored.components["custom"] == 20
    without = score(RewardSection(), SAMPLE)
    assert scored.reward == pytest.approx(without.reward + 10)
    assert "custom" not in without.components
    assert load_custom("mine:my_reward").file == here / "mine.py"


def test_the_example_in_the_docs_runs(here: Path) -> None:
    text = (ROOT / "docs/rewards.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    (here / "brevity.py").write_text(example)
    reward = load_custom("brevity:few_words")
    graded = score(RewardSection(), SAMPLE).grade
    assert reward(SAMPLE, graded) == 1.0
    wordy = RewardInput(SAMPLE.problem, "<think>" + "so " * 200 + "</think><answer>62</answer>")
    assert 0.0 <= reward(wordy, graded) < 0.5
    wrong = score(RewardSection(), RewardInput(SAMPLE.problem, "<answer>1</answer>")).grade
    assert reward(SAMPLE, wrong) == 0.0


@pytest.mark.parametrize("value", [1, 0.5, True, np.float32(0.25), np.int64(3), Fraction(1, 2)])
def test_any_real_number_will_do(value: Any) -> None:
    assert one_of(lambda _, __: value)(SAMPLE, None) == float(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "returned nan, which is not finite"),
        (-math.inf, "returned -inf"),
        ("0.5", r"returned '0\.5' \(str\), which is no number"),
        (None, r"returned None \(NoneType\)"),
        ([1.0], r"returned \[1\.0\] \(list\)"),
        (1j, "complex"),
        (Decimal(1), "Decimal"),
        (10**400, "beyond all floats"),
        ("x" * 5000, "x…"),
    ],
)
def test_what_is_no_finite_number_names_the_function(value: Any, says: str) -> None:
    with pytest.raises(RewardError, match=rf"my_module:my_reward .*{says}") as caught:
        one_of(lambda _, __: value)(SAMPLE, None)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("scan"), r"KeyError: 'scan' \(test_custom_reward.py, line \d+\)"),
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (SystemExit(3), "SystemExit: 3"),
        (Unprintable(), "Unprintable: something that cannot be shown"),
        (ValueError("a\nb"), "ValueError: a b"),
    ],
)
def test_whatever_it_raises_names_the_function(error: BaseException, says: str) -> None:
    def my_reward(_: object, __: object) -> float:
        raise error

    with pytest.raises(RewardError, match=f"my_module:my_reward failed with {says}"):
        one_of(my_reward)(SAMPLE, None)  # type: ignore[arg-type]


def test_ctrl_c_goes_through() -> None:
    def my_reward(_: object, __: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_of(my_reward)(SAMPLE, None)  # type: ignore[arg-type]


def test_a_failure_costs_the_sample_its_reward_and_nothing_else(here: Path) -> None:
    (here / "fails.py").write_text("def my_reward(sample, grade):\n    return 1 / 0\n")
    scored = score(RewardSection(custom="fails:my_reward"), SAMPLE)
    assert scored.failure == (
        "fails:my_reward failed with ZeroDivisionError: division by zero (fails.py, line 2)"
    )
    assert scored.grade.right
    assert scored.components == score(RewardSection(), SAMPLE).components


def test_the_sample_cannot_be_changed(here: Path) -> None:
    (here / "meddles.py").write_text(
        "def my_reward(sample, grade):\n    sample.response = 'x'\n    return 1\n"
    )
    scored = score(RewardSection(custom="meddles:my_reward"), SAMPLE)
    assert FrozenInstanceError.__name__ in scored.failure


FAULTS = {
    "no colon": ("mine.my_reward", "", "another form than module:function"),
    "a file": ("./mine.py:my_reward", "", "a module is wanted: mine:my_reward, with mine.py in"),
    "no module": ("nowhere_at_all:f", "", "no module 'nowhere_at_all', neither installed nor in"),
    "no function": (
        "m0:my_rewrd",
        "import math\ndef my_reward(s, g): ...\ndef other(s, g): ...\n_x = 1\n",
        r"no function 'my_rewrd' in m0 \(.*m0.py\); it has my_reward, other\.",
    ),
    "nothing in it": ("m1:f", "", r"it has none\."),
    "no callable": ("m2:f", "f = 3\n", "no function 'f'"),
    "async": ("m3:f", "async def f(s, g): return 1\n", "must be a plain function"),
    "generator": ("m4:f", "def f(s, g): yield 1\n", "must be a plain function"),
    "one argument": ("m5:f", "def f(s): return 1\n", "must take two arguments.*too many"),
    "three": ("m6:f", "def f(s, g, h): return 1\n", "must take two arguments.*'h'"),
    "syntax": ("m7:f", "def f(:\n", r"importing m7 failed with SyntaxError: .*line 1\)\."),
    "its own import": (
        "m8:f",
        "import nowhere_at_all\n",
        "importing m8 failed with ModuleNotFound",
    ),
    "raises": ("m9:f", "raise OSError('no')\n", r"failed with OSError: no \(m9.py, line 1\)"),
    "exits": ("m10:f", "raise SystemExit\n", "importing m10 failed with SystemExit"),
}


@pytest.mark.parametrize(("path", "source", "says"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_said_before_anything_starts(
    here: Path, path: str, source: str, says: str
) -> None:
    if source or ":" in path:
        (here / f"{path.partition(':')[0].replace('/', '_')}.py").write_text(source)
    if "nowhere" in path:
        (here / "nowhere_at_all.py").unlink()
    config = RunConfig.model_validate({"preset": "quickstart", "reward": {"custom": path}})
    with pytest.raises(ConfigError, match=says) as caught:
        require_sound(config)
    assert str(caught.value).count("\n") == 0


def test_a_run_keeps_the_function_it_began_with(here: Path) -> None:
    (here / "mine.py").write_text("def my_reward(sample, grade):\n    return 1\n")
    config = RunConfig.model_validate({"output_dir": here, "reward": {"custom": "mine:my_reward"}})
    config.run_dir.mkdir(parents=True)
    require_same_files(config)
    keep_files(config, config.run_dir, anew=True)
    require_same_files(config)

    (here / "mine.py").write_text("def my_reward(sample, grade):\n    return 2\n")
    with pytest.raises(RunError, match=r"mine.py has changed since .*choose another --run.name"):
        require_same_files(config)
    keep_files(config, config.run_dir, anew=False)  # no quiet change in the middle
    assert "return 1" in (config.run_dir / "custom_reward.py").read_text()

    (config.run_dir / "custom_reward.py").unlink()
    require_same_files(config)
    keep_files(config, config.run_dir, anew=False)
    assert "return 2" in (config.run_dir / "custom_reward.py").read_text()


def test_the_function_and_its_weight_are_part_of_the_run() -> None:
    plain = RunConfig()
    mine = RunConfig.model_validate({"reward": {"custom": "mine:my_reward"}})
    heavy = RunConfig.model_validate({"reward": {"custom": "mine:my_reward", "custom_weight": 2}})
    assert len({plain.digest(), mine.digest(), heavy.digest()}) == 3
