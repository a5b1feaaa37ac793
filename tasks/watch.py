"""Flow runs whose process is dead: their state is mended, and they go on where that is wished.

Prefect's own way is a heartbeat, of 30 s at the least, and an automation on the server that waits
for a missing one: a minute and a half, and nothing at all while the server was dead as well. On the
machine where the process ran, the kernel knows at once. So each machine with a worker has a watch
of its own, which touches no run of another machine.

    Running, and the process is gone     Crashed, as are its task runs and the flows that it called
    Cancelling, and it is gone           Cancelled, with what is kept
    Cancelling, and nobody stops it      it is told to stop
    submitted, and there is no process   scheduled anew
    its function ended, untold           the state that it ended in
    Crashed, with the tag `restart`      scheduled anew, unless it died thrice without progress
    Crashed before it began, so tagged   the same (`tasks.unbegun`)
    retried, and cancelled unasked       scheduled anew (`tasks.retries`)
"""

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from filelock import FileLock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Running, Scheduled

from tasks.attempts import (
    Attempt,
    attempts_folder,
    attempts_here,
    done_in,
    forget,
    is_at_work,
    kept_of,
    read_attempt,
    write_attempt,
)
from tasks.flow_processes import hooks_of, is_worker, others_run, processes_of, worker_since
from tasks.outcome import SERVER_FAILURES
from tasks.own_server import WORKER_NAME
from tasks.retries import begin_again_at
from tasks.task_runs import close_task_runs
from tasks.unbegun import LEFT_TO_A_PERSON, crashed_unbegun_s
from visual_r1.errors import StorageError
from visual_r1.printing import open_logger

logger = open_logger("visual_r1.tasks")

RESTART = "restart"
"""The tag of a deployment, or of a flow run, that goes on by itself after a crash."""

MOST_DEATHS = 3
MOST_CUTS = 20
"""Deaths in a row without a new checkpoint or result, after which it is left for a person: by
itself, and together with its worker, which may be the machine's fault and may be the run's."""

LOOK_EVERY_S = 2.0
STOPS_WITHIN_S = 20.0
"""A worker has so long to stop a run that is Cancelling; then, or without one, the watch does."""

WORKER_TELLS_WITHIN_S = 4.0
LATE_WORDS_S = 180.0
"""So long after a restart a crash that is told without a process is of the attempt before; and so
long after a cancellation it is asked whether a retry was meant by it."""

SUBMITTED_S = 30.0
SUBMITTED_BUSY_S = 180.0
"""So old a submitted run without a process is taken for lost: where the worker that took it is
gone, and where it lives."""

UNBEGUN_S = 3600.0
"""So old a crash before a run had begun is left as it is: nobody expects that run any more."""

_BEGUN = (StateType.RUNNING, StateType.CANCELLING)
"""The open states of an attempt that left a file. Pending is the next one's, which somebody
scheduled before this one's death was dealt with: it is not to end as this one did."""
_OPEN = (StateType.PENDING, *_BEGUN)


@dataclass
class Watch:
    """Looks at the runs of this machine, again and again."""

    _told_to_stop: set[str] = field(default_factory=set[str])
    _restarted: dict[str, float] = field(default_factory=dict[str, float])
    _seen_dead: dict[str, float] = field(default_factory=dict[str, float])
    _unbegun: Counter[str] = field(default_factory=Counter[str])

    def look(self) -> list[str]:
        """Mend what there is to mend now; a sentence for each.

        Raises what Prefect's client raises where the server is away: then later.
        """
        said: list[str] = []
        # One watch at a time: what another one has just mended is seen as it is now.
        attempts_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(attempts_folder() / "watch.lock"), get_client(sync_client=True) as client:
            for attempt in attempts_here():
                at_work = is_at_work(attempt)
                restarted = attempt.flow_run_id in self._restarted
                if at_work or restarted or not attempt.settled:
                    said += self._attempt(client, attempt, at_work=at_work)
            said += self._lost_retries(client)
            said += self._submitted(client)
            said += self._unbegun_crashes(client)
        return said

    def _attempt(
        self, client: SyncPrefectClient, attempt: Attempt, *, at_work: bool
    ) -> Iterator[str]:
        try:
            run = client.read_flow_run(UUID(attempt.flow_run_id))
        except ObjectNotFound:
            if not at_work:
                forget(attempt)
            return
        if not at_work:
            # The lock is free and the file unsettled: once more, in case it was taken up just now.
            if processes_of({attempt.flow_run_id}) or is_at_work(attempt):
                return
            if not attempt.settled:
                yield from self._settle(client, run, attempt)
            elif time.monotonic() - self._restarted[attempt.flow_run_id] > LATE_WORDS_S:
                del self._restarted[attempt.flow_run_id]
            elif run.state is not None and run.state.is_crashed():
                # The worker had not said its last word of the attempt before; or the process that
                # was started died before the flow, whose module cannot be loaded, say.
                self._unbegun[attempt.flow_run_id] += 1
                yield from self._restart(client, run, attempt)
            return
        self._unbegun.pop(attempt.flow_run_id, None)
        if run.state is not None and run.state.is_crashed():
            client.set_flow_run_state(run.id, Running(), force=True)
            yield f"{run.name} was said to have crashed, and is at work."
        elif run.state is not None and run.state.is_cancelled() and _begin_again_at(client, run):
            client.set_flow_run_state(run.id, Running(), force=True)
            yield f"{run.name} was said to be cancelled, for the attempt before, and is at work."
        elif run.state is not None and run.state.is_cancelling():
            age = (datetime.now(UTC) - run.state.timestamp).total_seconds()
            patience = STOPS_WITHIN_S if is_worker(attempt.parent) else 0.0
            if age > patience and attempt.flow_run_id not in self._told_to_stop:
                self._told_to_stop.add(attempt.flow_run_id)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(attempt.pid, signal.SIGTERM)
                yield f"{run.name} was cancelled and nobody stopped it: process {attempt.pid} was."

    def _lost_retries(self, client: SyncPrefectClient) -> Iterator[str]:
        """Runs of this machine's worker that a person retried, and that it then cancelled."""
        now = datetime.now(UTC)
        since = now - timedelta(seconds=LATE_WORDS_S)
        recent = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLED])),
            end_time=FlowRunFilterEndTime.model_validate({"after_": since}),
        )
        for run in client.read_flow_runs(flow_run_filter=recent):
            flow_run_id = str(run.id)
            if run.state is None or not run.state.is_cancelled() or not _is_of_our_worker(run):
                continue
            # By then a process that the worker was just about to start is there, and is waited for:
            # it goes on by itself, or ends.
            if (now - run.state.timestamp).total_seconds() < WORKER_TELLS_WITHIN_S:
                continue
            again_at = _begin_again_at(client, run)
            if again_at is None or processes_of({flow_run_id}):
                continue
            if read_attempt(flow_run_id) is None and others_run():
                continue  # this may be one of theirs, whose worker is called as ours is
            reason = "Cancelled for the attempt before, not by a person; it is started again."
            state = Scheduled(scheduled_time=again_at, message=reason)
            client.set_flow_run_state(run.id, state, force=True)
            yield f"{run.name}: {reason}"

    def _submitted(self, client: SyncPrefectClient) -> Iterator[str]:
        """Runs that this machine's worker took, and that no process of it works on."""
        types = FlowRunFilterStateType(any_=list(_OPEN))
        wanted = FlowRunFilter(state=FlowRunFilterState(type=types))
        suspects = {
            str(run.id): run
            for run in client.read_flow_runs(flow_run_filter=wanted)
            if _is_of_our_worker(run)
            and (attempt := read_attempt(str(run.id)) or Attempt("", 0, "", settled=True)).settled
            and not (attempt.flow_run_id and is_at_work(attempt))
            and run.state is not None
        }
        if not suspects:
            return
        since = worker_since(WORKER_NAME)
        for flow_run_id in suspects.keys() - processes_of(suspects.keys()):
            run = suspects[flow_run_id]
            assert run.state is not None
            # A worker that began later has not taken it, and will not start it.
            is_in_hand = since is not None and since <= run.state.timestamp.timestamp()
            patience = SUBMITTED_BUSY_S if is_in_hand else SUBMITTED_S
            if (datetime.now(UTC) - run.state.timestamp).total_seconds() < patience:
                continue
            attempt = read_attempt(flow_run_id)
            if attempt is None and others_run():
                continue  # this may be one of theirs, whose worker is called as ours is
            attempt = attempt or Attempt(flow_run_id, 0, socket.gethostname())
            if run.state.is_pending():
                reason = "Its process was gone before it began; it is started again."
                client.set_flow_run_state(run.id, Scheduled(message=reason), force=True)
                yield f"{run.name}: {reason}"
            else:
                yield from self._settle(client, run, attempt)

    def _unbegun_crashes(self, client: SyncPrefectClient) -> Iterator[str]:
        """Runs of this machine's worker whose process died before their function was called."""
        since = datetime.now(UTC) - timedelta(seconds=UNBEGUN_S)
        recent = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
            end_time=FlowRunFilterEndTime.model_validate({"after_": since}),
            tags=FlowRunFilterTags(all_=[RESTART]),
        )
        for run in client.read_flow_runs(flow_run_filter=recent):
            flow_run_id = str(run.id)
            if not _is_of_our_worker(run) or not _is_restarted(run):
                continue
            attempt = read_attempt(flow_run_id)
            # What was restarted with a file of an earlier attempt is looked at by that at first.
            if attempt is not None and (not attempt.settled or flow_run_id in self._restarted):
                continue
            since_s = crashed_unbegun_s(run, client.read_flow_run_states(run.id))
            # By then a process that the worker was just about to start is there, and is waited for.
            if since_s is None or since_s < WORKER_TELLS_WITHIN_S:
                continue
            if processes_of({flow_run_id}) or hooks_of(flow_run_id):
                continue
            if attempt is None and others_run(with_worker=True):
                continue  # this may be one of theirs, whose worker is called as ours is
            # It took time to look at the processes, and a person may have retried it meanwhile.
            run = client.read_flow_run(run.id)
            if run.state is None or not run.state.is_crashed():
                continue
            if read_attempt(flow_run_id) != attempt or (attempt and is_at_work(attempt)):
                continue
            self._unbegun[flow_run_id] += 1
            unbegun = Attempt(flow_run_id, 0, socket.gethostname())
            yield from self._restart(client, run, attempt or unbegun)

    def _settle(self, client: SyncPrefectClient, run: FlowRun, attempt: Attempt) -> Iterator[str]:
        """Give a flow run whose process is dead the state that is true."""
        assert run.state is not None
        if run.state.is_paused():
            return  # a suspended flow run has no process, and a person lets it go on
        if is_worker(attempt.parent) and self._worker_may_speak(run.state, attempt):
            return
        self._seen_dead.pop(attempt.flow_run_id, None)
        self._told_to_stop.discard(attempt.flow_run_id)
        # It took time to look at the processes, and a person may have retried it meanwhile.
        run = client.read_flow_run(run.id)
        assert run.state is not None
        state, said = _true_state(run.state, attempt)
        if said:
            client.set_flow_run_state(run.id, state, force=True)
            yield f"{run.name} is {state.name}. {state.message}"
        close_task_runs(client, run.id, state)
        if state.is_final() and not (state.is_crashed() and attempt.end is None):
            forget(attempt)
            return
        # Of one that is scheduled anew, this end is of the past.
        settled = replace(attempt, settled=True, end=attempt.end if state.is_final() else None)
        if state.is_crashed():
            settled = _counted(settled)
            yield from self._restart(client, run, settled)
        with suppress(StorageError):  # said by whoever works on that disk
            write_attempt(settled)

    def _worker_may_speak(self, state: State, attempt: Attempt) -> bool:
        """Whether the worker, which saw its process end, has yet to say what it makes of that.

        What it says would come over what is said here, and it speaks again when it has started a
        process to look for hooks in the flow's module.
        """
        seen = self._seen_dead.setdefault(attempt.flow_run_id, time.monotonic())
        since = time.monotonic() - seen
        if state.is_completed() or state.is_failed():
            return False
        if hooks_of(attempt.flow_run_id):
            self._seen_dead[attempt.flow_run_id] = time.monotonic()
            return True
        return since < WORKER_TELLS_WITHIN_S

    def _restart(self, client: SyncPrefectClient, run: FlowRun, attempt: Attempt) -> Iterator[str]:
        """Schedule a crashed run anew where that is wished: its finished tasks are found done."""
        if not _is_restarted(run):
            return
        kept, unbegun = kept_of(attempt), self._unbegun[attempt.flow_run_id]
        if max(attempt.deaths, unbegun) >= MOST_DEATHS or attempt.cuts >= MOST_CUTS:
            self._restarted.pop(attempt.flow_run_id, None)
            self._unbegun.pop(attempt.flow_run_id, None)  # a person's retry counts anew
            times = max(attempt.deaths + attempt.cuts, unbegun)
            message = (
                f"It died {times} times in a row without a new checkpoint, "
                f"and {LEFT_TO_A_PERSON}. {kept} When the reason is gone: "
                f"`prefect flow-run retry {run.id}`."
            )
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            yield f"{run.name}: {message}"
            return
        message = f"Started again after a crash. {kept}"
        client.set_flow_run_state(run.id, Scheduled(message=message), force=True)
        self._restarted[attempt.flow_run_id] = time.monotonic()
        yield f"{run.name}: {message}"


def _counted(attempt: Attempt) -> Attempt:
    """With one more death; one that had got further, or that only waited, is none."""
    done = done_in(attempt)
    if done > attempt.progress:
        attempt = replace(attempt, deaths=0, cuts=0, progress=done)
    if attempt.waits:
        return attempt
    if is_worker(attempt.parent):
        return replace(attempt, deaths=attempt.deaths + 1)
    return replace(attempt, cuts=attempt.cuts + 1)


def _true_state(state: State, attempt: Attempt) -> tuple[State, bool]:
    """The state of a flow run whose process is dead, and whether it is another than Prefect has."""
    kept, end = kept_of(attempt), attempt.end
    if end is not None:
        told = state.type == StateType(end.type)
        cancelled = state.is_cancelled() and told and state.message != end.message
        # Failed, too: Prefect takes its own lost server for a fault of the flow.
        wrong = not told and (state.is_crashed() or state.is_failed())
        if state.type in _BEGUN or wrong or cancelled:
            return State(type=StateType(end.type), name=end.name, message=end.message), True
    elif state.is_cancelling():
        return Cancelled(message=f"Stopped. {kept}"), True
    elif state.type in _BEGUN:
        return Crashed(message=f"Its process ({attempt.pid}) died. {kept}"), True
    return state, False


def _is_of_our_worker(run: FlowRun) -> bool:
    return (run.labels or {}).get("prefect.worker.name") == WORKER_NAME


def _is_restarted(run: FlowRun) -> bool:
    """Whether it is to go on by itself after a crash, and a worker can take it."""
    return RESTART in run.tags and run.deployment_id is not None


def _begin_again_at(client: SyncPrefectClient, run: FlowRun) -> datetime | None:
    return begin_again_at(client.read_flow_run_states(run.id))


def mend_once() -> None:
    """Look once, where nobody waits for it and nobody minds."""
    if any(not is_at_work(attempt) for attempt in attempts_here()):
        with suppress(*SERVER_FAILURES):
            Watch().look()


def keep_watching() -> None:
    """Look until the process is ended; while the server is away, wait for it."""
    watch, away = Watch(), False
    while True:
        try:
            for sentence in watch.look():
                logger.warning("%s", sentence)
            if away:
                logger.warning("Prefect's server is back.")
            away = False
        except SERVER_FAILURES as error:
            if not away:
                logger.warning("Prefect's server does not answer (%s).", type(error).__name__)
            away = True
        time.sleep(LOOK_EVERY_S)
