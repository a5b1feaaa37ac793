"""The temporary Prefect server of a run that has none: started here, watched, ended with the run.

Prefect would start it by itself and never look at it again: one that dies is noticed at the end of
the run, after minutes of retries, by a traceback. So the socket it serves on belongs to this
process. A server that ends, or stands still, is followed by another on the same socket and the same
records; what Prefect asks meanwhile waits in the socket's queue. Where no server will stay alive,
each question is answered at once with "gone", and the run ends as its files say, not as Prefect's
retries do.

Ctrl-C and SIGTERM reach the run and not its server, which has a session of its own: a flow tells it
that it was stopped. Server and guard wait on pipes that only this process holds open: when they
close, however that came about, the server ends, and where it stands still the guard ends it.
"""

import atexit
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx
from prefect.settings import get_current_settings

from tasks.first_database import copy_first, database_to_be, keep_first
from visual_r1.errors import ConfigError
from visual_r1.liveness import Progress
from visual_r1.printing import open_logger

logger = open_logger("visual_r1.tasks")

LOOK_EVERY_S = 1.0
ASK_EVERY_S = 5.0
"""A server that ended is seen at the next look, one that stands still by a question."""

ANSWER_WITHIN_S = 5.0
STANDS_STILL_S = 20.0
"""Without an answer and without computing for so long, a server is taken for dead."""

SLOWEST_ANSWER_S = 120.0
"""Without an answer for so long it is replaced, though it computes."""

SLOWEST_START_S = 900.0
SAY_SLOW_S = 30.0
MOST_PER_HOUR = 6
"""Servers that follow another; more that end within an hour have a reason that will not pass."""

GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# Prefect's own settings for it: no pages, and no services that a server of its own would run.
_SERVER_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # Its log is a file, which nobody reads unless it fails.
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
    # No web page has anything to do here.
    "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "",
}


class TemporaryServer:
    """What Prefect takes for its own `SubprocessASGIServer`: another way to start it, and a watch.

    All of Prefect finds it by `default_server`.
    """

    def __init__(self) -> None:
        self.port: int | None = None
        self.running = False
        self.server_process: subprocess.Popen[bytes] | None = None
        # `_changing` is held while one process takes the place of another.
        self._changing = threading.RLock()
        self._listener: socket.socket | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._is_over = threading.Event()
        self._is_stopped = threading.Event()
        self._replaced: deque[float] = deque()

    @property
    def address(self) -> str:
        """Where it serves, once it was started."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where its API is."""
        return f"{self.address}/api"

    def start(self, timeout: int | None = None) -> None:
        """Start it where it does not run, and wait until it answers, however busy the machine is.

        Raises `ConfigError` where it ends again and again, or stands still.
        """
        del timeout  # one that is at work is waited for
        with self._changing:
            self._is_over.clear()
            if self.running:
                return
            if self._listener is None:
                self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
                self.port = self._listener.getsockname()[1]
                atexit.register(self.stop)  # before there is something to end
            self._is_stopped.clear()
            database = database_to_be()
            was_kept = database is not None and copy_first(database)
            if failed := self._start_process():
                raise ConfigError(f"Prefect's temporary server {failed.what}. {failed.way_out}")
            if database is not None and not was_kept:
                keep_first(database)
            self.running = True
            self._watcher = threading.Thread(target=self._watch, name="prefect-server", daemon=True)
            self._watcher.start()

    def finish(self) -> None:
        """The run has ended: a server that dies from here on is not followed by another."""
        self._is_over.set()

    def stop(self) -> None:
        """End it, at once: its records are written by then."""
        self._is_over.set()
        self._is_stopped.set()
        self.running = False
        self._end_process()
        # A thread that still works when Python ends can abort the process.
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(ANSWER_WITHIN_S)

    @property
    def log(self) -> Path:
        """What the server writes."""
        return get_current_settings().home / "server.log"

    def _start_process(self) -> "_Failed | None":
        """Start one and wait until it answers; where it does not, end it and say what it did.

        One that ends by itself is started a second time: the reason may have passed.
        """
        failed = self._try_process()
        if failed and failed.ended and not self._is_stopped.is_set():
            failed = self._try_process()
        if failed:
            self._end_process()
        return failed

    def _try_process(self) -> "_Failed | None":
        try:
            server = self._spawn()
        except OSError as error:
            way_out = "Mend that, or choose another folder for its records with PREFECT_HOME."
            return _Failed(f"cannot be started: {error}", way_out, ended=True)
        began, progress, said = time.monotonic(), Progress(server.pid), False
        while not self._answers(1.0):
            if (status := server.poll()) is not None:
                self._end_process()
                what = f"ends as soon as it is started ({_how(status)})"
                return _Failed(what, self._new_records, ended=True)
            if progress.seconds_without() > STANDS_STILL_S:
                return _Failed(f"does nothing for {STANDS_STILL_S:.0f} s", self._later)
            took = time.monotonic() - began
            if took > SLOWEST_START_S:
                return _Failed(f"is not ready after {took / 60:.0f} minutes", self._later)
            if took > SAY_SLOW_S and not said:
                said = True
                logger.warning(
                    "Prefect's temporary server starts slowly: it is at work, and this machine "
                    "busy. It is waited for."
                )
            if self._is_stopped.wait(0.1):
                return _Failed("was stopped", self._later)
        return None

    def _spawn(self) -> "subprocess.Popen[bytes]":
        assert self._listener is not None
        settings = get_current_settings()
        settings.home.mkdir(parents=True, exist_ok=True)
        fd = self._listener.fileno()
        with self.log.open("ab") as log:
            self.server_process = server = subprocess.Popen(
                # -P: nothing that lies beside that file hides a package.
                [sys.executable, "-P", str(Path(__file__).with_name("server_process.py")), str(fd)],
                env=os.environ
                | settings.to_environment_variables(exclude_unset=True)
                | _SERVER_ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(fd,),
                start_new_session=True,
            )
        script = 'cat >/dev/null; kill -9 "$1" 2>/dev/null'
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", str(server.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not end the guard first
        )
        return server

    def _end_process(self) -> None:
        """Kill it, and its guard first: the number may be another process's afterwards."""
        for process in (self._guard, self.server_process):
            if process is not None:
                process.kill()
                process.wait()
                assert process.stdin is not None
                process.stdin.close()

    def _answers(self, within_s: float) -> bool:
        try:
            url = f"{self.api_url}/health"
            return httpx.get(url, timeout=within_s, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _watch(self) -> None:
        """Look whether the server lives and answers, for as long as this process needs it."""
        asked = time.monotonic()
        silence: Progress | None = None
        while not self._is_stopped.wait(LOOK_EVERY_S):
            server, over = self.server_process, self._is_over.is_set()
            assert server is not None
            what = ""
            if (status := server.poll()) is not None:
                what = f"ended ({_how(status)})"
            elif over or time.monotonic() - asked >= ASK_EVERY_S:
                asked = time.monotonic()
                if self._answers(LOOK_EVERY_S if over else ANSWER_WITHIN_S):
                    silence = None
                elif silence is None:
                    silence = Progress(server.pid)
                elif silence.seconds_without() > (LOOK_EVERY_S if over else STANDS_STILL_S):
                    what = f"stood still for {silence.seconds_without():.0f} s"
                elif silence.seconds() > SLOWEST_ANSWER_S:
                    what = f"did not answer for {silence.seconds():.0f} s"
            if what and not self._is_stopped.is_set():
                silence = None
                if not self._replace(what):
                    self._refuse_all()

    def _replace(self, what: str) -> bool:
        """Put another server in the place of one that is gone; False where none will stay."""
        with self._changing:
            self._end_process()
            now = time.monotonic()
            self._replaced = deque(at for at in self._replaced if now - at < 3600)
            if self._is_over.is_set():
                return False
            if len(self._replaced) < MOST_PER_HOUR:
                self._replaced.append(now)
                logger.warning(
                    "Prefect's temporary server %s. Another one takes its place; the run loses "
                    "nothing.",
                    what,
                )
                failed = self._start_process()
                if not failed:
                    return True
                what = failed.what
            if not self._is_over.is_set():
                logger.warning(
                    "Prefect's temporary server %s, and not for the first time: the run goes on "
                    "without it. What is missing in Prefect's records is in the run's own files; "
                    "%s says more.",
                    what,
                    self.log,
                )
            return False

    def _refuse_all(self) -> None:
        """Answer whoever asks that there is no server any more; else Prefect tries for minutes."""
        assert self._listener is not None
        # Prefect would write each log record that it cannot deliver to stderr instead.
        logging.raiseExceptions = False
        self._listener.settimeout(LOOK_EVERY_S)
        while not self._is_stopped.is_set():
            with suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(LOOK_EVERY_S)
                    connection.recv(65536)
                    connection.sendall(GONE)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # a socket that is closed unread is reset
                        pass

    @property
    def _later(self) -> str:
        return (
            "This machine may be too busy for it: start the same command again when it is less so. "
            f"{self.log} may say more."
        )

    @property
    def _new_records(self) -> str:
        last = _last_error(self.log)
        return (
            f"{f'It wrote: {last}. ' if last else ''}Its records in {self.log.parent} may be "
            "damaged, of another version of Prefect, or on a full disk. Move that folder away and "
            "start the same command again; no checkpoint or result is in it."
        )


class _Failed(NamedTuple):
    """Why no server serves: what it did, a sentence with the way out, and whether it had ended."""

    what: str
    way_out: str
    ended: bool = False


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _last_error(path: Path) -> str:
    """The line of the last exception in a log; empty where there is none."""
    with suppress(OSError):
        text = path.read_bytes()[-20_000:].decode(errors="replace")
        found = re.findall(r"^[\w.]+(?:Error|Exception): .+$", text, re.MULTILINE)
        return found[-1][:300].rstrip(".") if found else ""
    return ""
