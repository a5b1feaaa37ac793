"""The calls that a step sends most, which pass FastAPI by: their refusals are those of all others.

The tests of the protocol ask for what they answer.
"""

from typing import Any

import pytest
from served_engine import Client, Play

from visual_r1.engine.server.app import OFTEN
from visual_r1.engine.server.wire import BODY_LIMIT


def test_they_are_these() -> None:
    assert set(OFTEN) == {"/asample", "/retrieve_future"}


@pytest.mark.parametrize("path", ["asample", "retrieve_future"])
def test_they_want_the_key(play: Play, path: str) -> None:
    async def story(client: Client) -> None:
        answer = await client.call(path, {}, headers={"X-API-Key": "tml-another"})
        assert answer.status_code == 401
        assert "does not hold this engine's key" in answer.json()["detail"]

    play(story)


@pytest.mark.parametrize("path", ["asample", "retrieve_future", "optim_step"])
def test_what_is_no_json_object_is_refused_in_one_sentence(play: Play, path: str) -> None:
    async def story(client: Client) -> None:
        refused: list[tuple[Any, str]] = [([], "a list and no"), ({"n": 2**70}, "of 22 digits")]
        for body, why in refused:
            answer = await client.call(path, body)
            assert answer.status_code == 400
            assert why in answer.json()["detail"]

    play(story)


@pytest.mark.parametrize("path", ["asample", "retrieve_future", "optim_step"])
def test_a_body_that_turns_out_too_large_is_refused_while_it_comes(play: Play, path: str) -> None:
    async def story(client: Client) -> None:
        answer = await client.call(path, {"a": [0] * 1_000_000})
        assert answer.status_code == 413
        assert "more than" in answer.json()["detail"]
        announced = {"content-length": str(BODY_LIMIT + 1)}
        answer = await client.call(path, {}, headers=announced)
        assert answer.status_code == 413

    play(story)


@pytest.mark.parametrize("path", ["asample", "retrieve_future"])
def test_another_method_is_no_call(play: Play, path: str) -> None:
    async def story(client: Client) -> None:
        answer = await client.get(path)
        assert answer.status_code == 404
        assert f"GET /api/v1/{path} is no call that this engine serves" in answer.json()["detail"]

    play(story)
