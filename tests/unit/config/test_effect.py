"""A setting that is given in vain is refused, and what the marks say is what the code reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from visual_r1.config import STORED, RunConfig, preset_names
from visual_r1.config.command_line import load_config
from visual_r1.config.effect import require_effect, without_effect
from visual_r1.config.names import settings
from visual_r1.config.needs import Needs, needs_of
from visual_r1.config.overrides import laid_over, with_overrides
from visual_r1.config.run_config import NOT_IDENTITY
from visual_r1.errors import ConfigError
from visual_r1.rl.correction import corrected
from visual_r1.rl.learning import adam_params, learning_rate
from visual_r1.rl.losses import loss_of
from visual_r1.runs.folder import open_run_folder

VAIN = [
    ("train.clip_epsilon", 0.05, {}, "train.loss ppo"),
    ("train.clip_epsilon", 0.05, {"train.loss": "gspo"}, "train.loss ppo"),
    ("train.clip_epsilon", 0.05, {"train.loss": "cispo"}, "train.loss ppo"),
    ("optimizer.schedule_steps", 100, {}, "optimizer.schedule linear or cosine"),
    ("optimizer.final_fraction", 0.1, {}, "optimizer.schedule linear or cosine"),
    ("pipeline.ratio_high", 1.5, {}, "pipeline.correction"),
    ("pipeline.ratio_low", 0.1, {"pipeline.correction": "token_truncate"}, "token_mask or"),
    ("curriculum.uniform_share", 0.5, {}, "curriculum.rule contrast"),
    ("optimizer.grad_clip_per", "token", {}, "optimizer.grad_clip_norm"),
    ("second_pass.penalty", -1.0, {}, "second_pass.enabled"),
    (
        "second_pass.template",
        "mine.txt",
        {},
        "second_pass.enabled or evaluation.controls scan_only",
    ),
    ("penalty.repetition_ngram", 3, {}, "reward.repetition"),
    ("reward.custom_weight", 2.0, {}, "reward.custom"),
]
ENABLED: dict[str, Any] = {
    "train.loss": "ppo",
    "optimizer.schedule": "linear",
    "optimizer.schedule_steps": 9,
    "optimizer.grad_clip_norm": 1.0,
    "pipeline.correction": "token_mask",
    "curriculum.rule": "contrast",
    "second_pass.enabled": True,
    "reward.repetition": 0.1,
    "reward.length": 0.1,
    "reward.custom": "module:function",
}


@pytest.mark.parametrize(("name", "value", "beside", "wanted"), VAIN)
def test_what_has_no_effect_is_refused_with_what_gives_it_one(
    name: str, value: Any, beside: dict[str, Any], wanted: str
) -> None:
    flags = [f"--{key}={given}" for key, given in (beside | {name: value}).items()]
    with pytest.raises(
        ConfigError, match=rf"^{name} is .* has no effect.*{wanted}.* leave"
    ) as told:
        load_config(["--preset", "geometry3k", *flags])
    assert not set("\n{}") & set(str(told.value))
    with pytest.raises(ConfigError, match="has no effect"):
        with_overrides("geometry3k", beside | {name: value})
    with pytest.raises(ConfigError, match="has no effect"):
        laid_over(RunConfig(preset="geometry3k"), beside | {name: value})
    assert with_overrides("geometry3k", beside | ENABLED | {name: value})


def test_what_nobody_gave_is_nobodys_mistake(tmp_path: Path) -> None:
    """Defaults, a preset's values, and those of a run that was stored with some."""
    for preset in preset_names():
        assert not [*without_effect(RunConfig(preset=preset))]
    # vision_sr1 sets the rewards of its second pass, and the norm by which gradients are clipped.
    load_config(["--preset", "vision_sr1", "--no-second_pass.enabled"])
    load_config(["--train.clip_epsilon", "0.2", "--optimizer.schedule_steps", "none"])
    old = RunConfig.model_validate({"train": {"clip_epsilon": 0.05}}, context=STORED)
    assert laid_over(old, {"evaluation.problems": 5}).train.clip_epsilon == 0.05
    assert load_config(["--evaluation.problems", "5"], beneath=old).train.clip_epsilon == 0.05
    with pytest.raises(ConfigError, match=r"^curriculum\.half_life is 9\.0 and has no effect"):
        load_config(["--curriculum.half_life", "9"], beneath=old)


def test_a_run_that_is_there_goes_on_by_the_command_that_began_it(tmp_path: Path) -> None:
    old = RunConfig.model_validate({"output_dir": tmp_path, "train": {"clip_epsilon": 0.05}})
    with pytest.raises(ConfigError, match="has no effect"):
        require_effect(old)
    with open_run_folder(old):
        pass
    flags = ["--preset", "seed", "--output-dir", str(tmp_path), "--train.clip_epsilon", "0.05"]
    assert load_config(flags).run_dir == old.run_dir


def marked() -> dict[str, list[Needs]]:
    found = {name: needs_of(field.metadata) for name, field in settings().items()}
    return {name: needs for name, needs in found.items() if needs}


def test_the_marks_name_settings_and_values_that_there_are() -> None:
    """And are of settings that count for what a run is: others begin none in vain."""
    assert set(marked()) >= {name for name, *_ in VAIN}
    for name, needs in marked().items():
        assert NOT_IDENTITY.get(name.partition(".")[0]) is not True
        for one in needs:
            assert one.setting in settings()
            for value in one.values:
                wanted: Any = (value,) if one.setting == "evaluation.controls" else value
                dotted = {"optimizer.schedule_steps": 9, one.setting: wanted}
                assert one.met(
                    _value(laid_over(RunConfig(), dotted | ENABLED | dotted), one.setting)
                )


def read_by(config: RunConfig) -> list[object]:
    """What a step makes of the settings of loss, optimizer and correction."""
    known = ["importance_sampling", "ppo", "cispo", "dro", "gspo", "sapo"]
    found: list[object] = []
    if config.train.loss in known:
        found.append(dict(loss_of(config.train, config.algorithm).config))
    found += [learning_rate(config, step) for step in range(12)]
    found.append(adam_params(config, 3, [2, 4]).grad_clip_norm)
    if config.pipeline.correction != "none":
        for learner in ([-1.0, -0.1], [-0.5, -0.2], [-0.5, -0.9]):
            of = corrected([-0.5, -0.5], np.array(learner, dtype=np.float32), config.pipeline)
            found.append(of.weights)
    return found


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo", "dro", "gspo", "sapo"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("norm", [0.0, 1.0])
def test_the_marks_say_what_the_loss_and_the_optimizer_read(
    loss: str, schedule: str, norm: float
) -> None:
    beside = {"train.loss": loss, "optimizer.schedule": schedule}
    beside |= {"optimizer.schedule_steps": 9, "optimizer.grad_clip_norm": norm}
    changed = {
        "train.clip_epsilon": 0.05,
        "optimizer.schedule_steps": 5,
        "optimizer.final_fraction": 0.3,
        "optimizer.grad_clip_per": "token",
    }
    assert marked_otherwise(beside, changed) == []


@pytest.mark.parametrize(
    "correction", ["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_the_marks_say_what_the_correction_reads(correction: str) -> None:
    changed = {"pipeline.ratio_low": 0.9, "pipeline.ratio_high": 1.1}
    assert marked_otherwise({"pipeline.correction": correction}, changed) == []


def marked_otherwise(beside: dict[str, Any], changed: dict[str, Any]) -> list[str]:
    """The changed settings of which the marks say another thing than what a step makes of them."""
    plain = RunConfig.model_validate(nested(beside))
    found: list[str] = []
    for name, value in changed.items():
        other = RunConfig.model_validate(nested(beside | {name: value}))
        has_effect = read_by(plain) != read_by(other)
        if has_effect != (name not in " ".join(without_effect(other, RunConfig()))):
            found.append(name)
    return found


def nested(values: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        made.setdefault(section, {})[key] = value
    return made


def _value(config: RunConfig, name: str) -> Any:
    section, _, key = name.partition(".")
    inner: BaseModel = getattr(config, section)
    return getattr(inner, key)
