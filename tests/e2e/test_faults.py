"""Behind a network that loses, breaks, delays and repeats, a run ends with the same bits."""

import io
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from google.protobuf.message import DecodeError
from tinker.proto.tinker_public_pb2 import ForwardBackwardRequest, SampleResponse

from trials.fault_proxy import FAULTS, Change, FaultProxy
from trials.faulty_runs import config_of, run
from visual_r1.engine.launch import RunningEngine, start_engine
from visual_r1.errors import BackendError, ConfigError, IncompatibleServer, VisualR1Error
from visual_r1.models import TINY_GEOMETRY
from visual_r1.progress import Silent

SEED = 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the engine."""
    return tmp_path_factory.mktemp("faults") / "engine"


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    """One engine for all tests, each with a proxy of its own."""
    with start_engine(home, TINY_GEOMETRY, 1, home.with_name("engine.log")) as running:
        yield running


def test_a_fifth_of_all_requests_meets_a_fault(
    engine: RunningEngine, home: Path, tmp_path: Path
) -> None:
    plain = run(config_of(tmp_path, "plain", 2, 1), engine, home, engine.url)
    with FaultProxy(engine.url, SEED, stall_s=0.3) as proxy:
        faulty = run(config_of(tmp_path, "faulty", 2, 1), engine, home, proxy.url)
    assert len(plain.metrics) == 2
    assert all(row["updated"] for row in plain.metrics)
    assert faulty.differing(plain) == []
    assert set(proxy.faults) == set(FAULTS), "another seed would meet each kind of fault"
    assert 0.1 < proxy.faults.total() / proxy.requests < 0.3


def without_sequence_ids(path: str, answer: httpx.Response) -> httpx.Response:
    """A server of an older protocol."""
    if not path.endswith("/asample"):
        return answer
    kept = json.loads(answer.read())
    del kept["sample_sequence_ids"]
    return httpx.Response(200, json=kept)


def refusing(call: str, why: str) -> Change:
    """A server that refuses one call."""

    def change(path: str, answer: httpx.Response) -> httpx.Response:
        return httpx.Response(400, json={"detail": why}) if path.endswith(call) else answer

    return change


def without_logprobs(path: str, answer: httpx.Response) -> httpx.Response:
    """A server that samples, and does not say how likely it found what it drew."""
    if "protobuf" not in answer.headers.get("content-type", ""):
        return answer
    reply = SampleResponse.FromString(answer.read())
    for sequence in reply.sequences:
        sequence.ClearField("logprobs")
    headers = {"content-type": answer.headers["content-type"]}
    return httpx.Response(200, content=reply.SerializeToString(), headers=headers)


def without_prompt_logprobs(path: str, answer: httpx.Response) -> httpx.Response:
    """A server that samples, and scores no prompt."""
    del path
    if "protobuf" not in answer.headers.get("content-type", ""):
        return answer
    try:
        reply = SampleResponse.FromString(answer.read())
    except DecodeError:
        return answer  # the reply of a forward
    reply.ClearField("prompt_logprobs")
    headers = {"content-type": answer.headers["content-type"]}
    return httpx.Response(200, content=reply.SerializeToString(), headers=headers)


def of_another_version(path: str, answer: httpx.Response) -> httpx.Response:
    """A server that names what it offers in another form."""
    del path
    if b"sampling_session_id" not in answer.read():
        return answer
    return httpx.Response(200, json={"sampler": "another form"})


def outdated(path: str, answer: httpx.Response) -> httpx.Response:
    """A server that wants another SDK."""
    said = {"detail": "sdk_version 0.38.0 is not supported, use 0.24"}
    return httpx.Response(426, json=said) if path.endswith("/client/config") else answer


def failing_images(path: str, answer: httpx.Response) -> httpx.Response:
    """A server that takes the request and refuses it when it is its turn."""
    if "protobuf" not in answer.headers.get("content-type", ""):
        return answer
    return httpx.Response(200, json={"error": "no vision here", "category": "user"})


LACKS: list[tuple[Change, type[VisualR1Error], str]] = [
    (outdated, BackendError, "status 426, 'sdk_version 0.38.0 is not supported, use 0.24'"),
    (of_another_version, IncompatibleServer, "made for another version of the protocol"),
    (without_sequence_ids, IncompatibleServer, "made for another version of the protocol"),
    (without_logprobs, IncompatibleServer, "returns no log-probabilities of sampled tokens"),
    (failing_images, ConfigError, "takes no image with the model .* no vision here"),
    (refusing("/asample", "no images"), ConfigError, "takes no image with the model .* no images"),
    (
        refusing("/forward_backward", "no such loss"),
        ConfigError,
        "does not compute the loss 'importance_sampling' .* no such loss",
    ),
]


def test_what_a_server_lacks_is_said_before_the_first_step(
    engine: RunningEngine, home: Path, tmp_path: Path
) -> None:
    for number, (change, kind, sentence) in enumerate(LACKS):
        config = config_of(tmp_path, f"lacks-{number}", 2, 1)
        with (
            FaultProxy(engine.url, SEED, share=0, change=change) as proxy,
            pytest.raises(kind, match=sentence),
        ):
            run(config, engine, home, proxy.url)
        assert not (config.run_dir / "metrics.jsonl").exists()


def test_stable_reinforce_learns_from_what_its_own_session_sampled(
    engine: RunningEngine, home: Path, tmp_path: Path
) -> None:
    """At a server that has a formula (that of importance_sampling), and that once has lost what it
    recorded: the chunk is begun again, and samples again, in a session of its own."""
    lost = itertools.count()
    sent: list[ForwardBackwardRequest] = []

    def with_a_formula(path: str, body: bytes) -> bytes:
        if not path.endswith("/forward_backward"):
            return body
        message = ForwardBackwardRequest.FromString(body)
        assert message.loss_fn == "stable_reinforce"
        if not message.forward_only:
            sent.append(message)
        message.loss_fn = "importance_sampling"
        return message.SerializeToString()

    def forgetting(path: str, answer: httpx.Response) -> httpx.Response:
        learnt = path.endswith("/retrieve_future") and b"logprobs" in answer.read()
        # After the forward of the probe, and the first step.
        if not learnt or next(lost) != 2:
            return answer
        said = {"error": "its provenance names what is not known", "category": "user"}
        return httpx.Response(200, json=said)

    plain = run(config_of(tmp_path, "not-stable", 3, 2), engine, home, engine.url)
    config = config_of(tmp_path, "stable", 3, 2)
    train = config.train.model_copy(update={"loss": "stable_reinforce"})
    with FaultProxy(engine.url, SEED, share=0, change=forgetting, rewrite=with_a_formula) as proxy:
        stable = run(config.model_copy(update={"train": train}), engine, home, proxy.url)
    assert stable.tensors == plain.tensors and stable.metrics == plain.metrics
    names = [row.pop("sequence_id") for row in stable.rollouts]
    assert {row.pop("sequence_id") for row in plain.rollouts} == {None}
    assert stable.rollouts == plain.rollouts
    assert len(set(names)) == len(names)
    # Steps 0 and 1, again, and step 2: each of the session that trained on it.
    assert len(sent) == 5
    for message in sent:
        session = message.model_id.partition(":")[0]
        spans = [span for one in message.data for span in one.loss_fn_input_spans]
        assert {span.sampled_tokens.sequence_id[:32] for span in spans} <= {session, ""}
    assert len({name.partition(":")[0] for name in names}) == 2


def test_a_kl_needs_a_server_that_scores_prompts(
    engine: RunningEngine, home: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path, "kl", 2, 1, "dynamic-kl")
    with (
        FaultProxy(engine.url, SEED, share=0, change=without_prompt_logprobs) as proxy,
        pytest.raises(ConfigError, match="returns no log-probabilities of prompts"),
    ):
        run(config, engine, home, proxy.url)
    assert not (config.run_dir / "metrics.jsonl").exists()


def test_the_progress_says_why_nothing_moves(
    engine: RunningEngine, home: Path, tmp_path: Path
) -> None:
    asked = itertools.count()

    def pausing(path: str, answer: httpx.Response) -> httpx.Response:
        if not path.endswith("/retrieve_future") or not 1 <= next(asked) <= 4:
            return answer
        time.sleep(0.6)  # as a server that lets its clients poll
        return httpx.Response(408, json={"type": "try_again", "queue_state": "paused_capacity"})

    said = io.StringIO()
    with FaultProxy(engine.url, SEED, share=0, change=pausing) as proxy:
        run(config_of(tmp_path, "paused", 2, 1), engine, home, proxy.url, Said(said))
    assert "waiting: paused for capacity" in said.getvalue()
    assert said.getvalue().splitlines()[-1] == "waiting: "


class Said(Silent):
    """Writes down what is waited for."""

    def __init__(self, out: io.StringIO) -> None:
        self.out = out

    def waiting(self, reason: str) -> None:
        self.out.write(f"waiting: {reason}\n")
