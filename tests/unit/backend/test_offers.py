"""Which model a server is asked for, and what is said where it has another."""

from typing import Any

import pytest
from tinker.types import GetServerCapabilitiesResponse

from visual_r1.backend.offers import Offers, offers_of, require_offered
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.models.hosted import as_of, hosted_model, successor_of

SEED = "Qwen/Qwen3-VL-30B-A3B-Instruct"
TODAY = (
    "Qwen/Qwen3.5-4B",
    "Qwen/Qwen3.6-35B-A3B",
    "Qwen/Qwen3.6-35B-A3B:peft:262144",
    "Qwen/Qwen3-8B",
    "moonshotai/Kimi-K2.6",
)


def offering(*names: str, **facts: Any) -> Offers:
    models = [{"model_name": name, "max_context_length": 32768, **facts} for name in names]
    return offers_of(GetServerCapabilitiesResponse.model_validate({"supported_models": models}))


def refused(name: str, offers: Offers, *, trains: bool = True) -> str:
    with pytest.raises(ConfigError) as raised:
        require_offered(name, offers, trains=trains)
    sentence = str(raised.value)
    assert sentence.endswith(".")
    assert ". " not in sentence.replace("Qwen3.", "")  # one sentence
    return sentence


def test_what_is_on_offer_is_taken() -> None:
    for facts in ({}, {"trainable": True, "sampleable": True}, {"trainable": None}):
        offers = offering(*TODAY, "mine/of-next-year", **facts)
        for name in (*TODAY, "mine/of-next-year"):
            if name != "Qwen/Qwen3-8B":
                require_offered(name, offers, trains=True)
    assert offers["Qwen/Qwen3.5-4B"].context_length == 32768


def test_a_retired_default_names_its_successor_and_what_sees() -> None:
    assert RunConfig().model.name == SEED
    day = f"{as_of().day} {as_of():%B %Y}"
    assert refused(SEED, offering(*TODAY, "mine/of-next-year")) == (
        f"The server does not offer the model '{SEED}', which the hosted service retired on "
        "12 June 2026: take its successor, --model.name Qwen/Qwen3.6-35B-A3B --model.thinking off; "
        "of those on offer these take pictures: Qwen/Qwen3.5-4B, Qwen/Qwen3.6-35B-A3B, "
        "Qwen/Qwen3.6-35B-A3B:peft:262144; they too, but their prompts are not known here: "
        f"moonshotai/Kimi-K2.6; whether these do, the list of {day} does not know: "
        "mine/of-next-year."
    )


def test_a_successor_that_is_not_there_either_is_named() -> None:
    sentence = refused(SEED, offering("Qwen/Qwen3.5-4B"))
    assert "its successor is Qwen/Qwen3.6-35B-A3B, which this server does not offer" in sentence
    assert "take pictures: Qwen/Qwen3.5-4B" in sentence


def test_a_successor_may_have_a_suffix_and_may_have_been_retired_itself() -> None:
    suffixed = offering("Qwen/Qwen3.6-35B-A3B:peft:262144")
    assert "--model.name Qwen/Qwen3.6-35B-A3B:peft:262144 --" in refused(SEED, suffixed)
    last = successor_of("Qwen/Qwen3.5-27B")  # by way of Qwen3.6-27B
    assert last is not None
    assert (last.name, last.thinking) == ("Qwen/Qwen3.8-27B", None)


def test_an_unknown_suffix_names_those_there_are() -> None:
    assert refused("Qwen/Qwen3.6-35B-A3B:peft:999", offering(*TODAY)) == (
        "The server does not offer the model 'Qwen/Qwen3.6-35B-A3B:peft:999', with this suffix: "
        "choose --model.name Qwen/Qwen3.6-35B-A3B or Qwen/Qwen3.6-35B-A3B:peft:262144."
    )


@pytest.mark.parametrize("meant", ["qwen3.5-4b", "Qwen/Qwen3.5-4b", "Qwen/Qwen3.5_4B"])
def test_a_name_that_is_spelt_much_like_one(meant: str) -> None:
    assert ": did you mean --model.name Qwen/Qwen3.5-4B; " in refused(meant, offering(*TODAY))


def test_another_name_lists_what_sees_and_nothing_else() -> None:
    sentence = refused("Qwen/Qwen2.5-VL-7B-Instruct", offering(*TODAY))
    assert "did you mean" not in sentence
    assert "Qwen3-8B" not in sentence


def test_where_no_prompts_are_known_of_what_sees_it_is_named_all_the_same() -> None:
    assert refused("mine/other", offering("moonshotai/Kimi-K2.6")) == (
        "The server does not offer the model 'mine/other': choose another --model.name; of those "
        "on offer these take pictures, but their prompts are not known here: moonshotai/Kimi-K2.6."
    )


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B:peft:32768"])
def test_a_model_of_text_alone_is_refused(name: str) -> None:
    sentence = refused(name, offering(*TODAY, "Qwen/Qwen3-8B:peft:32768"))
    assert f"'{name}' reads text alone, and takes no pictures: " in sentence
    assert "take pictures: Qwen/Qwen3.5-4B" in sentence


def test_a_model_that_samples_and_does_not_train() -> None:
    samples = offering("Qwen/Qwen3.5-4B", trainable=False, sampleable=True)
    offers = {**samples, **offering("Qwen/Qwen3.5-9B", trainable=True)}
    sentence = refused("Qwen/Qwen3.5-4B", offers)
    assert "samples from the model 'Qwen/Qwen3.5-4B' and does not train it: " in sentence
    assert sentence.endswith("take pictures: Qwen/Qwen3.5-9B.")
    require_offered("Qwen/Qwen3.5-4B", offers, trains=False)  # an evaluation asks it all the same


def test_a_model_that_cannot_be_sampled_from_cannot_be_evaluated_either() -> None:
    offers = offering("Qwen/Qwen3.5-4B", trainable=True, sampleable=False)
    sentence = refused("Qwen/Qwen3.5-4B", offers, trains=False)
    assert "no sampling capacity" in sentence
    assert "none of those on offer would do (Qwen/Qwen3.5-4B)" in sentence
    assert "(none)" in refused(SEED, offering())


def test_the_list_of_known_models_leads_to_one_that_is_offered_and_sees() -> None:
    assert as_of().year == 2026
    for name in ("seed", "geometry3k", "first_try"):
        known = hosted_model(RunConfig(preset=name).model.name)
        assert known is not None
        assert known.sees
        last = known if known.retired is None else successor_of(known.name)
        assert last is not None
        assert last.sees
        assert last.asked_here
