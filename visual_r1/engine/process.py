"""The engine as a process: its socket, its server, and the ways in which it ends."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.filesize import decimal as size_text

from visual_r1.engine.loading import saying_progress
from visual_r1.engine.store.store import Store
from visual_r1.errors import EngineError
from visual_r1.garbage import collect_nothing, collect_what_is_new
from visual_r1.printing import open_logger, say

if TYPE_CHECKING:
    import uvicorn

    from visual_r1.engine.server.engine import Engine

log = open_logger("visual_r1.engine")

KEEP_ALIVE_S = 300
"""Longer than clients keep idle connections, so that none is closed under a request."""

PREDECESSOR_S = 20.0
"""A flow that was killed and started again finds the engine of the first one still ending."""

END_WITHIN_S = 20.0
"""A stop takes no longer: open requests are answered, a checkpoint is written to its end."""


@dataclass(frozen=True)
class ServeOptions:
    """What `python -m visual_r1.engine` was asked for."""

    host: str
    port: int
    home: Path
    model: str
    device: str
    threads: int
    api_key: str
    has_parent: bool
    max_disk: int | None = None
    """Bytes that everything in `home` may take; None is no limit."""
    by_hand: bool = False
    """Whether someone sits at the terminal, and is told how to use it."""


def bind(host: str, port: int) -> socket.socket:
    """Take the port (0 lets the system choose one). Raises `EngineError` when it is in use."""
    # asyncio turns Nagle's algorithm off for sockets that say they are TCP, and those accepted are
    # as the listener. With it the second half of an answer may wait 40 ms for the client's ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise EngineError(
            f"port {port} of {host} cannot be used: {error.strerror or error}. "
            "Choose another with --port, or 0 to let the system choose."
        ) from error
    return listener


class Shutdown:
    """The one place that says that the process is to end, from a signal or the parent's death."""

    def __init__(self) -> None:
        self._stop: Callable[[], object] | None = None

    def begin(self) -> None:
        """End: at once while the engine is still loading, else by a clean stop of the server."""
        if self._stop is None:
            os._exit(0)
        # Whatever hangs then, no orphan stays.
        last_resort = threading.Timer(END_WITHIN_S, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        self._stop()

    def stops_by(self, stop: Callable[[], object]) -> None:
        """From now on, call this to end."""
        self._stop = stop

    def on_signals(self) -> None:
        """End on SIGTERM and SIGINT."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.begin()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)

    def with_parent(self, parent_fd: int) -> None:
        """End when the other side of a pipe closes, which the death of the parent does."""

        def watch() -> None:
            with contextlib.suppress(OSError):
                while os.read(parent_fd, 64):
                    pass
            self.begin()

        threading.Thread(target=watch, name="parent", daemon=True).start()


def serve(options: ServeOptions, listener: socket.socket, shutdown: Shutdown) -> None:
    """Load the model, serve until asked to end. Raises `VisualR1Error` when it cannot start."""
    patience_s = PREDECESSOR_S if options.has_parent else 0.0
    store = Store(
        options.home,
        patience_s=patience_s,
        max_disk=options.max_disk,
        of_run=options.has_parent,
    )
    collect_nothing()
    try:
        with saying_progress() if options.has_parent else contextlib.nullcontext():
            # Imported here since they bring torch: what can be refused is refused before.
            from transformers.utils import logging as transformers_logging

            from visual_r1.engine.compute.compute import Compute
            from visual_r1.engine.server.engine import Engine

            transformers_logging.disable_progress_bar()
            compute = Compute(options.model, device=options.device, threads=options.threads)
        served = _serve(Engine(compute, store), options, listener, shutdown)
        collect_what_is_new()
        asyncio.run(served)
    finally:
        store.close()


async def _serve(
    engine: "Engine", options: ServeOptions, listener: socket.socket, shutdown: Shutdown
) -> None:
    import uvicorn

    from visual_r1.engine.server.app import make_app
    from visual_r1.request_heads import BoundedHeads

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            # Signals go to `Shutdown`, which also knows of the time before the server runs.
            yield

    server = Server(
        uvicorn.Config(
            make_app(engine, options.api_key),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            http=BoundedHeads,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=2,
        )
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        engine.futures.close()
        server.should_exit = True

    def stop_if_failed(task: asyncio.Task[None]) -> None:
        # An engine whose worker has died answers nothing any more: let it end, and say why.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the engine ends since a part of it failed", exc_info=error)
            stop()

    shutdown.stops_by(lambda: loop.call_soon_threadsafe(stop))
    background = [
        asyncio.create_task(engine.worker.serve()),
        asyncio.create_task(engine.keep_sweeping()),
        asyncio.create_task(_announce(server, options, listener)),
    ]
    for task in background:
        task.add_done_callback(stop_if_failed)
    await server.serve(sockets=[listener])
    engine.stop_reading_ahead()
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)


async def _announce(
    server: "uvicorn.Server", options: ServeOptions, listener: socket.socket
) -> None:
    """Say that the engine serves; what prints after this goes to the log."""
    while not server.started:
        await asyncio.sleep(0.005)
    url = f"http://{options.host}:{listener.getsockname()[1]}"
    say(f"engine ready on {url}")
    if options.by_hand:
        limit = options.max_disk
        bound = "" if limit is None else f", at most {size_text(limit)} of them"
        lines = (
            f"It serves {options.model}; checkpoints are in {options.home}{bound}.",
            "Point any Tinker program, and the `tinker` command, at it:",
            "",
            f"    export TINKER_BASE_URL={url}",
            f"    export TINKER_API_KEY={options.api_key}",
            "",
            "Ctrl-C ends it; checkpoints stay.",
        )
        say("\n".join(lines))
    os.dup2(2, 1)
