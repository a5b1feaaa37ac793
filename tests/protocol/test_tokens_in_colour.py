"""Tokens in colour: what the pages ask the run's own server, by the process that they start."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import checkpoint
from starlette.testclient import TestClient

from visual_r1.backend.backend import open_backend
from visual_r1.backend.waiting import SAMPLE_LIMIT_S, wait
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.errors import ConfigError
from visual_r1.pages.app import pages
from visual_r1.pages.colours import kind_of, value_of
from visual_r1.pages.reading import facts_of
from visual_r1.pages.scored import Token, Wanted
from visual_r1.pages.scoring import tokens_of
from visual_r1.pages.servers import require_named, weights_of
from visual_r1.pages.tokens import price_of
from visual_r1.policy.passes import question
from visual_r1.policy.policy import open_policy
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.ledger import Ledger
from visual_r1.storage import write_json

AT = "http://127.0.0.1:4280"
ASKED = "/runs/asked/tokens?evaluation=baseline&problem="


@dataclass(frozen=True, slots=True)
class Sampled:
    """A run whose base model was asked once, and what it was asked by."""

    folder: Path
    problem: str
    logprobs: tuple[float, ...]
    browser: TestClient


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampled]:
    folder = tmp_path_factory.mktemp("asked")
    config = RunConfig.model_validate(
        {
            "output_dir": folder,
            "run": {"name": "asked"},
            "backend": {"server": "embedded"},
            "model": {"name": "visual-r1/tiny-geometry"},
            "data": {"source": "procedural", "train": 4, "validation": 1, "test": 4},
        }
    )
    dataset = prepare(config.data, folder)
    problem = dataset.problems("test")[0]
    with open_backend(config) as backend, backend.session():
        policy = open_policy(config, backend.check)
        asked = question(policy, problem, "full", 1, temperature=1.0)
        future = backend.sampler(None).sample(
            asked.prompt, num_samples=1, sampling_params=asked.params
        )
        [sequence] = wait(future, "a sample", SAMPLE_LIMIT_S, backend.check).sequences
        text = policy.text_of(sequence.tokens)
    run_dir = config.run_dir
    evaluation = run_dir / "evaluations" / "baseline"
    evaluation.mkdir(parents=True)
    write_json(run_dir / "config.json", config_without_secrets(config))
    report = {"n": 1, "accuracy": 1.0, "accuracy_ci95": [0.2, 1.0]}
    report |= {"sampler_path": config.model.name, "model": config.model.name}
    (evaluation / "report.json").write_text(json.dumps(report))
    row = {"id": problem.id, "response": text, "response_tokens": len(sequence.tokens)}
    row |= {"truncated": sequence.stop_reason == "length"}
    pq.write_table(pa.Table.from_pylist([row]), evaluation / "predictions.parquet")
    browser = TestClient(pages(folder, "token"), base_url=AT)
    browser.get("/?token=token")
    yield Sampled(folder, problem.id, tuple(sequence.logprobs or ()), browser)


def test_a_look_at_the_page_asks_nothing(sampled: Sampled) -> None:
    page = sampled.browser.get(ASKED + sampled.problem).text
    assert "Start the engine and ask" in page
    assert not (sampled.folder / ".visual-r1/pages/tokens").exists()


def test_a_click_asks_the_engine_and_the_tokens_are_as_likely_as_when_they_were_drawn(
    sampled: Sampled,
) -> None:
    browser, address = sampled.browser, ASKED + sampled.problem
    answer = browser.post(address, headers={"Origin": AT}, follow_redirects=False)
    assert answer.status_code == 303
    page = browser.get(address).text
    while "data-again" in page:
        time.sleep(0.2)
        page = browser.get(address).text
    assert 'class="bad"' not in page, page
    [kept] = (sampled.folder / ".visual-r1/pages/tokens").glob("*.json")
    tokens = json.loads(kept.read_text())["tokens"]
    assert [one["wrote"] for one in tokens] == pytest.approx(sampled.logprobs, abs=2e-3)
    # A model that reads its figures: they are likelier where they are to be seen.
    assert max(one["wrote"] - one["unseen"] for one in tokens) > 1.0
    assert all(one["other"] is None for one in tokens), "there is no checkpoint to hold it against"
    assert 'class="tok ' in browser.get(address + "&by=image").text
    assert "no newer weights" in browser.get(address + "&by=ratio").text
    assert not list((sampled.folder / "runs/asked").rglob("*tokens*"))


def test_a_problem_that_was_not_asked_is_no_page(sampled: Sampled) -> None:
    for asked in (ASKED + "no-such", "/runs/asked/tokens?step=3&group=0&sample=0"):
        assert sampled.browser.get(asked).status_code == 404


class Spelled:
    """A processor of bytes, as tokenizers of bytes are: a character may take several tokens."""

    stop_token_ids = (0,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")


def test_a_character_of_several_tokens_stands_once() -> None:
    wanted = Wanted("run", "id", "aé∠b", True, 8, "train", 1, 0, 0)
    tokens, texts = tokens_of(Spelled(), wanted)  # pyright: ignore[reportArgumentType]
    assert "".join(texts) == "aé∠b"
    assert texts == ["a", "", "é", "", "", "∠", "b", ""]
    assert len(tokens) == len(texts)


@pytest.mark.parametrize(
    ("backend", "environ", "sentence"),
    [
        ({}, {"TINKER_API_KEY": "tml-x"}, "its environment named"),
        ({"server": "remote"}, {"TINKER_API_KEY": "tml-x"}, ""),
        ({"base_url": "http://127.0.0.1:1"}, {"TINKER_API_KEY": "tml-x"}, "self-hosted"),
    ],
)
def test_a_server_that_costs_money_is_asked_where_the_configuration_names_it(
    tmp_path: Path, backend: dict[str, str], environ: dict[str, str], sentence: str
) -> None:
    config = RunConfig.model_validate(
        {"output_dir": tmp_path, "run": {"name": "paid"}, "backend": backend}
    )
    config.run_dir.mkdir(parents=True)
    write_json(config.run_dir / "config.json", config_without_secrets(config))
    Ledger(config.run_dir).append(checkpoint(10, config.digest(), "hosted"))
    if not sentence:
        assert require_named(config.run_dir, environ) == "hosted"
        return
    with pytest.raises(ConfigError, match=sentence):
        require_named(config.run_dir, environ)


def test_what_a_question_takes_is_named_in_tokens_and_dollars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-x")
    given = {"prefill": 1.0, "sample": 2.0, "train": 3.0}
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path,
            "run": {"name": "paid"},
            "backend": {"server": "remote"},
            "prices": given,
        }
    )
    config.run_dir.mkdir(parents=True)
    write_json(config.run_dir / "config.json", config_without_secrets(config))
    for step in (10, 20):
        Ledger(config.run_dir).append(checkpoint(step, config.digest(), "hosted"))
    (config.run_dir / "metrics.jsonl").write_text(
        json.dumps({"step": 12, "groups": 4, "prompt_tokens": 400}) + "\n"
    )
    wanted = Wanted("paid", "id", "text", True, 49, "train", 12, 0, 0)
    found = price_of(facts_of("paid", config.run_dir), wanted)
    assert (found.questions, found.tokens) == (3, 3 * (100 + 49 + 1))
    assert found.usd == pytest.approx((447 * 1.0 + 3 * 2.0) / 1e6)
    wrote, other, newer = weights_of(config.run_dir, wanted)
    assert (wrote.says, newer) == ("the checkpoint of step 10", True)
    assert other is not None
    assert other.says == "the checkpoint of step 20"


def test_colours_follow_the_value() -> None:
    token = Token("a", wrote=-1.0, other=-0.5, unseen=-3.0)
    assert value_of(token, "ratio", newer=True) == 0.5
    assert value_of(token, "ratio", newer=False) == -0.5
    assert value_of(token, "image", newer=True) == 2.0
    assert [kind_of(value, "logprob") for value in (0.0, -0.1, -1.0, -9.0)] == [
        "s0",
        "s1",
        "s3",
        "s6",
    ]
    assert [kind_of(value, "image") for value in (0.0, 0.3, 2.0, -2.0)] == ["s0", "p2", "p4", "m4"]
    assert kind_of(None, "ratio") == "s0"
