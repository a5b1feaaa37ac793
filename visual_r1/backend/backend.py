"""A Tinker server in use, and clients of it.

Whatever it is, embedded or remote, all calls go through the unmodified `tinker` SDK.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import tinker
from tinker.lib.internal_client_holder import (  # pyright: ignore[reportMissingTypeStubs]
    InternalClientHolder,
)
from tinker.types import BillingUsageResponse

from visual_r1.backend.endpoint import Endpoint, Kind, choose_kind, probe, remote_endpoint
from visual_r1.backend.offers import Offers, offers_of, require_offered
from visual_r1.backend.recovery import Recoveries
from visual_r1.backend.sessions import Status, end_session, forget_pauses, wait_for_ends
from visual_r1.backend.shared_engine import EngineOf, SharedEngine, alive, use_engine
from visual_r1.backend.waiting import call, checkpoint_exists, detail_of, wait
from visual_r1.config import BackendSection, RunConfig
from visual_r1.engine.launch import RunningEngine, StartingEngine, begin_engine
from visual_r1.engine.store.budget import RUN_KEY
from visual_r1.engine.store.soundness import tensor_fingerprints
from visual_r1.errors import BackendError, EngineError, RequestRefused
from visual_r1.liveness import Progress

CONNECT_SECONDS = 60.0
SAMPLER_SECONDS = 600.0
BILL_SECONDS = 30.0

STANDS_STILL_S = 30.0
"""So long an engine that is waited for may use no processor time; then it is asked whether it is
there, and has `ANSWER_WITHIN_S` for it."""

ANSWER_WITHIN_S = 10.0
MOST_BETWEEN_LOOKS_S = 5.0

_REFUSALS = (tinker.BadRequestError, tinker.NotFoundError, tinker.UnprocessableEntityError)


class Backend:
    """A Tinker server in use; `service` is a client of it.

    `begin` starts the embedded engine in the background; it is waited for when the first client is
    asked for. One that has died is started again by the next `connect`, so that a retried task
    goes on from the last checkpoint. Backends of one home share its engine, see `shared_engine`.
    """

    def __init__(self, config: RunConfig, environ: Mapping[str, str] = os.environ) -> None:
        self.kind: Kind = choose_kind(config, environ)
        self._model = config.model.name
        self._run = config.run_name
        self._shared: SharedEngine | None = None
        # That of the clients in use: it may have died, and another backend have started the next.
        self._engine: RunningEngine | None = None
        self._service: tinker.ServiceClient | None = None
        self._rest: tinker.RestClient | None = None
        self._ending: list[threading.Thread] = []
        self._standstill = Standstill()
        self.recoveries = Recoveries(
            config.backend.recoveries_per_hour, patient=self.kind != "embedded"
        )
        self._remote: Endpoint | None = None
        self.in_turns = True
        """Whether the server samples and trains in turns, on the same cores."""
        if self.kind == "embedded":
            self.home = config.backend.engine_home or config.state_dir / "engine"
            """The folder of the embedded engine."""
            self._threads = config.backend.threads
            # The engine forgets it, and the end of a session would wait for one that died.
            os.environ.setdefault("TINKER_TELEMETRY", "0")
        else:
            self._remote = remote_endpoint(config, environ)
            self.in_turns = probe(self._remote, self.recoveries)

    def begin(self, *, trains: bool = True) -> None:
        """Let the embedded engine start while the caller does something else.

        Of a remote server, make sure that it offers the model, and trains it where the caller wants
        that; raises `ConfigError` where not.
        """
        if self.kind != "embedded":
            self.require_model(trains=trains)
        else:
            self._share().begin()

    @property
    def service(self) -> tinker.ServiceClient:
        """The client in use; connects where there is none."""
        return self._service if self._service is not None else self.connect()

    def connect(self) -> tinker.ServiceClient:
        """A client with a session of its own; the one before it ends.

        Raises `ConfigError` when the server does not offer the model, naming those on offer, and
        `EngineError` when the embedded engine does not start.
        """
        self._leave_session("success")
        endpoint = self._endpoint()
        # By the name a full disk, or a list of sessions, says whose checkpoints are whose.
        service = tinker.ServiceClient(
            {RUN_KEY: self._run}, base_url=endpoint.base_url, api_key=endpoint.api_key
        )
        self.require_model(trains=False)
        self._service = service
        return service

    def check(self) -> None:
        """Raise `EngineError` where the embedded engine has died; the SDK would wait for ever.

        For who waits for it, about once a second. One that meanwhile neither computes nor answers
        stands still: it is killed, and so has died. What `while_waiting` has said is called too.
        """
        for look in _looks:
            look()
        engine = self._engine
        if engine is None:
            return
        what = "ended"
        if alive(engine):
            if not self._standstill.seen(engine):
                return
            engine.process.kill()
            engine.process.wait()
            what = "stood still and was ended"
        raise EngineError(
            f"The embedded engine {what} (status {engine.process.returncode}); "
            f"{self.home / 'engine.log'} says why. The same command goes on from the last "
            "checkpoint."
        )

    @property
    def rest(self) -> tinker.RestClient:
        """For what needs no session: which checkpoints there are, their lifetime, their files."""
        endpoint = self._endpoint()
        if self._rest is None:
            self._rest = call(
                lambda: _rest_client(endpoint), "connecting", CONNECT_SECONDS, self.check
            )
        return self._rest

    def billing_usage(self, start: datetime, end: datetime) -> BillingUsageResponse:
        """What the server has billed between two full hours, at most 14 days apart.

        Raises `BackendError` where it does not say, `CredentialError` where not to this key.
        """
        endpoint, what = self._endpoint(), "the question what was billed"
        admin = call(
            lambda: tinker.AdminClient(_holder(endpoint)), what, CONNECT_SECONDS, self.check
        )
        return wait(admin.get_billing_usage(start, end), what, BILL_SECONDS, self.check)

    def sampler(self, sampler_path: str | None) -> tinker.SamplingClient:
        """A sampler of a checkpoint, or of the base model where `sampler_path` is None.

        Of a training state too: that is loaded first. It belongs to the session in use, and ends
        with it.
        Raises `RequestRefused` where the server does not have it, `BackendError` where it fails.
        """
        base_model = self._model if sampler_path is None else None
        what = f"making a sampler of {sampler_path or base_model}"
        service = self.service
        try:
            if sampler_path is not None and "/weights/" in sampler_path:
                loading = call(
                    lambda: service.create_training_client_from_state(sampler_path),
                    what,
                    SAMPLER_SECONDS,
                    self.check,
                )
                loaded = wait(loading, what, SAMPLER_SECONDS, self.check)
                saving = loaded.save_weights_and_get_sampling_client()
                return wait(saving, what, SAMPLER_SECONDS, self.check)
            making = call(
                lambda: service.create_sampling_client(sampler_path, base_model),
                what,
                SAMPLER_SECONDS,
                self.check,
            )
            return wait(making, what, SAMPLER_SECONDS, self.check)
        except BackendError as error:
            cause = error.__cause__
            if isinstance(cause, _REFUSALS):
                raise RequestRefused(
                    f"The server gives no sampler of {sampler_path or base_model}: "
                    f"{detail_of(cause)}"
                ) from error
            raise

    def has_checkpoint(self, path: str) -> bool:
        """Whether the server still has the checkpoint at the `tinker://` path, see
        `checkpoint_exists`. That needs no session, so where the server fails it is asked again, as
        often as `recoveries` allow; raises `BackendError` then."""
        return self.recoveries.run(
            lambda: checkpoint_exists(self.rest, path, self.check), f"looking up {path}"
        )

    def tensor_fingerprints(self, path: str) -> dict[str, str]:
        """A digest of each tensor of a saved state, read from the embedded engine's home.

        Raises `BackendError` on any other server: a state there is not for reading.
        """
        if self.kind != "embedded":
            raise BackendError(f"A {self.kind} server does not show what is in {path}.")
        return tensor_fingerprints(self.home, path)

    @contextmanager
    def session(self) -> Generator[tinker.ServiceClient]:
        """A session of its own for the block; the server is told whether the block failed."""
        service = self.connect()
        status: Status = "errored"
        try:
            yield service
            status = "success"
        finally:
            self.disconnect(status)

    def disconnect(self, status: Status = "success") -> None:
        """End the session, so that the server can let go of its models; `connect` opens another."""
        self._leave_session(status)
        wait_for_ends(self._ending)

    def close(self) -> None:
        """End the session, and the embedded engine with it, where no other backend uses it."""
        self.disconnect()
        self._engine = self._rest = None
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.release()

    def _leave_session(self, status: Status) -> None:
        service, self._service = self._service, None
        forget_pauses()
        self._ending = [thread for thread in self._ending if thread.is_alive()]
        if service is not None:
            serves = self._engine is None or alive(self._engine)
            self._ending.append(end_session(service, status, tell=serves))

    def _endpoint(self) -> Endpoint:
        if self._remote is not None:
            return self._remote
        engine = self._share().serving()
        if engine is not self._engine:
            self._engine, self._rest = engine, None
        return Endpoint("embedded", engine.url, engine.api_key)

    def _share(self) -> SharedEngine:
        if self._shared is None:
            key = EngineOf(self.home.absolute(), self._model, self._threads)
            self._shared = use_engine(key, self._begin_engine)
        return self._shared

    def _begin_engine(self) -> StartingEngine:
        return begin_engine(self.home, self._model, self._threads, self.home / "engine.log")

    def context_length(self) -> int | None:
        """How many tokens the model's context holds; None where the server does not say.

        Raises `BackendError` where it does not answer.
        """
        offer = self._offered("the question how long a prompt may be").get(self._model)
        return offer.context_length if offer else None

    def require_model(self, *, trains: bool) -> None:
        """Raise `ConfigError` where the server does not offer the model, or does not train it
        though `trains` is wanted, or the model takes no pictures."""
        offers = self._offered("the question which models it offers")
        require_offered(self._model, offers, trains=trains)

    def _offered(self, what: str) -> Offers:
        asking = self.rest.get_server_capabilities()
        return offers_of(wait(asking, what, CONNECT_SECONDS, self.check))


_looks: list[Callable[[], None]] = []


@contextmanager
def while_waiting(look: Callable[[], None]) -> Generator[None]:
    """For the block, let whoever waits for a server call `look` about once a second.

    It may end the wait by what it raises: a thread hears no Ctrl-C by itself.
    """
    _looks.append(look)
    try:
        yield
    finally:
        _looks.remove(look)


class Standstill:
    """Looks whether an engine that is waited for computes or answers."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._looked = 0.0

    def seen(self, engine: RunningEngine) -> bool:
        """Whether it has done neither for `STANDS_STILL_S`, at looks not far from each other."""
        now = time.monotonic()
        waited_before = now - self._looked < MOST_BETWEEN_LOOKS_S
        self._looked = now
        progress = self._progress
        if progress is None or not waited_before or progress.pid != engine.process.pid:
            self._progress = Progress(engine.process.pid)
            return False
        if progress.seconds_without() < STANDS_STILL_S:
            return False
        self._progress = None
        return not engine.answers(ANSWER_WITHIN_S)


def _rest_client(endpoint: Endpoint) -> tinker.RestClient:
    return tinker.RestClient(_holder(endpoint))


def _holder(endpoint: Endpoint) -> InternalClientHolder:
    # With connections of its own: the SDK's shared ones are made under a lock of the process, which
    # a server that dies meanwhile keeps shut for minutes.
    return InternalClientHolder(
        base_url=endpoint.base_url, api_key=endpoint.api_key, _skip_session=True
    )


class _Server(NamedTuple):
    """What two configurations must have in common to use one backend."""

    run: str
    model: str
    kind: Kind
    settings: BackendSection
    state_dir: Path


_opened: dict[_Server, Backend] = {}


@contextmanager
def open_backend(config: RunConfig) -> Generator[Backend]:
    """Yield the backend of this process for the run of `config`, opened for the block if need be.

    Re-entrant on purpose: a program opens it before it starts the flow, so that the engine loads
    while Prefect does; the flow's own block then finds it open. A configuration that names another
    run, model or server gets a backend of its own, and backends of one model and home share its
    engine; two embedded engines at a time need homes of their own (`backend.engine_home`), for one
    folder has one engine.
    """
    server = _Server(
        config.run_name,
        config.model.name,
        choose_kind(config, os.environ),
        config.backend,
        config.state_dir.absolute(),
    )
    if server in _opened:
        yield _opened[server]
        return
    backend = _opened[server] = Backend(config)
    try:
        yield backend
    finally:
        del _opened[server]
        backend.close()
