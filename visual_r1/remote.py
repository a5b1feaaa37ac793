"""Waiting for a Tinker server: every wait has a limit, every failure is one sentence.

The SDK retries lost connections for minutes to hours, and a killed server can leave a future
pending for ever. So nothing here waits on a future without a limit, and a `watch` looks between
short waits whether the server is still alive (the embedded engine's process, say).
"""

import concurrent.futures
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tinker
from tinker.lib.retryable_exception import (  # pyright: ignore[reportMissingTypeStubs]
    RetryableException,
)
from tinker.types import RequestErrorCategory

from visual_r1.backend import detail_of
from visual_r1.errors import BackendError, CredentialError, RequestRefused

T = TypeVar("T")
Watch = Callable[[], None]

# Generous: a capacity pause of the hosted service can last hours.
SAMPLE_LIMIT_S = 7200.0
TRAIN_LIMIT_S = 7200.0
SAVE_LIMIT_S = 3600.0
CONTROL_LIMIT_S = 600.0
_SLICE_S = 1.0

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


def wait(
    future: tinker.APIFuture[T], what: str, limit_s: float, watch: Watch = nothing_to_watch
) -> T:
    """The future's result.

    `what` names the work for messages ("step 12, forward_backward"). `watch` is called about once
    a second and raises when waiting has become pointless. Raises `RequestRefused` when the server
    says that the request itself is at fault, `BackendError` for any other failure and when
    `limit_s` seconds have passed.
    """
    deadline = time.monotonic() + limit_s
    pending = future.future()
    while True:
        done, _ = concurrent.futures.wait([pending], timeout=_SLICE_S)
        if done:
            break
        watch()
        if time.monotonic() > deadline:
            raise BackendError(_late(what, limit_s))
    try:
        return pending.result(timeout=0)
    except FAILURES as error:
        watch()
        raise described(error, what) from error


def as_they_arrive(
    futures: Sequence[tinker.APIFuture[T]],
    what: str,
    limit_s: float,
    watch: Watch = nothing_to_watch,
) -> Iterator[tuple[int, T | RequestRefused]]:
    """Yield (index, result) in the order of arrival, until all have arrived.

    A refused request yields its `RequestRefused` in place of a result: it is data. Any other
    failure raises `BackendError`, as does a pause of `limit_s` seconds in which nothing arrives.
    Whatever is still pending when the iteration ends early is cancelled.
    """
    index_of = {future.future(): index for index, future in enumerate(futures)}
    pending = set(index_of)
    progress_at = time.monotonic()
    try:
        while pending:
            done, pending = concurrent.futures.wait(
                pending, timeout=_SLICE_S, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in sorted(done, key=index_of.__getitem__):
                progress_at = time.monotonic()
                yield index_of[future], _result(future, what, watch)
            if not done:
                watch()
                if time.monotonic() - progress_at > limit_s:
                    raise BackendError(_late(what, limit_s))
    finally:
        for future in pending:
            future.cancel()


def _result(future: "concurrent.futures.Future[T]", what: str, watch: Watch) -> T | RequestRefused:
    try:
        return future.result(timeout=0)
    except FAILURES as error:
        watch()
        failure = described(error, what)
        if isinstance(failure, RequestRefused):
            return failure
        raise failure from error


def checkpoint_exists(rest: tinker.RestClient, path: str, watch: Watch = nothing_to_watch) -> bool:
    """Whether the server still has the checkpoint at the `tinker://` path.

    Raises `BackendError` when the server cannot say.
    """
    try:
        wait(rest.get_weights_info_by_tinker_path(path), f"looking up {path}", 60.0, watch)
    except BackendError as error:
        if isinstance(error.__cause__, tinker.NotFoundError):
            return False
        raise
    return True


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
                f"The server's reply to {what} is not what SDK {tinker.__version__} expects "
                f"({error}); it is probably made for another version of the protocol."
            )
        case _:
            return BackendError(
                f"The session with the server was lost at {what} "
                f"({type(error).__name__}: {error}). Start the same command again: it goes on "
                "from the last checkpoint."
            )


def _as_the_server_said(error: tinker.RequestFailedError) -> str:
    """The server's own words, out of what the SDK puts around them."""
    return error.message.removeprefix("Request failed: ").partition(" for self.request_id=")[0]


def _late(what: str, limit_s: float) -> str:
    return (
        f"No answer to {what} within {limit_s / 60:.0f} minutes. The server may be paused for "
        "capacity or have died; the same command goes on from the last checkpoint."
    )
