"""The runs of a sweep as tasks of its flow: each is a flow run within one, found done or trained.

A run that fails, or that an alarm pauses, is noted and the others go on; what would fail for all of
them alike ends the sweep.
"""

import contextvars
import copy
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
from prefect import Flow, State, task
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import PrefectException
from prefect.states import Failed

from tasks.environment import prefect_server, require_answer
from tasks.interruption import stop_if_interrupted, was_interrupted
from tasks.outcome import SERVER_FAILURES
from tasks.records.ending import conclude
from tasks.records.events import happened
from tasks.records.names import artifact_key
from tasks.verified import Result, verified
from visual_r1.backend.backend import open_backend, while_waiting
from visual_r1.backend.endpoint import choose_kind, without_secrets
from visual_r1.config import RunConfig
from visual_r1.errors import (
    BudgetReached,
    ConfigError,
    CredentialError,
    EngineRefused,
    IncompatibleServer,
    RunError,
    StorageError,
    VisualR1Error,
)
from visual_r1.printing import Terminal, open_logger, say
from visual_r1.progress import one_of_several
from visual_r1.sweeps.comparison import Comparison, compare_settings
from visual_r1.sweeps.folder import PAGE_NAME
from visual_r1.sweeps.forecast import forecast, require_within_limits
from visual_r1.sweeps.halving import go_on, work_left
from visual_r1.sweeps.members import is_done, is_used_by_another
from visual_r1.sweeps.money import Money
from visual_r1.sweeps.plan import Member, Plan, Setting
from visual_r1.sweeps.report import write_report
from visual_r1.sweeps.table import markdown, terminal_table
from visual_r1.wording import as_markdown

logger = open_logger("visual_r1.tasks")


class ServerAway(ConfigError):
    """Prefect's server did not come back, and no run of a sweep can begin without it."""


FOR_ALL = (CredentialError, EngineRefused, IncompatibleServer, StorageError, ServerAway)
"""What one run meets and every other would: there is no use in going on."""

ON_A_REMOTE_SERVER = 4

LOOK_EVERY_S = 1.0

SERVER_AWAY_S = 12 * 3600.0
TEMPORARY_AWAY_S = 300.0
"""So long Prefect's server may be away before a run is begun, or answer with errors of its own: one
of the user's, which people bring back, and a temporary one, in whose place another is put soon."""

SOME_FAILED = "SomeRunsFailed"


def foresee(plan: Plan) -> None:
    """Say what is left of the sweep will take.

    Raises `VisualR1Error` where it would pass its limits, or cannot be done at all.
    """
    at_once = _at_once(plan, plan.base)
    with _engine_for(work_left(plan)[:1]):
        foretold = forecast(plan, at_once)
    require_within_limits(plan, foretold)
    if foretold is not None:
        say(f"Sweep {plan.sweep.name}: {foretold.sentence}")


def train_members(
    plan: Plan, members: Sequence[Member], train: Callable[..., object]
) -> Mapping[str, VisualR1Error]:
    """Let the flow `train` do every member, as many at a time as the server allows.

    Returns the errors of those that failed, by the names of their runs. Raises `VisualR1Error`
    where it concerns all of them.
    """
    failed: dict[str, VisualR1Error] = {}
    told = {member.run: f"[{n}/{len(members)}]" for n, member in enumerate(members, 1)}
    put_off: list[Member] = []
    money, over = Money(plan), threading.Event()

    def watch() -> None:
        stop_if_interrupted()
        if over.is_set():
            raise CancelledError  # nobody hears it: the sweep ends by what another one raised

    def work(member: Member) -> None:
        say(f"{told[member.run]} {member.title}: {member.config.run_dir}")
        try:
            if not is_done(member):
                if is_used_by_another(member):
                    put_off.append(member)
                    return
                with money.kept_for(member, watch):
                    _member(member, train)
            else:
                _member(member, train)
        except FOR_ALL:
            raise
        except VisualR1Error as error:
            failed[member.run] = error
            if isinstance(error, BudgetReached):
                limit = {"sweep": plan.sweep.name, "max_usd": plan.sweep.max_usd}
                happened(member.config, "budget.reached", str(error), limit)
            logger.warning("%s has failed, and the sweep goes on: %s", member.title, error)
        except SERVER_FAILURES:
            # Prefect's, not ours: where the run is whole, it is whole.
            if not is_done(member):
                raise

    for _, group in groupby(members, key=_engine_of):
        alike = list(group)
        with _engine_for(alike):
            _run_all(work, alike, _at_once(plan, alike[0].config), over)
            while put_off:
                _wait_for(member := put_off.pop(0))
                work(member)
    return failed


def _wait_for(member: Member) -> None:
    """Until no other process trains the member: what that has done need not be done again."""
    logger.warning(
        "Another process trains %s (%s): it is waited for.", member.title, member.config.run_dir
    )
    while is_used_by_another(member):
        stop_if_interrupted()
        time.sleep(LOOK_EVERY_S)


@verified(
    version=1,
    key=lambda member, **_: {
        "run": member.run,
        "config": member.config.digest(),
        "steps": member.config.train.steps,
        "rung": member.rung,
    },
    fields=("run", "steps"),
    still_there=lambda _, member, **__: is_done(member),
    task_run_name="{member.title}",
)
def _member(member: Member, train: Callable[..., object]) -> Result:
    if not is_done(member):
        _begin(member, train)
    return {"run": member.run, "steps": member.config.train.steps}


def _begin(member: Member, train: Callable[..., object]) -> None:
    """Let `train` do the member; where Prefect's server is away as it begins, wait for it.

    The server is asked for a flow run first, by a client that does not wait. Raises `ServerAway`
    where that lasts, and whatever comes after `train` was entered: that is not done twice.
    """
    entered = threading.Event()
    noted = _noting(train, entered)
    gives_up_at: float | None = None
    while True:
        try:
            noted(config=member.config)
        except SERVER_FAILURES as error:
            if entered.is_set() or was_interrupted(error) or not _may_pass(error):
                raise
            if gives_up_at is None:
                away_s = SERVER_AWAY_S if prefect_server() else TEMPORARY_AWAY_S
                gives_up_at = time.monotonic() + away_s
                logger.warning(
                    "Prefect's server does not answer (%s): %s begins when it does.",
                    type(error).__name__,
                    member.title,
                )
            if not _server_is_back(gives_up_at):
                server = prefect_server()
                name = f"server at {without_secrets(server)}" if server else "temporary server"
                raise ServerAway(
                    f"Prefect's {name} is away ({type(error).__name__}), and {member.title} cannot "
                    "begin without it. What is done stays done: when it is back, the same command "
                    "(of a deployment, `prefect flow-run retry`) goes on from there."
                ) from error
        else:
            return


def _noting(train: Callable[..., object], entered: threading.Event) -> Callable[..., object]:
    """`train`, which sets `entered` when its function is called.

    The flow itself stays as it is: other threads call it as well.
    """
    work: Callable[..., object] = train.fn if isinstance(train, Flow) else train

    @wraps(work)
    def noting(*args: Any, **kwargs: Any) -> object:
        entered.set()
        return work(*args, **kwargs)

    if not isinstance(train, Flow):
        return noting
    flow: Any = copy.copy(train)
    flow.fn = noting
    return flow


def _may_pass(error: BaseException) -> bool:
    """Whether it is the server's state: not where it refuses, nor where it was not asked."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return not isinstance(error, PrefectException)


def _server_is_back(gives_up_at: float) -> bool:
    """Wait until Prefect's server answers; false where it does not until then, by `monotonic`."""
    server = prefect_server()
    while time.monotonic() < gives_up_at:
        stop_if_interrupted()
        time.sleep(LOOK_EVERY_S)
        if server is None:
            return True  # a temporary one, of which another takes the place
        with suppress(httpx.HTTPError):
            require_answer(server)
            return True
    return False


def _engine_of(member: Member) -> tuple[str, Path | None, str, int]:
    config = member.config
    kind = choose_kind(config, os.environ)
    return kind, config.backend.engine_home, config.model.name, config.backend.threads


@contextmanager
def _engine_for(members: Sequence[Member]) -> Generator[None]:
    """Keep the engine that the members share from the first to the last of them; where nothing is
    left of any, no server is asked."""
    if all(map(is_done, members)):
        yield
        return
    with open_backend(members[0].config) as backend:
        backend.begin()
        yield


def _at_once(plan: Plan, config: RunConfig) -> int:
    embedded = choose_kind(config, os.environ) == "embedded"
    return plan.sweep.at_once or (1 if embedded else ON_A_REMOTE_SERVER)


def _run_all(
    work: Callable[[Member], None], members: Sequence[Member], at_once: int, over: threading.Event
) -> None:
    """All of them, `at_once` at a time; where one raises, `over` tells those that wait to end."""
    if at_once == 1:
        for member in members:
            work(member)
        return

    def beside_others(member: Member) -> None:
        with one_of_several(member.title):
            stop_if_interrupted()
            work(member)

    with (
        while_waiting(stop_if_interrupted),
        ThreadPoolExecutor(at_once, thread_name_prefix="member") as pool,
    ):
        running: list[Future[None]] = [
            # Prefect knows by the context which flow run a task belongs to.
            pool.submit(contextvars.copy_context().run, beside_others, member)
            for member in members
        ]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException as error:
            # The signal reached this thread alone: remembered, it is heard by the others as well.
            was_interrupted(error)
            over.set()
            for other in running:
                other.cancel()
            raise


def heed_rung(
    plan: Plan,
    settings: Sequence[Setting],
    rung: int,
    failed: Mapping[str, VisualR1Error],
    stopped: dict[str, int],
) -> Sequence[Setting]:
    """Those of `settings` that go on from `rung`; the others are noted in `stopped`, and said."""
    assert plan.sweep.halving is not None, "else there are no rungs"
    kept = go_on(settings, rung, plan.sweep.halving.eta)
    for setting in settings:
        is_whole = not any(member.run in failed for member in setting.members)
        if setting not in kept and is_whole:
            stopped[setting.label] = rung
    if settings and not kept:
        raise RunError(
            f"None of the settings of the sweep {plan.sweep.name} was validated at step {rung}, so "
            "none can be chosen to go on: has the dataset validation problems "
            "(data.splits.validation)?"
            + "".join(f" {error}" for error in list(failed.values())[:1])
        )
    names = "; ".join(setting.label for setting in kept)
    say(f"Rung {rung}: {len(kept)} of {len(settings)} settings go on by validation: {names}")
    return kept


def compare(
    plan: Plan, folder: Path, failed: Mapping[str, VisualR1Error], stopped: Mapping[str, int]
) -> dict[str, object] | State:
    """Compare the settings, leave table, page and picture in `folder`, and show the table.

    Returns the content of `summary.json`; where runs failed, the state that the flow ends in.
    """
    found = _compare(plan, folder, {run: str(error) for run, error in failed.items()}, stopped)
    Terminal().print(terminal_table(found, folder / PAGE_NAME))
    conclude(f"{found.conclusion} Report: {(folder / PAGE_NAME).absolute()}")
    if not failed:
        return found.to_json()
    names = "; ".join(
        f"{member.name} ({member.run})" for member in plan.members if member.run in failed
    )
    first = next(iter(failed.values()))
    error = RunError(
        f"{len(failed)} of {len(plan.members)} runs of the sweep {plan.sweep.name} failed: {names}."
        f" The first with: {first} The others are compared in {folder / PAGE_NAME}; the same "
        "command tries these again."
    )
    return Failed(name=SOME_FAILED, message=str(error), data=error)


@task(name="compare")
def _compare(
    plan: Plan, folder: Path, troubles: Mapping[str, str], stopped: Mapping[str, int]
) -> Comparison:
    found = compare_settings(plan, troubles, stopped)
    write_report(found, folder)
    try:
        create_markdown_artifact(
            f"{as_markdown(found.conclusion)}\n\n{markdown(found)}",
            key=artifact_key(plan.base, f"sweep-{plan.sweep.name}"),
            description=f"The sweep {as_markdown(plan.sweep.name)}, compared.",
        )
    except SERVER_FAILURES as error:
        # It stands in the sweep's folder; a record at Prefect is one more.
        logger.warning("Prefect has no artifact of the sweep (%s).", type(error).__name__)
    return found
