"""A policy behind OpenAI's chat completions, asked by the real `openai` client and by hand."""

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import tinker
from PIL import Image
from protocol_client import MODEL, datum, png, until

from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.engine.launch import RunningEngine
from visual_r1.evaluation.predict import predict
from visual_r1.policy.policy import open_policy
from visual_r1.progress import Silent
from visual_r1.serving import app
from visual_r1.serving.app import MOST_BYTES
from visual_r1.serving.serve import Named, announcement, endpoint_of, server_of

KEY = "vr1-of-the-tests"
TRAINED, BASE, CHAT = "geo@7", "geo@base", "geo@chat"
PROBLEMS = list(generate(31, "test", 10))


class Served:
    """The endpoint of a test: its address, and clients of it."""

    def __init__(self, url: str, config: RunConfig, path: str, printed: str) -> None:
        self.url, self.config, self.path, self.printed = url, config, path, printed
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def post(self, **body: Any) -> httpx.Response:
        asked = {"model": BASE, "messages": user("Find x."), "max_tokens": 4} | body
        return self.http.post("/v1/chat/completions", json=asked)


@pytest.fixture(scope="module")
def served(engine: RunningEngine) -> Iterator[Served]:
    """The base model, and weights that were trained away from it, on one engine."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TINKER_API_KEY", engine.api_key)
    config = RunConfig.model_validate(
        {
            "preset": "quickstart",
            "backend": {"server": "remote", "base_url": engine.url},
            "sampling": {"max_new_tokens": 40},
        }
    )
    with open_backend(config) as backend:
        service = backend.service
        training = service.create_lora_training_client(MODEL, rank=4, seed=7).result(timeout=60)
        for _ in range(3):
            training.forward_backward([datum()], "cross_entropy")
            training.optim_step(tinker.AdamParams(learning_rate=3e-2)).result(timeout=60)
        path = training.save_weights_for_sampler("served").result(timeout=60).path
        names = [Named(TRAINED, path, config), Named(BASE, None, config)]
        endpoint = endpoint_of(backend, names, wraps=True)
        as_chat = endpoint_of(backend, [Named(CHAT, None, config)], wraps=False)
        endpoint.models[CHAT] = as_chat.models[CHAT]  # type: ignore[index]
        endpoint.samplers._paths[CHAT] = None
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = server_of(endpoint, KEY)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        until(lambda: server.started)
        one = Served(url, config, path, announcement(url, KEY, endpoint.models, wraps=True))
        yield one
        one.http.close()
        one.client.close()
        server.should_exit = True
        thread.join(timeout=30)
    patch.undo()


def user(*parts: str | bytes) -> list[dict[str, Any]]:
    """A chat of one message: texts and pictures."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, bytes):
            data = base64.b64encode(part).decode()
            url = f"data:image/png;base64,{data}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        else:
            content.append({"type": "text", "text": part})
    return [{"role": "user", "content": content}]


def of_problem(problem: Problem) -> list[dict[str, Any]]:
    """A problem as a foreign program sends it: the picture, then the question."""
    return user(*problem.images, problem.question)


@pytest.mark.parametrize("model", [TRAINED, BASE])
def test_the_answer_is_that_of_our_own_evaluation_token_for_token(
    served: Served, model: str
) -> None:
    with open_backend(served.config) as backend:
        sampler = backend.sampler(served.path if model == TRAINED else None)
        policy = open_policy(served.config)
        own = predict(sampler, policy, PROBLEMS, range(10), ["greedy"], "ten", Silent())
    texts: set[str] = set()
    for problem, prediction in zip(PROBLEMS, own, strict=True):
        answer = served.client.chat.completions.create(
            model=model, messages=of_problem(problem), temperature=0, logprobs=True
        )
        assert prediction.greedy is not None
        [choice] = answer.choices
        assert choice.message.content == prediction.greedy.response
        assert answer.usage.completion_tokens == prediction.greedy.tokens
        assert (choice.finish_reason == "length") == prediction.greedy.truncated
        spelt = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
        assert spelt.decode("utf-8", "replace") == choice.message.content
        texts.add(choice.message.content)
    assert len(texts) > 1


def test_the_two_models_are_not_one(served: Served) -> None:
    said = [
        served.client.chat.completions.create(
            model=name, messages=of_problem(PROBLEMS[0]), temperature=0
        )
        for name in (TRAINED, BASE)
    ]
    assert said[0].choices[0].message.content != said[1].choices[0].message.content
    listed = {one.id: one for one in served.client.models.list()}
    assert set(listed) == {TRAINED, BASE, CHAT}
    assert listed[TRAINED].root == served.path
    assert served.client.models.retrieve(BASE).root == MODEL


def test_samples_are_drawn_as_asked(served: Served) -> None:
    def drawn(**how: Any) -> list[str]:
        asked = {"model": BASE, "messages": of_problem(PROBLEMS[1]), "n": 6, "max_tokens": 16}
        answer = served.client.chat.completions.create(**(asked | how))
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.message.content for choice in answer.choices]

    assert len(set(drawn(seed=3))) > 1
    assert drawn(seed=3) == drawn(seed=3) != drawn(seed=4)
    assert len(set(drawn(seed=3, temperature=0))) == 1
    # The nucleus of nearly nothing, and the likeliest token alone, are greedy.
    greedy = drawn(temperature=0, n=1)
    assert drawn(seed=5, top_p=1e-6, n=1) == greedy
    assert drawn(seed=5, extra_body={"top_k": 1}, n=1) == greedy


def test_log_probabilities_are_the_servers(served: Served) -> None:
    answer = served.client.chat.completions.create(
        model=BASE, messages=of_problem(PROBLEMS[2]), temperature=0, logprobs=True, top_logprobs=3
    )
    [choice] = answer.choices
    content = choice.logprobs.content
    # All but the token that ends the answer, where one does.
    assert len(content) == answer.usage.completion_tokens - (choice.finish_reason == "stop")
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-4)
        assert token.logprob <= 0
    assert "".join(token.token for token in content) == answer.choices[0].message.content


def test_a_stop_text_ends_the_answer_and_is_not_in_it(served: Served) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": of_problem(PROBLEMS[3]), "temperature": 0}
    whole = served.client.chat.completions.create(**asked).choices[0].message.content
    cut = whole[5:8]
    answer = served.client.chat.completions.create(**asked, stop=[cut, "never"], logprobs=True)
    [choice] = answer.choices
    assert choice.message.content == whole[: whole.index(cut)]
    assert choice.finish_reason == "stop"
    assert len(choice.logprobs.content) < answer.usage.completion_tokens
    short = served.client.chat.completions.create(**asked, max_completion_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3


def test_a_stream_is_the_same_answer_in_pieces(served: Served) -> None:
    asked: dict[str, Any] = {
        "model": BASE,
        "messages": of_problem(PROBLEMS[4]),
        "n": 2,
        "seed": 11,
        "logprobs": True,
    }
    whole = served.client.chat.completions.create(**asked)
    texts, tokens, ends, usage = ["", ""], [0, 0], ["", ""], None
    stream = served.client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert tokens == [len(choice.logprobs.content) for choice in whole.choices]
    assert usage == whole.usage


def test_several_pictures_turns_and_a_system_message(served: Served) -> None:
    turns = [
        {"role": "system", "content": "You solve geometry problems."},
        *user("First: ", png(), "and second: ", png(64, 64)),
        {"role": "assistant", "content": "<think>two triangles</think>Two."},
        *user(png(), "And now?"),
    ]
    for model in (CHAT, BASE):
        answer = served.client.chat.completions.create(model=model, messages=turns, max_tokens=4)
        assert answer.usage.completion_tokens <= 4
    text = served.client.chat.completions.create(model=CHAT, messages=user("2+3="), max_tokens=2)
    assert text.usage.prompt_tokens < answer.usage.prompt_tokens


def test_a_picture_need_not_show_anything(served: Served) -> None:
    """A dataset wants figures; a client may ask about a single pixel, or an empty page."""
    for size in ((1, 1), (3, 200), (64, 64)):
        blank = io.BytesIO()
        Image.new("RGB", size, "white").save(blank, "PNG")
        answer = served.post(messages=user(blank.getvalue(), "?"))
        assert answer.status_code == 200, answer.text


IMAGE = {"type": "image_url"}
PART = "messages.0.content.1"
PART_URL = f"{PART}.image_url"


def part(wrong: object) -> dict[str, Any]:
    """A request whose second part is `wrong`."""
    content = [{"type": "text", "text": "Find x."}, wrong]
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"top_k": 10**30}, "top_k", "less than 2147483648"),
        ({"n": 500}, "n", "128"),
        ({"temperature": 3}, "temperature", "2"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "leave it out"),
        ({"tools": [{"type": "function"}]}, "tools", "leave it out"),
        ({"response_format": {"type": "json_object"}}, "response_format", "leave it out"),
        ({"nonsense": 1}, "nonsense", "not known"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs", "20"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "give one"),
        ({"stop": ["a", ""]}, "stop", "none of them empty"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "5"}]}, "messages.0.role", "tool"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "no content"),
        ({"messages": [{"role": "assistant", "content": "5"}]}, "messages", "last message"),
        (
            {"messages": [*user("a"), *user("b")]},
            "messages",
            "take turns",
        ),
        (
            {"messages": [*user("a"), {"role": "system", "content": "b"}, *user("c")]},
            "messages",
            "stands first",
        ),
        (
            {"messages": [{"role": "system", "content": user(png())[0]["content"]}, *user("c")]},
            "messages",
            "user's messages",
        ),
        ({"max_tokens": 100_000}, "messages", "context of 4096"),
        ({"stop": ["a", 1]}, "stop.1", "valid string"),
        (part({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}), PART_URL, '"url"'),
        (part({"type": "image_url", "image_url": None}), PART_URL, "an object"),
        (part({"type": "image_url", "image_url": {}}), f"{PART_URL}.url", "required"),
        (
            part({"type": "image_url", "image_url": {"url": "data:", "detail": "original"}}),
            f"{PART_URL}.detail",
            "'auto', 'high' or 'low'",
        ),
        (part({"type": "input_audio", "input_audio": {}}), PART, "'input_audio'"),
        (part({"type": "text"}), f"{PART}.text", "required"),
        (part({"type": "text", "text": None}), f"{PART}.text", "valid string"),
        (part({"text": "a"}), PART, "'type'"),
        (part("a"), PART, "an object"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "valid string"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    served: Served, body: dict[str, Any], param: str, says: str
) -> None:
    answer = served.post(**body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param and says in error["message"], error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/figure.png", "fetches nothing"),
        ("file:///etc/passwd", "fetches nothing"),
        ("/etc/passwd", "fetches nothing"),
        ("data:image/png,plain", "base64"),
        ("data:image/png;base64,@@@", "not base64"),
        ("data:image/png;base64,aGVsbG8=", "cannot be shown"),
    ],
)
def test_pictures_come_in_the_request_and_nothing_is_fetched(
    served: Served, url: str, says: str
) -> None:
    content = [IMAGE | {"image_url": {"url": url}}, {"type": "text", "text": "?"}]
    answer = served.post(messages=[{"role": "user", "content": content}])
    assert answer.status_code == 400 and says in answer.json()["error"]["message"]


def test_parameters_that_ask_for_nothing_are_let_pass(served: Served) -> None:
    answer = served.post(
        **{"user": "me", "frequency_penalty": 0, "logit_bias": {}, "tools": None, "store": False},
        **{"response_format": {"type": "text"}, "metadata": {"run": "7"}, "top_k": 0},
    )
    assert answer.status_code == 200, answer.text


def test_who_may_not_ask_learns_nothing(served: Served) -> None:
    def status(**headers: str) -> int:
        return httpx.get(f"{served.url}/v1/models", headers=headers, trust_env=False).status_code

    assert status() == status(Authorization="Bearer wrong") == status(Authorization=KEY) == 401
    good = {"Authorization": f"Bearer {KEY}"}
    assert status(**good) == 200
    assert status(**good, Host="evil.example") == status(Host="evil.example:80") == 403
    assert status(**good, Host="localhost:1234") == 200
    origin = httpx.options(f"{served.url}/v1/models", headers=good | {"Origin": "http://evil"})
    assert not [name for name in origin.headers if name.startswith("access-control")]
    assert httpx.get(f"{served.url}/health", trust_env=False).json() == {"status": "ok"}
    with pytest.raises(openai.AuthenticationError, match="printed when it started"):
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="no", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError, match=r"no model 'gpt-5' here; there is geo@7"):
        served.client.chat.completions.create(model="gpt-5", messages=user("?"))
    assert served.http.post("/v1/completions", json={}).json()["error"]["code"] == "not_found"
    wrong = served.http.get("/v1/chat/completions").json()["error"]
    assert wrong["code"] == "method_not_allowed"


def test_bodies_are_bounded(served: Served) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MOST_BYTES // 2**20 + 1):
            yield b" " * 2**20

    answer = served.http.post("/v1/chat/completions", content=pieces())
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
    answer = served.http.post("/v1/chat/completions", content=b"{not json")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_takes_its_request_with_it(served: Served, stream: bool) -> None:
    # Alone it would take the engine many minutes, and who comes next waits for it.
    long = {"model": CHAT, "messages": user(png(), "?"), "n": 128, "max_tokens": 3900}
    with (
        pytest.raises(httpx.ReadTimeout),
        served.http.stream(
            "POST", "/v1/chat/completions", json=long | {"stream": stream}, timeout=3
        ) as answer,
    ):
        for _ in answer.iter_bytes():
            pass
    assert served.post().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_a_429_for_streams_as_well(
    served: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    asked = {"model": CHAT, "messages": user(png(), "?"), "n": 128, "max_tokens": 3900}
    with served.http.stream("POST", "/v1/chat/completions", json=asked | {"stream": True}) as long:
        assert long.status_code == 200
        monkeypatch.setattr(app, "MOST_AT_ONCE", 1)
        monkeypatch.setattr(app, "MOST_WAITING", 0)
        full = served.post(stream=stream)
        assert full.status_code == 429, full.text
        assert full.headers["retry-after"] == "1"
        assert full.json()["error"]["type"] == "rate_limit_error"
    # Who goes leaves its place to others.
    until(lambda: served.post(stream=stream).status_code == 200)


def test_the_printed_request_works_as_it_stands(served: Served) -> None:
    line = next(line for line in served.printed.splitlines() if line.lstrip().startswith("-d"))
    body = json.loads(line.split("'", 1)[1].rsplit("'", 1)[0])
    answer = served.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.json()["model"] == TRAINED
    assert f"export OPENAI_BASE_URL={served.url}/v1" in served.printed
