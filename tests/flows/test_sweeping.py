"""What the flow of a sweep tells while its runs are trained."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from prefect import Flow, flow
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows import sweep_flow
from tasks import sweeping
from visual_r1.config import RunConfig
from visual_r1.errors import BudgetReached, ConfigError, RunError
from visual_r1.sweeps.plan import Plan, make_plan
from visual_r1.sweeps.sweep import sweep_of


def test_money_that_is_spent_is_an_event_for_automations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"train.learning_rate": [1e-3, 2e-3]}
    sweep = sweep_of({"name": "rates", "grid": rates, "max_usd": 2.0}, "a test")
    plan = make_plan(sweep, RunConfig(preset="quickstart", output_dir=tmp_path))
    told: list[tuple[str, str, Mapping[str, Any]]] = []

    def spent(*_: object) -> AbstractContextManager[None]:
        raise BudgetReached("It was not begun.")

    monkeypatch.setattr(sweeping.Money, "kept_for", spent)
    monkeypatch.setattr(sweeping, "_engine_for", lambda _: nullcontext())
    monkeypatch.setattr(
        sweeping, "happened", lambda _, event, said, payload: told.append((event, said, payload))
    )
    members = [member for setting in plan.settings for member in setting.members]
    failed = sweeping.train_members(plan, members, pytest.fail)
    assert len(failed) == 2
    limit = {"sweep": "rates", "max_usd": 2.0}
    assert told == [("budget.reached", "It was not begun.", limit)] * 2


def test_a_rung_looks_at_the_checkpoint_that_its_run_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later nobody would: the run has checkpoints of its own by then."""

    def gone(*_: object) -> None:
        raise RunError("It has gone.")

    for name in ("open_run_folder", "open_backend"):
        monkeypatch.setattr(sweep_flow, name, lambda _: nullcontext())
    monkeypatch.setattr(sweep_flow, "prepare", lambda _: None)
    monkeypatch.setattr(sweep_flow, "settle_labels", lambda *_: None)
    monkeypatch.setattr(sweep_flow, "settle_start", gone)
    with pytest.raises(RunError, match="It has gone"):
        sweep_flow.train_to_rung.fn(RunConfig(preset="quickstart", output_dir=tmp_path))


def test_cold_starts_are_no_members_of_a_sweep(tmp_path: Path) -> None:
    """Before a rung learns responses and the end refuses the run."""
    sections = {"output_dir": tmp_path, "sft": {"responses": "meta.solution"}}
    config = RunConfig.model_validate({"preset": "quickstart", **sections})
    sweep = {"name": "rates", "grid": {"train.learning_rate": [1e-3, 2e-3]}}
    with pytest.raises(ConfigError, match="makes this a supervised run"):
        sweep_flow.sweep.fn(sweep=sweep, config=config)
    assert not (tmp_path / "runs").exists()


class Road:
    """The way to a server: an address that refuses, while it is away, whoever comes anew."""

    def __init__(self, server: str) -> None:
        url = urlsplit(server)
        self._server = (url.hostname, url.port)
        self._port = 0
        self.come()
        self.api = f"http://127.0.0.1:{self._port}{url.path}"

    def come(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def go(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in it
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(self._server)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """To a real Prefect server."""
    with (
        temporary_settings({PREFECT_HOME: tmp_path_factory.mktemp("prefect")}),
        prefect_test_harness(server_startup_timeout=400),
        pytest.MonkeyPatch.context() as environment,
    ):
        way = Road(PREFECT_API_URL.value())
        environment.setenv("PREFECT_API_URL", way.api)
        with temporary_settings({PREFECT_API_URL: way.api}):
            yield way
        way.go()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are done; no engine is needed for them."""
    done: list[str] = []
    monkeypatch.setattr(sweeping, "_engine_for", lambda _: nullcontext())
    monkeypatch.setattr(sweeping, "is_done", lambda member: member.run in done)
    monkeypatch.setattr(sweeping, "LOOK_EVERY_S", 0.05)
    return done


def two_rates(tmp_path: Path) -> Plan:
    sweep = sweep_of({"name": "rates", "grid": {"train.learning_rate": [1e-3, 2e-3]}}, "a test")
    return make_plan(sweep, RunConfig(preset="quickstart", output_dir=tmp_path))


def test_a_server_that_is_away_before_a_member_begins_is_waited_for(
    road: Road, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that was entered is not begun again; one for which it stays away ends the sweep."""
    plan = two_rates(tmp_path)
    members = [member for setting in plan.settings for member in setting.members]
    entered: list[str] = []
    said: list[str] = []
    fails: list[str] = []

    @flow(validate_parameters=False)
    def train(config: RunConfig) -> None:
        entered.append(config.run_name)
        if config.run_name in fails:
            raise httpx.ConnectError("lost in the middle of it")
        trained.append(config.run_name)
        if len(trained) == 1:
            road.go()

    @flow
    def sweep() -> None:
        sweeping.train_members(plan, members, train)

    def heard(record: Any) -> None:
        said.append(record.getMessage())
        road.come()

    monkeypatch.setattr(sweeping.logger, "handle", heard)
    sweep()
    names = [member.config.run_name for member in members]
    assert trained == entered == names
    waited = f"Prefect's server does not answer (ConnectError): {members[1].title} begins when it"
    assert [sentence.startswith(waited) for sentence in said] == [True]

    del trained[:], entered[:], said[:]
    fails.append(names[0])
    with pytest.raises(httpx.ConnectError, match="in the middle"):
        sweep()
    assert (entered, said) == ([names[0]], [])

    @flow
    def gives_up() -> None:
        try:
            with pytest.raises(sweeping.ServerAway, match=r"the same command .* goes on"):
                sweeping.train_members(plan, members, train)
        finally:
            road.come()  # Prefect would wait for it as well

    del entered[:], fails[:]
    monkeypatch.setattr(sweeping, "SERVER_AWAY_S", 0.3)
    monkeypatch.setattr(sweeping.logger, "handle", lambda _: None)  # nobody brings it back
    gives_up()
    assert entered == [names[0]]


def answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/api/flow_runs/")
    return httpx.HTTPStatusError(
        f"answered {status}", request=request, response=httpx.Response(status, request=request)
    )


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (answer(500), True),
        (RuntimeError("Failed to reach API"), True),
        (answer(401), False),
        (ParameterTypeError("no such parameter"), False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("road")
def test_only_what_may_pass_is_waited_for(
    error: Exception, again: bool, trained: list[str], tmp_path: Path
) -> None:
    asked: list[RunConfig] = []

    class Asking(Flow[[RunConfig], None]):
        """It meets the server's failure before its function is called, once."""

        def __call__(self, config: RunConfig) -> None:
            asked.append(config)
            if len(asked) == 1:
                raise error
            self.fn(config)

    @Asking
    def train(config: RunConfig) -> None:
        trained.append(config.run_name)

    plan = two_rates(tmp_path)
    one = plan.settings[0].members

    @flow
    def sweep() -> None:
        sweeping.train_members(plan, one, train)

    with nullcontext() if again else pytest.raises(type(error)):
        sweep()
    assert (len(asked), len(trained)) == ((2, 1) if again else (1, 0))
