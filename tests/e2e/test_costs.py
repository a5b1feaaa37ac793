"""What a run costs, by its own rollouts, and a run that its budget ends: the embedded engine as a
remote server, at prices that are given by flags."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect_home import Give
from warm_command import Ended, WarmCommand

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, open_dataset
from visual_r1.engine.launch import start_engine
from visual_r1.evaluation.metrics import evaluation_folder, read_report
from visual_r1.models import TINY_GEOMETRY
from visual_r1.models.processor import load_processor
from visual_r1.prices import Tokens
from visual_r1.prompts.prompts import Prompter
from visual_r1.report.summary import read_summary
from visual_r1.runs.budget import BUDGET_NAME, read_budget_end
from visual_r1.runs.config_file import read_config
from visual_r1.runs.costs import tokens_of_run, usd_of_run
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.stored import read_stored

PREFILL, CACHED, SAMPLE, TRAIN = 700.0, 110.0, 1300.0, 900.0
"""US dollars for a million tokens: a step costs dollars, so that a cent is a token or two."""
GROUP = 4
FLAGS = f"""
--backend.server auto --backend.threads 1 --no-logging.wandb
--prices.prefill {PREFILL} --prices.cached {CACHED} --prices.sample {SAMPLE} --prices.train {TRAIN}
--prices.storage 1000 --data.train 32 --data.validation 4 --data.test 12 --evaluation.samples 2
--train.steps 4 --train.chunk_steps 1 --train.batch_size 2 --train.group_size {GROUP}
--train.loss dro --algorithm.loss_config {{"beta":0.01}} --no-train.skip_without_contrast
--reward.random 1.0 --sampling.max_new_tokens 48 --validation.every 2
""".split()


class Place:
    """An output folder, and runs in it on the one server."""

    def __init__(self, root: Path, warm: WarmCommand) -> None:
        self.root, self.warm = root, warm

    def train(self, name: str, *flags: object) -> Ended:
        named = ("--output-dir", self.root, "--run.name", name)
        return self.warm.run(*named, *FLAGS, *flags)

    def run(self, name: str) -> Path:
        return self.root / "runs" / name

    @property
    def dataset(self) -> Dataset:
        [folder] = (self.root / "data").glob("procedural-*")
        return open_dataset(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, give_home: Give) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("costs")
    with start_engine(root / "engine", TINY_GEOMETRY, 1, root / "log", device="cpu") as engine:
        server = {"TINKER_BASE_URL": engine.url, "TINKER_API_KEY": engine.api_key}
        with WarmCommand(give_home(tmp_path_factory.mktemp("warm")), **server) as warm:
            yield Place(root, warm)


@pytest.fixture(scope="module")
def plain(place: Place) -> Path:
    """A run without a budget."""
    ended = place.train("plain")
    assert ended.status == 0, ended.output
    return place.run("plain")


def prompt_lengths(config: RunConfig, dataset: Dataset) -> dict[str, int]:
    prompter = Prompter(
        load_processor(config.model.name), config.prompt.template, config.model.max_pixels
    )
    return {one.id: prompter.model_input(one).length for one in dataset.problems("train")}


def test_the_cost_is_what_the_stored_rollouts_come_to(plain: Path, place: Place) -> None:
    config = read_config(plain)
    assert config is not None
    lengths = prompt_lengths(config, place.dataset)
    groups: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((plain / "rollouts").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():  # type: ignore[no-untyped-call]
            groups[row["step"], row["group"]].append(row)
    usd = 0.0
    for group in groups.values():
        prompt = lengths[group[0]["problem_id"]]
        answers = [row["response_tokens"] for row in group]
        assert len(group) == GROUP
        usd += (prompt * PREFILL + (GROUP - 1) * prompt * CACHED + sum(answers) * SAMPLE) / 1e6
        if any(row["advantage"] for row in group):
            # dro looks at its data in a forward first, which is billed as training too.
            positions = sum(prompt + answer - 1 for answer in answers)
            usd += 2 * positions * TRAIN / 1e6
    rows = read_metrics(plain)
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(usd, abs=0.005)
    assert sum(row["tokens_cached"] for row in rows) > 0
    # The evaluations: greedy, blind and two samples, of which the second has its prompt cached.
    test = list(place.dataset.problems("test"))
    for name in ("baseline", "final"):
        spent = read_report(evaluation_folder(plain, name)).spending
        assert spent.tokens_prefill == 3 * (spent.tokens_cached or 0)
        assert spent.tokens_cached is not None
        assert spent.tokens_cached > len(test)
        usd += (
            (spent.tokens_prefill or 0) * PREFILL
            + spent.tokens_cached * CACHED
            + (spent.tokens_sampled or 0) * SAMPLE
        ) / 1e6
    for line in (plain / "validation.jsonl").read_text().splitlines():
        row = json.loads(line)
        usd += (row["tokens_prefill"] * PREFILL + row["tokens_sampled"] * SAMPLE) / 1e6
        assert "tokens_cached" not in row  # one answer each
    summary = read_summary(plain)
    assert summary is not None
    assert summary.cost_usd == pytest.approx(usd, abs=0.005)
    assert summary.budget is None
    # The server's sizes: state and sampler weights of each of the four checkpoints.
    stored = read_stored(plain)
    assert stored is not None
    assert stored.checkpoints == 8
    assert stored.bytes > 8 * 500_000
    assert stored.usd_a_month is not None
    assert stored.usd_a_month > 0  # the last one stays


def test_a_run_ends_below_its_budget_and_goes_on_with_a_higher_one(
    plain: Path, place: Place
) -> None:
    steps = [row["cost_usd"] for row in read_metrics(plain)]
    final = read_report(evaluation_folder(plain, "final")).spending.cost_usd
    validations = [
        json.loads(line)["cost_usd"]
        for line in (plain / "validation.jsonl").read_text().splitlines()
    ]
    assert final is not None
    # Two chunks and the evaluation fit, a third does not; the baseline is the other run's.
    budget = round(sum(steps[:2]) + sum(validations[:2]) + 1.25 * final + 0.4 * steps[2], 4)
    ended = place.train("budgeted", "--limits.budget_usd", budget)
    assert ended.status == 0, ended.output
    said = " ".join(ended.output.split())
    assert f"Ended by limits.budget_usd (${budget:,.2f}) at the checkpoint of step" in said
    run = place.run("budgeted")
    summary = read_summary(run)
    assert summary is not None
    assert summary.budget is not None
    done = summary.steps
    assert 1 <= done < 4
    assert usd_of_run(run) <= budget
    assert summary.budget == read_budget_end(run, done)
    assert "Ended by limits.budget_usd" in (run / "report.html").read_text()
    assert read_report(evaluation_folder(run, "final")).conditions.sampler_path
    # The same command finds the same end, and nothing is asked for.
    before = tokens_of_run(run)
    (run / BUDGET_NAME).unlink()  # as by a kill before it was decided
    ended = place.train("budgeted", "--limits.budget_usd", budget)
    assert ended.status == 0, ended.output
    again = read_summary(run)
    assert again is not None
    assert (again.steps, tokens_of_run(run)) == (done, before)
    assert again.budget is not None
    # With more it goes on, bit for bit.
    ended = place.train("budgeted", "--limits.budget_usd", 10 * budget)
    assert ended.status == 0, ended.output
    whole = read_summary(run)
    assert whole is not None
    assert (whole.steps, whole.budget) == (4, None)
    adapters = [one / "export/adapter/adapter_model.safetensors" for one in (plain, run)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    kept = [
        [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_metrics(one)]
        for one in (plain, run)
    ]
    assert kept[0] == kept[1]


def test_a_budget_below_one_chunk_is_refused_before_anything_is_spent(
    plain: Path, place: Place
) -> None:
    ended = place.train("poor", "--limits.budget_usd", 0.01)
    assert "limits.budget_usd is $0.01: the first chunk (steps 0 to 0) takes" in ended.sentence
    assert not (place.run("poor") / "evaluations").exists()
    assert tokens_of_run(place.run("poor")) == Tokens()
