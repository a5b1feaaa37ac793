"""Waiting for a Tinker server: every wait has a limit, every failure is one sentence.

The SDK retries lost connections for minutes to hours, and a killed server can leave a future
pending for ever. So nothing here waits on a future without a limit, and a `watch` looks between
short waits whether the server is still alive (the embedded engine's process, say).

The SDK's futures hold what they came with in cycles, so before each the garbage is looked at.
"""

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar, cast

import tinker
from tinker.lib.retryable_exception import (  # pyright: ignore[reportMissingTypeStubs]
    RetryableException,
)
from tinker.types import RequestErrorCategory

from visual_r1.backend.sessions import note_pauses
from visual_r1.errors import BackendError, CredentialError, RequestFailed, RequestRefused
from visual_r1.garbage import collect_if_grown
from visual_r1.printing import open_logger

logger = open_logger(__name__)

Key = TypeVar("Key")
T = TypeVar("T")
Watch = Callable[[], None]
Meanwhile: TypeAlias = "Callable[[concurrent.futures.Future[Any], float], object]"
"""What is done while a future is pending: until it is done, for so many seconds at most."""

# Generous: a capacity pause of the hosted service can last hours.
SAMPLE_LIMIT_S = 7200.0
TRAIN_LIMIT_S = 7200.0
SAVE_LIMIT_S = 3600.0
CONTROL_LIMIT_S = 600.0
LOOK_EVERY_S = 1.0

FAILURES = (
    tinker.TinkerError,
    RetryableException,
    concurrent.futures.CancelledError,
    TimeoutError,
    ValueError,  # a future that the server no longer knows
    RuntimeError,  # a client that an earlier failure has poisoned, or that is closed
    AssertionError,  # a server that leaves out what the SDK relies on
)


def nothing_to_watch() -> None:
    """The watch of a server whose process is not ours."""


def stand_by(pending: "concurrent.futures.Future[Any]", seconds: float) -> None:
    """Do nothing meanwhile."""
    concurrent.futures.wait([pending], timeout=seconds)


def wait(
    future: tinker.APIFuture[T],
    what: str,
    limit_s: float,
    watch: Watch = nothing_to_watch,
    meanwhile: Meanwhile = stand_by,
) -> T:
    """The future's result.

    `what` names the work for messages ("step 12, forward_backward"). `watch` is called about once
    a second and raises when waiting has become pointless; `meanwhile` does what else there is to
    do. Raises `RequestRefused` when the server says that the request itself is at fault,
    `BackendError` for any other failure and when `limit_s` seconds have passed.
    """
    return _awaited(future.future(), what, limit_s, watch, meanwhile)


def call(work: Callable[[], T], what: str, limit_s: float, watch: Watch = nothing_to_watch) -> T:
    """The result of an SDK call that talks to the server before it returns; else as `wait`.

    Making a client opens a session, and where nobody answers the SDK tries for minutes. So `work`
    runs in a thread of its own, which is left behind where waiting has become pointless.
    """
    pending: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            pending.set_result(work())
        # Nothing is swallowed: whatever it is, the waiting thread raises it.
        except BaseException as error:  # noqa: BLE001
            pending.set_exception(error)

    threading.Thread(target=run, name=what, daemon=True).start()
    return _awaited(pending, what, limit_s, watch)


def _awaited(
    pending: "concurrent.futures.Future[T]",
    what: str,
    limit_s: float,
    watch: Watch,
    meanwhile: Meanwhile = stand_by,
) -> T:
    collect_if_grown()
    limit = Limit(what, limit_s)
    while True:
        meanwhile(pending, min(LOOK_EVERY_S, limit_s))
        if pending.done():
            break
        watch()
        limit.require()
    try:
        result = pending.result(timeout=0)
    except FAILURES as error:
        watch()
        raise described(error, what) from error
    note_pauses(result)
    return result


class Limit:
    """So many seconds for some work, that begin anew with each sign of life."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what, self._seconds = what, seconds
        self._deadline = time.monotonic() + seconds

    def begin_again(self) -> None:
        """There was a sign of life."""
        self._deadline = time.monotonic() + self._seconds

    def require(self) -> None:
        """Raise `BackendError` where they are over."""
        if time.monotonic() > self._deadline:
            raise BackendError(_late(self._what, self._seconds))


class Arrivals(Generic[Key, T]):
    """Requests under way and their results in the order of arrival; more may be added meanwhile.

        arrivals = Arrivals("sampling of step 3", SAMPLE_LIMIT_S, watch)
        arrivals.add("first", future)
        for key, result in arrivals:
            ...  # may add what follows from the result

    Iterating ends when nothing is under way. A request that the server refuses or fails at yields
    its `RequestRefused` (`RequestFailed`) in place of a result: it is data, and whether enough is
    left is for the caller to say. Any other failure raises `BackendError`, as does a pause of
    `limit_s` seconds in which nothing arrives. `watch` is called about once a second while
    waiting, and raises when the server has died. What is still pending when the iteration ends
    early is cancelled.
    """

    def __init__(self, what: str, limit_s: float, watch: Watch = nothing_to_watch) -> None:
        self._what, self._limit_s, self._watch = what, limit_s, watch
        # None wakes whoever waits, and is no arrival.
        self._arrived: queue.SimpleQueue[concurrent.futures.Future[T] | None] = queue.SimpleQueue()
        self._key_of: dict[concurrent.futures.Future[T], tuple[Key, str]] = {}
        self._until: concurrent.futures.Future[Any] | None = None

    def add(self, key: Key, future: tinker.APIFuture[T], what: str = "") -> None:
        """Wait for `future` too; its result comes with `key`, and `what` names it for messages."""
        pending = future.future()
        self._key_of[pending] = key, what or self._what
        # A callback costs the same however many wait; `wait` on a set grows with the set.
        pending.add_done_callback(self._arrived.put)

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._key_of)

    def __iter__(self) -> Generator[tuple[Key, T | RequestRefused]]:
        try:
            while self._key_of:
                yield self.following()
        finally:
            self.cancel()

    def following(self) -> tuple[Key, T | RequestRefused]:
        """The next arrival, however long that takes up to `limit_s`."""
        limit = Limit(self._what, self._limit_s)
        while True:
            found = self.within(min(LOOK_EVERY_S, self._limit_s))
            if found is not None:
                return found
            self._watch()
            limit.require()

    def within(
        self, seconds: float, until: "concurrent.futures.Future[Any] | None" = None
    ) -> tuple[Key, T | RequestRefused] | None:
        """The next arrival; None where none comes in `seconds`, or `until` is done before."""
        if until is not None and until is not self._until:
            self._until = until
            self.wake_when(until)
        if until is not None and until.done():
            return None
        try:
            future = self._arrived.get(timeout=seconds)
        except queue.Empty:
            return None
        if future is None:
            return None
        collect_if_grown()
        key, what = self._key_of.pop(future)
        return key, _result(future, what, self._watch)

    def wake_when(self, done: "concurrent.futures.Future[Any]") -> None:
        """Let `within` return without an arrival when that is done: there is something else."""
        done.add_done_callback(lambda _: self._arrived.put(None))

    def cancel(self) -> None:
        """Give up on all that is under way."""
        for pending in self._key_of:
            pending.cancel()


def _result(future: "concurrent.futures.Future[T]", what: str, watch: Watch) -> T | RequestRefused:
    try:
        return future.result(timeout=0)
    except tinker.RequestFailedError as error:
        watch()
        if error.category is RequestErrorCategory.User:
            return RequestRefused(str(described(error, what)))
        return RequestFailed(f"The server failed at {what}: {_as_the_server_said(error)}")
    except FAILURES as error:
        watch()
        failure = described(error, what)
        if isinstance(failure, RequestRefused):
            return failure
        raise failure from error


def checkpoint_exists(rest: tinker.RestClient, path: str, watch: Watch = nothing_to_watch) -> bool:
    """Whether the server still has the checkpoint at the `tinker://` path.

    One that is there and damaged is gone too. Why, in the server's words, is a warning. Raises
    `BackendError` when the server cannot say.
    """
    try:
        wait(rest.get_weights_info_by_tinker_path(path), f"looking up {path}", 60.0, watch)
    except BackendError as error:
        if isinstance(cause := error.__cause__, tinker.NotFoundError):
            logger.warning("The server says: %s", detail_of(cause))
            return False
        raise
    return True


def keep_for_ever(
    rest: tinker.RestClient, paths: Iterable[str], watch: Watch = nothing_to_watch
) -> None:
    """Take the time limit off checkpoints; raises `BackendError` where the server does not."""
    for path in paths:
        change = rest.set_checkpoint_ttl_from_tinker_path(path, None)
        wait(change, f"taking the time limit off {path}", CONTROL_LIMIT_S, watch)


def described(error: BaseException, what: str) -> BackendError:
    """The sentence for a failure of the SDK (one of `FAILURES`)."""
    match error:
        case tinker.RequestFailedError(category=RequestErrorCategory.User):
            return RequestRefused(f"The server refused {what}: {_as_the_server_said(error)}")
        case tinker.RequestFailedError():
            return BackendError(
                f"The server failed at {what}: {_as_the_server_said(error)} "
                "Start the same command again: it goes on from the last checkpoint."
            )
        case tinker.AuthenticationError() | tinker.PermissionDeniedError():
            return CredentialError(
                f"The server does not accept the key for {what} "
                f"(status {error.status_code}); check TINKER_API_KEY."
            )
        case tinker.BadRequestError() | tinker.UnprocessableEntityError():
            return RequestRefused(f"The server refused {what}: {detail_of(error)}")
        case tinker.APIStatusError():
            return BackendError(
                f"The server answered {what} with status {error.status_code}: {detail_of(error)}"
            )
        case tinker.APIConnectionError():
            return BackendError(
                f"The server cannot be reached for {what}: {error.message} Check that it runs; "
                "the same command then goes on from the last checkpoint."
            )
        case tinker.APIResponseValidationError() | AssertionError():
            return BackendError(
                f"The server's reply to {what} is not what SDK {tinker.__version__} expects"
                f"{f' ({error})' if str(error) else ''}; it is probably made for another version "
                "of the protocol."
            )
        case _:
            return BackendError(
                f"The session with the server was lost at {what} "
                f"({type(error).__name__}: {error}). Start the same command again: it goes on "
                "from the last checkpoint."
            )


def detail_of(error: tinker.APIStatusError) -> str:
    """What the server said, without the SDK's wrapping where it can be told apart."""
    body = error.body
    if isinstance(body, Mapping):
        detail = cast("Mapping[str, object]", body).get("detail")
        if isinstance(detail, str):
            return detail
    return error.message


def _as_the_server_said(error: tinker.RequestFailedError) -> str:
    """The server's own words, out of what the SDK puts around them."""
    return error.message.removeprefix("Request failed: ").partition(" for self.request_id=")[0]


def _late(what: str, limit_s: float) -> str:
    limit = f"{limit_s / 60:.0f} minutes" if limit_s >= 120 else f"{limit_s:.0f} s"
    return (
        f"No answer to {what} within {limit}. The server may be paused for "
        "capacity or have died; the same command goes on from the last checkpoint."
    )
