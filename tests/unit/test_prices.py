"""What tokens cost."""

from datetime import date

import pytest
import tinker

from visual_r1 import prices as module
from visual_r1.config import RunConfig
from visual_r1.policy.passes import Question
from visual_r1.prices import NO_TOKENS, Prices, Tokens, prices_of, total

PRICED = RunConfig.model_validate({"prices": {"prefill": 0.2, "sample": 0.5, "train": 0.6}})


def model(name: str, **prices: float) -> RunConfig:
    return RunConfig.model_validate({"model": {"name": name}, "prices": prices})


def test_each_kind_has_its_price_for_a_million() -> None:
    prices = prices_of(PRICED, "hosted")
    tokens = Tokens(prefill=2_000_000, sample=3_000_000, train=500_000)
    assert prices.cost(tokens) == pytest.approx(0.4 + 1.5 + 0.3)
    assert prices.cost(NO_TOKENS) == 0.0


def test_what_comes_out_of_the_cache_costs_a_fifth_unless_it_is_said() -> None:
    cached = Tokens(cached=1_000_000)
    assert prices_of(PRICED, "self-hosted").cost(cached) == pytest.approx(0.04)
    assert Prices(0.2, 0.5, 0.6, cached=0.07).cost(cached) == pytest.approx(0.07)


def test_nothing_is_paid_on_the_embedded_engine() -> None:
    assert prices_of(PRICED, "embedded") == Prices()
    assert prices_of(PRICED, "self-hosted") == Prices(0.2, 0.5, 0.6)


@pytest.mark.parametrize("missing", ["prefill", "sample", "train"])
def test_without_one_of_the_prices_there_is_no_cost(missing: str) -> None:
    given = {"prefill": 1.0, "sample": 1.0, "train": 1.0, missing: None}
    assert Prices(**given).cost(Tokens(1, 1, 1)) is None


def test_what_a_million_costs_does_not_make_another_run() -> None:
    assert PRICED.digest() == RunConfig().digest()
    limited = RunConfig.model_validate({"limits": {"budget_usd": 40, "budget_tokens": 10**9}})
    assert limited.digest() == RunConfig().digest()


def test_tokens_add_up() -> None:
    assert total([Tokens(1, 2, 3), Tokens(sample=10, cached=4)]) == Tokens(1, 12, 3, 4)
    assert total([]) == NO_TOKENS
    assert (Tokens(1, 2, 3, 4) * 2).count == 20


def test_the_further_prefills_of_a_request_are_cached() -> None:
    """One prefill in full, G - 1 as cache hits, and what the server says it had of the prompt."""
    sequence = tinker.SampledSequence("stop", "a", _tokens_list=[1, 2, 3])
    prompt = tinker.ModelInput.from_ints(list(range(100)))
    asked = Question.__new__(Question)
    for name, value in (("prompt", prompt), ("samples", 4)):
        object.__setattr__(asked, name, value)
    reply = tinker.SampleResponse([sequence] * 4)
    assert asked.spent(reply) == Tokens(prefill=100, sample=12, cached=300)
    known = tinker.SampleResponse([sequence] * 4, prompt_cache_hit_tokens=64)
    assert asked.spent(known) == Tokens(prefill=36, sample=12, cached=364)
    wrong = tinker.SampleResponse([sequence] * 4, prompt_cache_hit_tokens=500)
    assert asked.spent(wrong).prefill == 0


def test_the_hosted_service_has_a_list_with_a_date_and_a_source_a_row() -> None:
    table = module._table()
    names = [row["name"] for row in table["model"]]
    assert len(names) == len(set(names))
    for row in [*table["model"], table["storage"]]:
        assert date.fromisoformat(row["date"]) <= date(2030, 1, 1)
        assert row["source"]
    for row in table["model"]:
        if "cached" in row:
            assert row["cached"] == pytest.approx(0.2 * row["prefill"])


def test_settings_are_over_the_list_and_a_suffix_has_the_prices_of_its_model() -> None:
    name = "Qwen/Qwen3.6-35B-A3B"
    listed = prices_of(model(name), "hosted")
    assert listed == Prices(0.54, 1.335, 1.177, 0.108, 0.10)
    assert "prices.toml" in listed.source
    longer = prices_of(model(f"{name}:peft:262144"), "hosted")
    assert longer == listed
    assert name in longer.source
    own = prices_of(model("Qwen/Qwen3.5-397B-A17B:peft:262144"), "hosted")
    assert (own.prefill, own.train) == (4.0, 12.0)
    dearer = prices_of(model(name, prefill=1.0), "hosted")
    assert dearer.cost(Tokens(cached=1_000_000)) == pytest.approx(0.2)
    assert (dearer.sample, dearer.train) == (1.335, 1.177)
    assert prices_of(model(name), "self-hosted") == Prices()
    assert prices_of(model("nobody/knows"), "hosted") == Prices()
    assert not prices_of(model("Qwen/Qwen3.8-27B:peft:262144"), "hosted").known
