"""The protocol on a Qwen3.5: tests that a Qwen3-VL passes, on an engine that serves the other."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import peft
import pytest
import random_models
import test_sampling_client
import tinker
import torch
from protocol_client import TOKENS, datum
from test_checkpoints import (
    test_a_state_with_its_optimizer_goes_on_bit_for_bit as test_resuming,
)
from test_checkpoints import (
    test_a_state_without_its_optimizer_has_the_weights_alone as test_weights_alone,
)
from test_sampling_client import (
    test_a_request_gives_the_same_alone_and_among_a_hundred as test_alone_and_among_others,
)
from test_sampling_client import (
    test_an_ephemeral_sampler_keeps_the_weights_of_its_time as test_sampler_and_learner,
)
from test_sampling_client import test_prompt_logprobs as test_scores
from test_training import test_what_lora_trains_and_its_seed as test_what_is_trained
from tinker import types
from transformers import AutoModelForImageTextToText

from visual_r1.engine.launch import RunningEngine, start_engine

__all__ = [
    "test_alone_and_among_others",
    "test_resuming",
    "test_sampler_and_learner",
    "test_scores",
    "test_weights_alone",
    "test_what_is_trained",
]

Trainer = Callable[..., tinker.TrainingClient]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_models.qwen3_5(tmp_path_factory.mktemp("qwen3_5") / "model"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("second") / "home"


@pytest.fixture(scope="module")
def engine(home: Path, model: str) -> Iterator[RunningEngine]:
    with start_engine(home, model, 1, home.with_name("engine.log"), device="cpu") as running:
        yield running


@pytest.fixture(autouse=True)
def _named(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests that are run again call the model by the name of theirs."""
    monkeypatch.setattr(test_sampling_client, "MODEL", model)


@pytest.fixture
def sampler(service: tinker.ServiceClient, model: str) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model=model).result(timeout=60)


@pytest.fixture
def trainer(service: tinker.ServiceClient, model: str) -> Trainer:
    def make(**changes: object) -> tinker.TrainingClient:
        options: dict[str, Any] = {"rank": 4, "seed": 7} | changes
        return service.create_lora_training_client(model, **options).result(timeout=60)

    return make


def test_what_is_exported_peft_applies(
    trainer: Trainer, rest: tinker.RestClient, model: str, tmp_path: Path
) -> None:
    """Log-probabilities of the trained model, from the folder that the engine hands out."""
    client = trainer()
    for _ in range(3):
        client.forward_backward([datum()], "cross_entropy")
        client.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60)
    scored = client.forward([datum()], "cross_entropy").result(timeout=60)
    ours = scored.loss_fn_outputs[0]["logprobs"].data

    path = client.save_weights_external("adapter").result(timeout=60).path
    with httpx.Client(trust_env=False) as plain:
        for name, url in rest.get_external_weights_urls(path).result(timeout=60).urls.items():
            (tmp_path / name).write_bytes(plain.get(url).content)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert {"in_proj_qkv", "in_proj_a", "out_proj", "q_proj"} <= set(targets)
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings(), torch.no_grad():
        # peft reads a deprecated property of transformers, and warns of the tied lm_head.
        warnings.simplefilter("ignore")
        bare = logprobs(network)
        applied = logprobs(peft.PeftModel.from_pretrained(network, str(tmp_path)).eval())
    assert max(abs(a - b) for a, b in zip(bare, ours, strict=True)) > 0.1
    assert applied == pytest.approx(ours, abs=1e-4)


def logprobs(network: Any) -> list[float]:
    logits = network(input_ids=torch.tensor([TOKENS])).logits[0, :-1]
    wanted = torch.tensor(TOKENS[1:])[:, None]
    return torch.log_softmax(logits, -1).gather(-1, wanted)[:, 0].tolist()
