"""Whether the next chunk fits: by the files of a run as they are at a checkpoint."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tasks import costs
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.doctor import budget as module
from visual_r1.doctor.budget import budget_end, require_first_chunk
from visual_r1.doctor.evidence import Evidence
from visual_r1.doctor.prompts import PromptSizes
from visual_r1.errors import BudgetReached, ConfigError
from visual_r1.runs.budget import BUDGET_NAME, note_budget_end, read_budget_end
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow

PROMPTS = PromptSizes(prompts=8, mean=100.0, longest=100, image_mean=60.0, image_longest=60)
DATASET = cast(
    "Dataset",
    SimpleNamespace(counts={"train": 64, "validation": 0, "test": 10}, problems=lambda _: []),
)
FINAL = 1.05 * 10 * (100 + 40 + 100 + 2 * 40 + 100 + 100 + 40)
"""Tokens of an evaluation of ten problems with answers of 40: greedy, two samples, blind."""


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_prompts", lambda *_: PROMPTS)
    monkeypatch.setattr(module, "training_problems", lambda *_: [])
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def config(folder: Path, steps: int = 8, **limits: object) -> RunConfig:
    made = RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": "mine"},
            "train": {"steps": steps, "chunk_steps": 2},
            "evaluation": {"samples": 2},
            "validation": {"every": 0},
            "limits": limits,
        }
    )
    made.run_dir.mkdir(parents=True, exist_ok=True)
    return made


def train(run: RunConfig, steps: int, tokens: int = 1000) -> LedgerRow:
    """Leave what a run of two steps more leaves: a step reads, samples and learns `tokens`."""
    journal, ledger = Journal(run.run_dir), Ledger(run.run_dir)
    for step in range(steps - 2, steps):
        row: dict[str, Any] = {
            "step": step,
            "response_tokens_mean": 40.0,
            "tokens_prefill": tokens // 4,
            "tokens_cached": tokens // 4,
            "tokens_sampled": tokens // 4,
            "tokens_trained": tokens // 4,
        }
        journal._metrics.append(row)
    when = "2026-11-20T10:00:00+00:00"
    row_of_ledger = LedgerRow(
        steps, f"tinker://a:train:0/weights/{steps}", "s", None, "c", "d", "embedded", when, steps
    )
    ledger.append(row_of_ledger)
    return row_of_ledger


def test_a_run_ends_before_the_chunk_that_would_pass_its_budget(tmp_path: Path) -> None:
    needs = 1.05 * 2000 + FINAL
    fits = config(tmp_path / "fits", budget_tokens=round(2000 + needs) + 1)
    assert budget_end(fits, DATASET, train(fits, 2)) is None
    mine = config(tmp_path, budget_tokens=round(2000 + needs) - 1)
    first = train(mine, 2)
    end = budget_end(mine, DATASET, first)
    assert end is not None
    assert (end.step, end.steps, end.spent) == (2, 8, 2000)
    assert (end.chunk, end.final) == (pytest.approx(1.05 * 2000), pytest.approx(FINAL))
    assert "at the checkpoint of step 2 of 8: 2,000 tokens were spent" in end.sentence


def test_a_dearer_chunk_is_expected_to_be_followed_by_one_dearer_still(tmp_path: Path) -> None:
    mine = config(tmp_path, budget_tokens=10**6)
    train(mine, 2, 1000)
    newest = train(mine, 4, 1200)
    ahead = module.foretold(mine, DATASET, newest)
    assert ahead.chunk.count == pytest.approx(1.05 * 2 * 1200 * 1.2)


def test_what_a_kill_left_behind_the_checkpoint_changes_nothing(tmp_path: Path) -> None:
    """Steps of a chunk that was not saved are on record, and not yet spent."""
    mine = config(tmp_path, budget_tokens=round(2000 + 1.05 * 2000 + FINAL) + 1)
    first = train(mine, 2)
    assert budget_end(mine, DATASET, first) is None
    Journal(mine.run_dir)._metrics.append({"step": 2, "tokens_sampled": 10**9})
    assert budget_end(mine, DATASET, first) is None


def test_what_was_decided_holds_until_the_budget_is_another(tmp_path: Path) -> None:
    mine = config(tmp_path, budget_tokens=5000)
    first = train(mine, 2)
    end = budget_end(mine, DATASET, first)
    assert end is not None
    assert read_budget_end(mine.run_dir, 2) == end
    # The evaluation at the end is spent by now, and the sentence is the same.
    Journal(mine.run_dir)._metrics.append({"step": 1, "tokens_sampled": 10**6})
    assert budget_end(mine, DATASET, first) == end
    more = config(tmp_path, budget_tokens=10**8)
    assert budget_end(more, DATASET, first) is None
    assert read_budget_end(mine.run_dir, 2) is None
    note_budget_end(mine.run_dir, end)
    assert budget_end(config(tmp_path, steps=2, budget_tokens=5000), DATASET, first) is None
    assert not (mine.run_dir / BUDGET_NAME).exists()


def test_only_the_newest_checkpoint_is_looked_at(tmp_path: Path) -> None:
    mine = config(tmp_path, budget_tokens=5000)
    first = train(mine, 2)
    train(mine, 4)
    assert budget_end(mine, DATASET, first) is None


def test_a_damaged_record_is_decided_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = config(tmp_path, budget_tokens=5000)
    first = train(mine, 2)
    end = budget_end(mine, DATASET, first)
    (mine.run_dir / BUDGET_NAME).write_text("{")
    assert budget_end(mine, DATASET, first) == end
    assert "is looked at anew" in caplog.text


def test_a_budget_below_one_chunk_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    poor = config(tmp_path, budget_tokens=100)
    with pytest.raises(
        BudgetReached, match=r"limits\.budget_tokens is 100 tokens: the first chunk"
    ):
        require_first_chunk(poor, DATASET)
    require_first_chunk(config(tmp_path, budget_tokens=10**9), DATASET)
    require_first_chunk(config(tmp_path), DATASET)
    train(poor, 2)
    require_first_chunk(poor, DATASET)  # that is for the checkpoint to say


def test_what_a_start_answers_is_asked_anew_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run's answers of the same weights are kept for nobody, unlike the base model's."""
    seen = Evidence("another run", (), 40.0, None, None, None)
    monkeypatch.setattr(module, "earlier_evidence", lambda _: seen)
    least = next(
        limit for limit in range(0, 10**6, 500) if _fits(config(tmp_path, budget_tokens=limit or 1))
    )
    run = config(tmp_path, budget_tokens=least)
    model = run.model.model_copy(update={"start_from": "tinker://ID/weights/step-000010"})
    with pytest.raises(BudgetReached, match="the first chunk"):
        require_first_chunk(run.model_copy(update={"model": model}), DATASET)


def test_the_first_chunk_has_the_forward_of_a_correction_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is billed as training; a budget without it let a chunk begin, and was passed."""
    seen = Evidence("another run", ((4, 8),) * 10, 40.0, None, None, None)
    monkeypatch.setattr(module, "earlier_evidence", lambda _: seen)
    limits = range(500, 10**6, 500)
    least = next(limit for limit in limits if _fits(config(tmp_path, budget_tokens=limit)))
    run = config(tmp_path, budget_tokens=least)
    bounded = run.model_copy(
        update={"pipeline": run.pipeline.model_copy(update={"correction": "token_truncate"})}
    )
    with pytest.raises(BudgetReached, match="the first chunk"):
        require_first_chunk(bounded, DATASET)


def _fits(run: RunConfig) -> bool:
    try:
        require_first_chunk(run, DATASET)
    except BudgetReached:
        return False
    return True


def test_dollars_need_prices_and_are_not_spent_on_the_embedded_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = config(tmp_path, budget_usd=0.01)
    require_first_chunk(free, DATASET)
    assert budget_end(free, DATASET, train(free, 2)) is None
    remote = free.model_copy(
        update={"backend": free.backend.model_copy(update={"server": "remote"})}
    )
    with pytest.raises(ConfigError, match=r"limits\.budget_usd is \$0\.01 and what .* costs"):
        budget_end(remote, DATASET, Ledger(free.run_dir).rows()[-1])


def test_the_end_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(costs, "happened", lambda *event: told.append(event))
    mine = config(tmp_path, budget_tokens=5000)
    first = train(mine, 2)
    assert costs.heed_budget(mine, DATASET, first)
    [(_, event, sentence, payload)] = told
    assert event == "budget.reached"
    assert "With a higher budget the same command goes on" in str(sentence)
    assert cast("dict[str, object]", payload)["limit"] == 5000
    with pytest.raises(BudgetReached, match="Ended by limits"):
        costs.require_budget(mine, DATASET, first)
