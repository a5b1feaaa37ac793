"""Start the engine as a child process of this one, without importing torch here."""

import os
import secrets
import selectors
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from visual_r1.engine.loading import LOADING
from visual_r1.errors import EngineError, EngineRefused

READY = "engine ready on "
REFUSAL = "visual_r1.engine: "
"""What stands before the one sentence of an engine that cannot start."""

START_WITHIN_S = 180.0
"""How long an engine may take that says nothing. While it loads it says that data moves, and the
time begins anew: a download may take hours. A child that dies is noticed at once."""


@dataclass(frozen=True)
class RunningEngine:
    """A serving engine; it ends with `close`, or when this process ends in whatever way."""

    url: str
    api_key: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)
    _pipe: IO[bytes] = field(repr=False)

    def answers(self, within_s: float) -> bool:
        """Whether its server answers; what it computes goes on beside that."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.url}/api/v1/healthz", timeout=within_s) as answer:
                return answer.status == 200
        except OSError:
            return False

    def close(self, patience_s: float = 10.0) -> None:
        """End the engine: it finishes a checkpoint that it is writing, and nothing else."""
        _end(self.process, self._pipe, patience_s)

    def __enter__(self) -> "RunningEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StartingEngine:
    """An engine that was begun: it loads while this process does other things."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        pipe: IO[bytes],
        api_key: str,
        log: Path,
        log_start: int,
    ) -> None:
        self._process = process
        self._pipe = pipe
        self._api_key = api_key
        self._log = log
        self._log_start = log_start
        self._progress = ""

    def ready(self, within_s: float = START_WITHIN_S) -> RunningEngine:
        """Wait until it serves, or until it has said nothing for so many seconds.

        Raises `EngineRefused` with its sentence when it says why it cannot start, `EngineError`
        with the last line of its log when it dies otherwise or hangs.
        """
        line = self._first_line(within_s)
        if not line.startswith(READY):
            self.cancel()
            said = self._last_said()
            if said.startswith(REFUSAL):
                raise EngineRefused(f"The engine did not start: {said.removeprefix(REFUSAL)}")
            raise EngineError(
                f"The engine did not start{'' if line else self._hung(within_s)}: "
                f"{said.rstrip('.') or 'it wrote nothing'}. Its log is {self._log}."
            )
        url = line.removeprefix(READY).strip()
        return RunningEngine(url, self._api_key, self._process, self._pipe)

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone again."""
        return self._process.poll() is not None

    def cancel(self) -> None:
        """End it without having used it."""
        _end(self._process, self._pipe, 2.0)

    def _hung(self, within_s: float) -> str:
        if self._progress:
            return f", and read or downloaded nothing for {within_s:.0f} s ({self._progress})"
        return f" within {within_s:.0f} s"

    def _first_line(self, within_s: float) -> str:
        """The ready line; "ended" when the child died, "" when it said nothing for so long."""
        output = self._process.stdout
        assert output is not None
        text = b""
        deadline = time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if not selector.select(left):
                    continue
                piece = os.read(output.fileno(), 4096)
                *lines, text = (text + piece).split(b"\n")
                for line in (whole.decode(errors="replace") for whole in lines):
                    if line.startswith(READY):
                        return line
                    if line.startswith(LOADING):
                        self._progress = line.removeprefix(LOADING)
                        deadline = time.monotonic() + within_s
                if not piece:
                    return "ended"
        return ""

    def _last_said(self) -> str:
        """The last line that this engine, not one before it, wrote to the log."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace").strip()
        return text.splitlines()[-1] if text else ""


def begin_engine(
    home: Path, model: str, threads: int, log: Path, *, device: str = "auto"
) -> StartingEngine:
    """Start an engine process on a free loopback port, with a fresh key, and return at once.

    The key goes by the environment, where other users do not see it. The engine holds one end of a
    pipe whose other end this process keeps: when this process ends, so does the engine.
    Raises `EngineError` when the process cannot be started.
    """
    api_key = f"tml-{secrets.token_urlsafe(24)}"
    theirs, ours = os.pipe()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as log_file:
            log_start = log_file.tell()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "visual_r1.engine", "--port", "0"),
                    *("--home", str(home), "--model", model, "--threads", str(threads)),
                    *("--device", device, "--parent-fd", str(theirs)),
                ],
                env=_without_keys(os.environ) | {"VISUAL_R1_ENGINE_KEY": api_key},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                pass_fds=(theirs,),
                # Ctrl-C goes to the flow, which ends the engine when it is done with it.
                start_new_session=True,
            )
    except OSError as error:
        os.close(ours)
        raise EngineRefused(
            f"The engine could not be started: {error}. Mend that, or choose another folder for "
            "it with --backend.engine_home."
        ) from error
    finally:
        os.close(theirs)
    return StartingEngine(process, os.fdopen(ours, "wb", buffering=0), api_key, log, log_start)


def start_engine(
    home: Path, model: str, threads: int, log: Path, *, device: str = "auto"
) -> RunningEngine:
    """Start an engine and wait until it serves. Raises `EngineError`."""
    return begin_engine(home, model, threads, log, device=device).ready()


def _end(process: subprocess.Popen[bytes], pipe: IO[bytes], patience_s: float) -> None:
    pipe.close()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """What the engine has no use for stays where it is: keys of services that it does not call."""
    return {
        name: value
        for name, value in environ.items()
        if name not in ("TINKER_API_KEY", "WANDB_API_KEY")
    }
