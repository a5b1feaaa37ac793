"""What a run has cost, by the files that it and older versions leave."""

import json
from pathlib import Path
from typing import Any

import pytest

from visual_r1.prices import Prices, Tokens
from visual_r1.runs.bill import BILL_NAME
from visual_r1.runs.costs import cost_of_run, payments, tokens_of_run, usd_of_run
from visual_r1.storage import write_json

PRICES = Prices(1.0, 10.0, 100.0)


def write(run_dir: Path, *rows: dict[str, Any]) -> Path:
    lines = [json.dumps({"step": step, **row}) for step, row in enumerate(rows)]
    (run_dir / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return run_dir


def test_rows_of_versions_that_counted_less_count_what_they_have(tmp_path: Path) -> None:
    before_all = {"prompt_tokens": 7}
    before_cached = {"tokens_prefill": 100, "tokens_sampled": 10, "tokens_trained": 5}
    now = {**before_cached, "tokens_cached": 300}
    run = write(tmp_path, before_all, before_cached, now)
    assert [one.tokens for one in payments(run)] == [
        Tokens(),
        Tokens(100, 10, 5),
        Tokens(100, 10, 5, 300),
    ]
    assert tokens_of_run(run) == Tokens(200, 20, 10, 300)
    assert cost_of_run(run) is None
    # What has no cost on record is priced as things are now.
    assert usd_of_run(run, PRICES) == pytest.approx((200 + 200 + 1000 + 60) / 1e6)
    assert usd_of_run(run) == 0.0


def test_steps_from_a_checkpoint_on_are_not_spent_yet(tmp_path: Path) -> None:
    run = write(tmp_path, *[{"tokens_sampled": 10, "cost_usd": 1.0}] * 4)
    assert usd_of_run(run, PRICES, before=3) == 3.0
    assert tokens_of_run(run, before=2).count == 20


def test_the_bill_stands_beside_the_estimate(tmp_path: Path) -> None:
    run = write(tmp_path, {"cost_usd": 1.5}, {"cost_usd": None})
    assert str(cost_of_run(run)) == "at least $1.50"
    told = dict.fromkeys(
        ("tokens_prefill", "tokens_cached", "tokens_sampled", "tokens_trained", "unpriced"), 0
    )
    write_json(run / BILL_NAME, {"asked_at": "2026-11-20T10:00:00+00:00", "usd": 1.61, **told})
    assert str(cost_of_run(run)) == "at least $1.50 (billed so far: $1.61)"
