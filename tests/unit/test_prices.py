"""What tokens cost."""

import pytest

from visual_r1.config import RunConfig
from visual_r1.prices import NO_TOKENS, Prices, Tokens, prices_of, total

PRICED = RunConfig.model_validate({"prices": {"prefill": 0.2, "sample": 0.5, "train": 0.6}})


def test_each_kind_has_its_price_for_a_million() -> None:
    prices = prices_of(PRICED, "hosted")
    tokens = Tokens(prefill=2_000_000, sample=3_000_000, train=500_000)
    assert prices.cost(tokens) == pytest.approx(0.4 + 1.5 + 0.3)
    assert prices.cost(NO_TOKENS) == 0.0


def test_nothing_is_paid_on_the_embedded_engine() -> None:
    assert prices_of(PRICED, "embedded") == Prices()
    assert prices_of(PRICED, "self-hosted") == Prices(0.2, 0.5, 0.6)


@pytest.mark.parametrize("missing", ["prefill", "sample", "train"])
def test_without_one_of_the_prices_there_is_no_cost(missing: str) -> None:
    given = {"prefill": 1.0, "sample": 1.0, "train": 1.0, missing: None}
    assert Prices(**given).cost(Tokens(1, 1, 1)) is None


def test_what_a_million_costs_does_not_make_another_run() -> None:
    assert PRICED.digest() == RunConfig().digest()


def test_tokens_add_up() -> None:
    assert total([Tokens(1, 2, 3), Tokens(sample=10)]) == Tokens(1, 12, 3)
    assert total([]) == NO_TOKENS
