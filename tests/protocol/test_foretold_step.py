"""What is foretold of a step, held against what real steps count, whatever they ask for."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import tinker
from one_step import train_step

from visual_r1.config import RunConfig
from visual_r1.data.procedural import generate
from visual_r1.doctor.estimates import step_tokens
from visual_r1.doctor.prompts import measure_prompts
from visual_r1.engine.launch import RunningEngine
from visual_r1.policy.passes import second_pass
from visual_r1.policy.policy import open_policy
from visual_r1.policy.second_pass import SecondPass
from visual_r1.rl import group

PROBLEMS = list(generate(3, "train", 3))
UNSOLVABLE = [replace(problem, answer="1234567") for problem in PROBLEMS]

ALL = {
    "plain": {},
    "minibatches and epochs": {"algorithm": {"minibatches": 2, "epochs": 2}},
    "kl": {"algorithm": {"kl_coefficient": 0.1}},
    "dro": {"train": {"loss": "dro"}},
    "sapo over two epochs": {"train": {"loss": "sapo"}, "algorithm": {"epochs": 2}},
    "gspo": {"train": {"loss": "gspo"}},
    "a correction": {"pipeline": {"correction": "token_truncate"}},
    "a correction, in parts": {"pipeline": {"correction": "sequence_mask", "parts": 3}},
    "a correction over epochs": {
        "train": {"loss": "ppo"},
        "pipeline": {"correction": "token_mask"},
        "algorithm": {"epochs": 2, "minibatches": 2},
    },
    "masked": {"algorithm": {"mask_truncated": True}},
    "gdpo": {"algorithm": {"advantage": "gdpo"}},
    "rounds": {"train": {"skip_without_contrast": True}, "algorithm": {"dynamic_rounds": 2}},
    "a second pass": {"second_pass": {"enabled": True}},
    "a second pass, unmoved": {"second_pass": {"enabled": True, "moved_numbers": False}},
    "all at once": {
        "second_pass": {"enabled": True, "minus_question_only": True, "masks": "answers"},
        "train": {"loss": "ppo", "skip_without_contrast": True},
        "pipeline": {"correction": "sequence_truncate"},
        "algorithm": {"dynamic_rounds": 1, "kl_coefficient": 0.1, "epochs": 2, "minibatches": 2},
    },
}


def config(sections: dict[str, Any]) -> RunConfig:
    """A coin flip as reward: every group has something to tell apart, however good the model is."""
    train = {"batch_size": 3, "group_size": 6, "skip_without_contrast": False}
    return RunConfig.model_validate(
        {
            "preset": "vision_sr1",
            "reward": {"format": 0.0, "accuracy": 0.0, "random": 1.0},
            "sampling": {"max_new_tokens": 48},
            **sections,
            "second_pass": {"enabled": False, **sections.get("second_pass", {})},
            "train": {**train, **sections.get("train", {})},
        }
    )


@pytest.fixture(scope="module")
def service(engine: RunningEngine) -> Iterator[tinker.ServiceClient]:
    client = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    yield client
    client.close("success").result(timeout=60)


def always_right(*given: Any) -> SecondPass:
    """As if every scan led to the answer, also with its numbers moved: then most is asked."""
    return replace(second_pass(*given), verdict="right")


@pytest.mark.parametrize("name", ALL)
def test_a_step_takes_no_more_than_is_foretold_at_most(
    name: str, service: tinker.ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "second_pass", always_right)
    mine = config(ALL[name])
    problems = UNSOLVABLE if mine.algorithm.dynamic_rounds else PROBLEMS
    model = mine.model.name
    training = service.create_lora_training_client(base_model=model, rank=4, seed=5).result(60)
    base = None
    if mine.algorithm.kl_coefficient:
        base = service.create_sampling_client(base_model=model).result(60)
    result = train_step(training, open_policy(mine), problems, 0, base)

    prompts = measure_prompts(mine, problems)
    longest = float(mine.sampling.max_new_tokens)
    most = step_tokens(mine, prompts, longest, None, "most")
    row = result.metrics.row()
    counted = {part: row[f"tokens_{part}"] for part in ("prefill", "cached", "sampled", "trained")}
    foretold = [most.prefill, most.cached, most.sample, most.train]
    assert counted["sampled"]
    for (part, tokens), at_most in zip(counted.items(), foretold, strict=True):
        assert float(tokens or 0) <= at_most, part
    assert result.metrics.cost.tokens_prefill > 0

    # And not far more of what is learnt from, where the answers' own length is known.
    if not mine.algorithm.mask_truncated and not mine.train.skip_without_contrast:
        lengths = [len(one.rollout.tokens) for one in result.rollouts]
        known = step_tokens(mine, prompts, sum(lengths) / len(lengths), 0.0)
        share = result.metrics.learning.datums / len(lengths)
        assert float(counted["trained"] or 0) == pytest.approx(share * known.train, rel=0.1)
