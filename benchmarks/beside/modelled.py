"""A Tinker server that computes nothing and takes the time of one that does.

    python -m beside.modelled SETTINGS.json           # prints "ready URL" when it serves

It speaks the protocol to the unmodified SDK. What it models: sequences that are decoded at so many
at a time, first come first served; answers whose lengths are log-normal, and a time a token; a
limit on requests a second, beyond which it answers 429; a learner beside the samplers, which works
on one call after another at so many tokens a second. Answers are texts of the shipped model's kind,
drawn from the request's seed; a datum's log-probabilities come back as they were sampled.
"""

import asyncio
import json
import random
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
import zstandard
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tinker.proto import tinker_public_pb2 as pb

from beside.latency import METHODS, POLL_S, PREFIX
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.models.processor import load_processor

PROTOBUF = "application/x-protobuf"
LOGPROB = -0.1
FORM = "<think>read {0} and {1}. {0}+{1}={2}. </think><answer>{2}</answer>"
FILLING = "180-{0}={1}. "


@dataclass(frozen=True)
class Cluster:
    """What is modelled; times are in seconds."""

    rows: int = 4096
    """Sequences that are decoded at a time."""
    token_s: float = 0.02
    answer_tokens: float = 150.0
    """Median of an answer's length."""
    spread: float = 0.5
    """Standard deviation of its logarithm."""
    requests_per_s: float = 200.0
    burst: int = 256
    trained_tokens_per_s: float = 5e5
    overhead_s: float = 0.05
    """Of each call."""


@dataclass
class Worked:
    """What the server has done so far."""

    samples: int = 0
    tokens: int = 0
    refused: int = 0
    sampler_row_s: float = 0.0
    """Seconds that rows were taken, all rows together."""
    learner_s: float = 0.0
    trained_tokens: int = 0
    waited_s: list[float] = field(default_factory=list)
    """Of each sampling request, from its coming to its answer."""


class Answers:
    """Texts of the shipped model's form, as tokens, by seed."""

    def __init__(self, cluster: Cluster) -> None:
        self._tokenizer = load_processor(TINY_GEOMETRY).tokenizer
        self._cluster = cluster
        folder = Path(model_path(TINY_GEOMETRY))
        ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        self._end = int(ends[0])

    def of(self, seed: int, number: int, most: int) -> tuple[np.ndarray, bool]:
        """An answer's tokens, int32, and whether it came to its end within `most`."""
        draw = random.Random(f"{seed} {number}")
        wanted = self._cluster.answer_tokens * np.exp(draw.gauss(0.0, self._cluster.spread))
        a, b = draw.randrange(20, 90), draw.randrange(20, 90)
        head, tail = FORM.format(a, b, a + b).split("</think>")
        filling = self._ids(FILLING.format(a + b, 180 - a - b))
        start, end = self._ids(head), [*self._ids(f"</think>{tail}"), self._end]
        count = max(0, round((wanted - len(start) - len(end)) / len(filling)))
        tokens = [*start, *filling * count, *end]
        return np.asarray(tokens[:most], np.int32), len(tokens) <= most

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


class Server:
    """The routes, and the queues behind them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.worked = Worked()
        self._answers = Answers(cluster)
        self._free = cluster.rows
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._results: dict[str, asyncio.Task[tuple[bytes, str]]] = {}
        self._models: dict[str, dict[str, Any]] = {}
        self._learner_free_at = 0.0
        self._tokens_left, self._refilled = float(cluster.burst), time.monotonic()
        self._numbers = iter(range(1, sys.maxsize))
        self.app = Starlette(routes=[Route("/{path:path}", self._serve, methods=METHODS)])

    async def _serve(self, request: Request) -> Response:
        path = request.url.path.removeprefix(PREFIX)
        raw = await request.body()
        if request.headers.get("content-encoding") == "zstd":
            raw = zstandard.ZstdDecompressor().stream_reader(raw).read()
        if path == "/retrieve_future":
            return await self._retrieve(json.loads(raw)["request_id"])
        if path == "/forward_backward":
            return JSONResponse(self._forward_backward(raw))
        if path == "/asample":
            return self._sample(json.loads(raw))
        answer = self._answer(request.method, path, json.loads(raw) if raw else {})
        return Response(status_code=204) if answer is None else JSONResponse(answer)

    # -- what is answered at once ----------------------------------------------------------------

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        model = {"model_name": TINY_GEOMETRY, "max_context_length": 4096}
        known: dict[str, Callable[[], dict[str, Any]]] = {
            "/healthz": lambda: {"status": "ok"},
            "/worked": lambda: asdict(self.worked),
            "/client/config": lambda: {"parallel_fwdbwd_chunks": True},
            "/client/dynamic_config": lambda: {},
            "/telemetry": lambda: {"status": "accepted"},
            "/get_server_capabilities": lambda: {
                "supported_models": [model | {"trainable": True, "sampleable": True}]
            },
            "/create_session": lambda: self._typed("create_session", session_id=self._new("s")),
            "/session_heartbeat": lambda: self._typed("session_heartbeat"),
            "/create_sampling_session": lambda: self._typed(
                "create_sampling_session", sampling_session_id=self._new("sampler")
            ),
            "/join_sampling_session": lambda: self._typed(
                "join_sampling_session", client_counter=next(self._numbers)
            ),
            "/create_model": lambda: self._make(body, "create_model"),
            "/load_weights": lambda: self._make(body, "load_weights"),
            "/get_info": lambda: self._info(body["model_id"]),
            "/weights_info": self._weights_info,
            "/optim_step": lambda: self._later(
                body, {"metrics": {"grad_norm:mean": 1.0}}, self._learning(0)
            ),
            "/save_weights": lambda: self._save(body, "save_weights", "weights"),
            "/save_weights_for_sampler": lambda: self._save(
                body, "save_weights_for_sampler", "sampler_weights"
            ),
        }
        if path in known:
            return known[path]()
        if path.startswith("/samplers/"):
            sampler = path.rpartition("/")[2]
            return {"sampler_id": sampler, "base_model": TINY_GEOMETRY, "model_path": None}
        if method == "GET" and path.endswith("/checkpoints"):
            return {"checkpoints": [], "cursor": {"offset": 0, "limit": 100, "total_count": 0}}
        return None  # Lifetimes, deletions, ends of sessions.

    def _typed(self, kind: str, **values: Any) -> dict[str, Any]:
        return {"type": kind, **values}

    def _new(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    def _make(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        self._models[model_id] = body
        done = {"type": kind, "model_id": model_id, "path": body.get("path")}
        return self._later({"model_id": model_id, "seq_id": "create"}, done, self._learning(0))

    def _info(self, model_id: str) -> dict[str, Any]:
        names = {"model_name": TINY_GEOMETRY, "tokenizer_id": model_path(TINY_GEOMETRY)}
        return {
            "type": "get_info",
            "model_id": model_id,
            "model_name": TINY_GEOMETRY,
            "is_lora": True,
            "lora_rank": 16,
            "optimizer_config": {"type": "adamw"},
            "model_data": {"arch": "modelled"} | names,
        }

    def _weights_info(self) -> dict[str, Any]:
        trained = {f"train_{part}": True for part in ("unembed", "mlp", "attn")}
        base = {"base_model": TINY_GEOMETRY, "optimizer_config": {"type": "adamw"}}
        return base | {"is_lora": True, "lora_rank": 16} | trained

    def _save(self, body: dict[str, Any], kind: str, place: str) -> dict[str, Any]:
        done: dict[str, Any] = {"type": kind}
        if body.get("path") is None:
            done["sampling_session_id"] = self._new("sampler")
        else:
            done["path"] = f"tinker://{body['model_id']}/{place}/{body['path']}"
        return self._later(body, done, self._learning(0))

    # -- what takes its time ---------------------------------------------------------------------

    def _later(
        self, body: dict[str, Any], done: dict[str, Any], work: Awaitable[None]
    ) -> dict[str, Any]:
        return self._begin(f"{body['model_id']}:{body['seq_id']}", body["model_id"], done, work)

    def _begin(
        self, request_id: str, model_id: str, done: dict[str, Any] | bytes, work: Awaitable[None]
    ) -> dict[str, Any]:
        async def result() -> tuple[bytes, str]:
            await work
            if isinstance(done, bytes):
                return done, PROTOBUF
            return json.dumps(done).encode(), "application/json"

        self._results[request_id] = asyncio.ensure_future(result())
        return {"request_id": request_id, "model_id": model_id}

    async def _learning(self, tokens: int) -> None:
        """One call after another, whoever sends them."""
        takes = self.cluster.overhead_s + tokens / self.cluster.trained_tokens_per_s
        now = time.monotonic()
        self._learner_free_at = max(now, self._learner_free_at) + takes
        self.worked.learner_s += takes
        self.worked.trained_tokens += tokens
        await asyncio.sleep(self._learner_free_at - now)

    def _forward_backward(self, raw: bytes) -> dict[str, Any]:
        request = pb.ForwardBackwardRequest()
        request.ParseFromString(raw)
        logprobs = [datum.loss_fn_inputs["logprobs"].dense for datum in request.data]
        output = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
        output.metrics["loss:sum"] = 0.0
        record = output.loss_fn_outputs.add()
        record.num_datums = len(logprobs)
        values = record.fields["logprobs"]
        values.data = b"".join(logprobs)
        values.offsets = np.cumsum([0, *map(len, logprobs)], dtype=np.int64).tobytes()
        values.dtype = pb.DTYPE_FLOAT32
        work = self._learning(len(values.data) // 4)
        request_id = f"{request.model_id}:{request.seq_id}"
        return self._begin(request_id, request.model_id, output.SerializeToString(), work)

    def _sample(self, body: dict[str, Any]) -> Response:
        request_id = f"{body.get('sampling_session_id')}:{body.get('seq_id')}"
        count = int(body.get("num_samples", 1))
        if request_id not in self._results:
            if not self._allowed():
                self.worked.refused += 1
                return JSONResponse({"detail": "too many requests a second"}, 429)
            self._results[request_id] = asyncio.ensure_future(self._sampled(body, count))
        ids = [f"{request_id}:{place}" for place in range(count)]
        return JSONResponse({"request_id": request_id, "sample_sequence_ids": ids})

    def _allowed(self) -> bool:
        now = time.monotonic()
        grown = self._tokens_left + (now - self._refilled) * self.cluster.requests_per_s
        self._tokens_left, self._refilled = min(float(self.cluster.burst), grown), now
        if self._tokens_left < 1:
            return False
        self._tokens_left -= 1
        return True

    async def _sampled(self, body: dict[str, Any], count: int) -> tuple[bytes, str]:
        came = time.monotonic()
        how = body["sampling_params"]
        most, seed = how.get("max_tokens") or 4096, how.get("seed") or 0
        drawn = [self._answers.of(seed, number, most) for number in range(count)]
        await self._take(count)
        takes = [self.cluster.overhead_s + self.cluster.token_s * len(one) for one, _ in drawn]
        # A row is free when its own answer is done, and the request is answered when all are.
        for one in takes:
            asyncio.get_running_loop().call_later(one, self._give, 1)
        await asyncio.sleep(max(takes, default=0.0))
        response = pb.SampleResponse()
        for tokens, ended in drawn:
            response.sequences.add(
                stop_reason=pb.STOP_REASON_STOP if ended else pb.STOP_REASON_LENGTH,
                tokens=tokens.tobytes(),
                logprobs=np.full(len(tokens), LOGPROB, np.float32).tobytes(),
            )
        if body.get("prompt_logprobs"):
            response.prompt_logprobs = np.zeros(1, np.float32).tobytes()
        self.worked.samples += count
        self.worked.tokens += sum(len(one) for one, _ in drawn)
        self.worked.sampler_row_s += sum(takes)
        self.worked.waited_s.append(time.monotonic() - came)
        return response.SerializeToString(), PROTOBUF

    async def _take(self, rows: int) -> None:
        """Wait for so many free rows; who came first gets them first."""
        if not self._waiting and self._free >= rows:
            self._free -= rows
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, turn))
        await turn

    def _give(self, rows: int) -> None:
        self._free += rows
        while self._waiting and self._free >= self._waiting[0][0]:
            wanted, turn = self._waiting.popleft()
            self._free -= wanted
            turn.set_result(None)

    async def _retrieve(self, request_id: str) -> Response:
        work = self._results.get(request_id)
        if work is None:
            return JSONResponse({"detail": f"{request_id} is not here"}, 410)
        done, _ = await asyncio.wait({work}, timeout=POLL_S)
        if not done:
            waiting = self._typed("try_again", request_id=request_id, queue_state="active")
            return JSONResponse(waiting, 408)
        content, kind = work.result()
        # Kept a while, for a client that lost the answer, and then let go of.
        asyncio.get_running_loop().call_later(60.0, self._results.pop, request_id, None)
        return Response(content, media_type=kind)


def main() -> None:
    cluster = Cluster(**json.loads(Path(sys.argv[1]).read_text()))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(Server(cluster).app, log_level="error", access_log=False)
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
