"""An evaluation of the shipped model on the real engine: counts, files, repeatability, refusals."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tinker

from visual_r1.backend.backend import open_backend
from visual_r1.backend.waiting import Watch
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.engine.launch import start_engine
from visual_r1.errors import BackendError, DataError, EngineError
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.evaluate import evaluate
from visual_r1.evaluation.metrics import Report, read_report
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.grading import grade
from visual_r1.policy.passes import MOST_AT_ONCE
from visual_r1.policy.policy import open_policy
from visual_r1.prices import NO_PRICES, Prices
from visual_r1.progress import Silent

SEED = 77  # serves nothing else


class Setup:
    """A sampler of the base model with all that an evaluation of it takes."""

    def __init__(self, config: RunConfig, sampler: tinker.SamplingClient, watch: Watch) -> None:
        self.config = config
        self.sampler = sampler
        self.watch = watch

    def evaluate(
        self,
        problems: Sequence[Problem],
        folder: Path,
        config: RunConfig | None = None,
        prices: Prices = NO_PRICES,
        most_at_once: int = MOST_AT_ONCE,
    ) -> Report:
        config = config or self.config
        policy = open_policy(config, self.watch, prices)
        conditions = conditions_of(config, "the base model", "0123abcd")
        return evaluate(
            self.sampler, policy, problems, conditions, folder, Silent(), most_at_once=most_at_once
        )


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    config = RunConfig(
        preset="quickstart",
        output_dir=tmp_path_factory.mktemp("evaluate"),
        backend={"threads": 1},  # type: ignore[arg-type]
        evaluation={"samples": 4},  # type: ignore[arg-type]
    )
    with open_backend(config) as backend:
        yield Setup(config, backend.sampler(None), backend.check)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return list(generate(SEED, "test", 16))


@pytest.fixture(scope="module")
def first(setup: Setup, problems: list[Problem]) -> tuple[Report, Path]:
    """One evaluation that several tests look at."""
    folder = setup.config.run_dir / "evaluations" / "first"
    return setup.evaluate(problems, folder), folder


def test_the_report_is_on_disk_as_it_was_returned(first: tuple[Report, Path]):
    report, folder = first
    assert read_report(folder) == report
    flat = json.loads((folder / "report.json").read_text())
    assert flat["n"] == 16
    assert flat["failed"] == {"greedy": 0, "sampled": 0, "blind": 0}
    assert flat["dataset_digest"] == "0123abcd"
    assert flat["accuracy_ci95"][0] < flat["accuracy"] < flat["accuracy_ci95"][1]
    assert flat["cost_usd"] is None
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.parquet", "report.json"]


def test_each_verdict_is_the_graders_verdict_on_the_stored_response(
    first: tuple[Report, Path], problems: list[Problem]
):
    report, folder = first
    rows = read_predictions(folder)
    assert [row["id"] for row in rows] == [problem.id for problem in problems]
    for row in rows:
        again = grade(row["response"], row["answer"], report.conditions.rounding)  # type: ignore[arg-type]
        assert row["verdict"] == again.verdict
        sampled = [grade(text, row["answer"]).verdict for text in row["sampled_responses"]]
        assert sampled == row["sampled_verdicts"]
        assert row["sampled_correct"] == sampled.count("right")
    assert report.correct == sum(row["correct"] for row in rows)
    assert report.sampled_accuracy == sum(row["sampled_correct"] for row in rows) / (16 * 4)


def test_the_shipped_model_sees_and_without_the_picture_it_does_not(first: tuple[Report, Path]):
    report, _ = first
    assert report.format_rate > 0.8
    assert report.accuracy > 0.3
    assert report.blind_accuracy is not None
    assert report.blind_accuracy < 0.2


def test_the_same_seed_gives_the_same_evaluation_however_many_are_asked_at_once(
    setup: Setup, problems: list[Problem], first: tuple[Report, Path], tmp_path: Path
):
    prices = Prices(1.0, 2.0, 0.0)
    again = setup.evaluate(problems, tmp_path / "again", most_at_once=3, prices=prices)
    assert replace(again.spending, cost_usd=None) == first[0].spending
    assert replace(again, spending=first[0].spending) == first[0]
    rows = read_predictions(first[1])
    assert read_predictions(tmp_path / "again") == rows
    # Each prompt is read three times: greedy, blind, and once for all its samples.
    prompter = open_policy(setup.config).prompter
    read = 3 * sum(prompter.model_input(problem).length for problem in problems)
    spent = json.loads((tmp_path / "again" / "report.json").read_text())
    assert spent["tokens_prefill"] == read
    assert spent["tokens_sampled"] >= sum(row["response_tokens"] for row in rows)
    # And out of the cache for each further sample, at a fifth of the price.
    cached = read // 3 * (setup.config.evaluation.samples - 1)
    assert spent["tokens_cached"] == cached
    paid = read + 0.2 * cached + 2 * spent["tokens_sampled"]
    assert spent["cost_usd"] == pytest.approx(paid / 1e6)


def test_another_seed_changes_the_samples_and_not_the_greedy_answers(
    setup: Setup, problems: list[Problem], first: tuple[Report, Path], tmp_path: Path
):
    section = setup.config.evaluation.model_copy(update={"seed": 1, "blind": False, "problems": 8})
    config = setup.config.model_copy(update={"evaluation": section})
    other = setup.evaluate(problems, tmp_path / "other", config)
    rows, before = read_predictions(tmp_path / "other"), read_predictions(first[1])[:8]
    assert [row["response"] for row in rows] == [row["response"] for row in before]
    assert [r["sampled_responses"] for r in rows] != [r["sampled_responses"] for r in before]
    assert (other.n, other.blind_accuracy) == (8, None)


def test_a_refused_request_is_counted_and_the_rest_goes_on(
    setup: Setup, problems: list[Problem], tmp_path: Path
):
    """A prompt beyond the context: its three requests are refused, 3 of 48."""
    too_long = replace(problems[0], id="too-long", problem="<image>" + "Find x. " * 20_000)
    report = setup.evaluate([*problems[:15], too_long], tmp_path / "refused")
    assert report.n == 15
    assert report.failed == {"greedy": 1, "sampled": 1, "blind": 1}
    row = read_predictions(tmp_path / "refused")[-1]
    assert row["correct"] is None
    assert row["k"] == 0
    assert "refused" in json.loads(row["failures"])["greedy"]


def test_too_many_refusals_are_no_evaluation(setup: Setup, problems: list[Problem], tmp_path: Path):
    too_long = replace(problems[0], id="too-long", problem="<image>" + "Find x. " * 20_000)
    with pytest.raises(BackendError, match="were refused, too many"):
        setup.evaluate([problems[1], too_long], tmp_path / "refused")
    # What was answered is kept, and nothing else: a refusal may be mended.
    assert [path.name for path in (tmp_path / "refused").iterdir()] == ["answers.jsonl"]
    kept = (tmp_path / "refused" / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["problem"] for line in kept} == {problems[1].id}


def test_no_problem_is_no_evaluation(setup: Setup, tmp_path: Path):
    with pytest.raises(DataError, match="test split is empty"):
        setup.evaluate([], tmp_path / "none")


def test_an_engine_that_dies_ends_the_evaluation_in_a_sentence(
    setup: Setup, problems: list[Problem], tmp_path: Path
):
    home = tmp_path / "home"
    with start_engine(home, setup.config.model.name, 1, home / "log", device="cpu") as engine:
        service = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
        sampler = service.create_sampling_client(base_model=setup.config.model.name).result()

        def watch() -> None:
            if engine.process.poll() is not None:
                raise EngineError("the engine died")

        engine.process.kill()
        with pytest.raises(EngineError, match="the engine died"):
            Setup(setup.config, sampler, watch).evaluate(problems, tmp_path / "killed")
    service.holder.close()
    assert not (tmp_path / "killed").exists()
