"""Calls of Prefect's API by a thread of their own: a run never waits for its records.

There is one place for each thing that is told, and what is newer takes the place of what has not
been sent. So nothing piles up while a server is away, and when it is back it hears how things stand
then. Each call is short and made once; Prefect's client itself tries for minutes.

Events are sent by Prefect's own thread, which tries for eight seconds with each and is waited for
when the program ends. While the server is known to be away they are kept here instead.
"""

import contextvars
import itertools
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.outcome import SERVER_FAILURES
from visual_r1.printing import open_logger

logger = open_logger("visual_r1.tasks")

ANSWER_WITHIN_S = 10.0
AGAIN_AFTER_S = 5.0
WAIT_AT_THE_END_S = 10.0

Call = Callable[[SyncPrefectClient], object]


_NUMBER = re.compile(r" #\d+$")


class Sender:
    """Sends what is put into it, until it is closed."""

    def __init__(self) -> None:
        self._waiting: dict[str, Call] = {}
        self._refused: dict[str, str] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self.is_away = False  # as the last call found it
        # Prefect keeps its settings, and which flow run this is, in context variables.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="prefect-records", daemon=True
        )
        self._thread.start()

    def put(self, what: str, call: Call) -> None:
        """Send `call`, in place of an earlier one of the same name that has not been sent."""
        with self._changed:
            self._waiting[what] = call
            self._changed.notify_all()

    def wait(self, within_s: float) -> None:
        """Wait until all is sent, but no longer."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, within_s)

    def close(self, within_s: float = WAIT_AT_THE_END_S) -> None:
        """Send what is left, once; warns of what Prefect was not told. The thread ends with it."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(within_s)
        with self._changed:
            left = dict.fromkeys(self._waiting, "no answer") | self._refused
        if lost := {_NUMBER.sub("", what): why for what, why in left.items()}:
            logger.warning(
                "Prefect has no record of this run's %s: all of it is in the run's own files.",
                ", ".join(f"{what} ({why})" for what, why in lost.items()),
            )

    def _work(self) -> None:
        settings = httpx.Timeout(ANSWER_WITHIN_S)
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            client: SyncPrefectClient | None = None
            while (item := self._next()) is not None:
                what, call = item
                try:
                    if client is None:
                        client = get_client(
                            httpx_settings={"timeout": settings}, sync_client=True
                        ).__enter__()
                    call(client)
                except SERVER_FAILURES as error:
                    self._failed(what, call, error)
                else:
                    self.is_away = False
                    self._end(what, call)
            if client is not None:
                client.__exit__(None, None, None)

    def _next(self) -> tuple[str, Call] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            return next(iter(self._waiting.items()), None)

    def _end(self, what: str, call: Call, refused: str = "") -> None:
        with self._changed:
            self._refused.pop(what, None)
            if refused:
                self._refused[what] = refused
            if self._waiting.get(what) is call:
                del self._waiting[what]
            self._changed.notify_all()

    def _failed(self, what: str, call: Call, error: Exception) -> None:
        """Keep the call and wait a little, unless it was refused, or this is the end."""
        answered = isinstance(error, PrefectHTTPStatusError) and error.response.is_client_error
        with self._changed:
            self.is_away = not answered
            if not answered:
                self._changed.wait_for(lambda: self._is_closing, AGAIN_AFTER_S)
            if not answered and not self._is_closing:
                return
        self._end(what, call, refused=type(error).__name__)


current: ContextVar[Sender | None] = ContextVar("sender", default=None)
"""That of the flow run at work."""

_events = itertools.count()


def is_away() -> bool:
    """Whether the server of the flow run at work was away when it was asked last."""
    sender = current.get()
    return sender is not None and sender.is_away


def emit(what: str, event: Callable[[], object]) -> None:
    """Call `event`, which emits one: now, or when the server is back."""
    sender = current.get()
    if sender is None or not sender.is_away:
        with suppress(*SERVER_FAILURES):
            event()
        return

    def when_back(client: SyncPrefectClient) -> None:
        client.hello().raise_for_status()
        event()

    sender.put(f"event {what} #{next(_events)}", when_back)
