"""`visual-r1 view`: the pages over this machine's runs, in the browser.

visual-r1 view                              # all runs under runs/
visual-r1 view quickstart-0a1b2c3d          # one of them, or several
visual-r1 view --output-dir ~/work --port 8080 --no-browser
"""

import argparse
import os
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.pages.guard import kept_token
from visual_r1.pages.place import Place
from visual_r1.printing import CommandParser, say, terminal
from visual_r1.runs.named import find_run

PORT = 4281
"""Beside that of `make up`."""

HOST_VARIABLE = "VISUAL_R1_PAGES_HOST"
"""The address to listen on. In a container another than loopback, so that its port can be handed to
the machine around it; a browser still has to call it 127.0.0.1 or localhost."""


def view(arguments: Sequence[str] | None = None) -> int:
    """Serve the pages until Ctrl-C; the exit status."""
    given = _parser().parse_args(arguments)
    try:
        named = [find_run(one, given.output_dir) for one in given.runs]
        place = Place(given.output_dir, tuple(named))
        token = kept_token(place.state_dir)
        listener = _listener(given.port)
    except VisualR1Error as error:
        terminal().sentence(str(error), "error", "bold red")
        return 1
    port: int = listener.getsockname()[1]
    page = f"/runs/{quote(named[0].absolute().name, safe='')}" if len(named) == 1 else "/"
    opened = f"http://127.0.0.1:{port}{page}?token={token}"
    if not given.quiet:
        say(f"The pages are at {opened}\nCtrl-C ends them.")
    if not given.no_browser:
        threading.Thread(target=_open, args=(opened,), daemon=True).start()
    _serve(given.output_dir, token, named, listener)
    return 0


def address_of(output_dir: Path, port: int) -> str:
    """Where pages over `output_dir` on `port` let a browser in; raises `StorageError`."""
    return f"http://127.0.0.1:{port}/?token={kept_token(Place(output_dir).state_dir)}"


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="visual-r1 view",
        description="Show runs in the browser: curves, rollouts, evaluations. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a run's folder, or its name under runs/"
    )
    parser.add_argument("--port", type=_port, help=f"default: {PORT}, or a free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address alone")
    parser.add_output_dir()
    parser.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)
    return parser


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return port


def _listener(port: int | None) -> socket.socket:
    """Listens on the port; without one on `PORT`, or on a free one where somebody has that.

    Raises `ConfigError` where the port that was asked for cannot be had.
    """
    host = os.environ.get(HOST_VARIABLE) or "127.0.0.1"
    for wanted in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host, wanted))
        except OSError as error:
            if port is not None or wanted == 0:
                raise ConfigError(
                    f"The pages cannot be served on port {wanted} of {host} "
                    f"({error.strerror or error}): choose another --port."
                ) from error
    raise AssertionError("one of them is returned or raised")


def _serve(output_dir: Path, token: str, named: Sequence[Path], listener: socket.socket) -> None:
    """Until a signal ends it: uvicorn answers what is under way, and raises the signal again."""
    try:
        # Whoever asks is waiting in the listener's queue: a browser starts meanwhile.
        import uvicorn

        from visual_r1.pages.app import pages
        from visual_r1.request_heads import BoundedHeads

        config = uvicorn.Config(
            pages(output_dir, token, named),
            log_level="warning",
            access_log=False,  # addresses hold the token
            server_header=False,
            lifespan="off",
            http=BoundedHeads,
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return
    finally:
        listener.close()


def _open(opened: str) -> None:
    try:
        webbrowser.open(opened)
    except (webbrowser.Error, OSError):
        return  # it stands in the terminal
