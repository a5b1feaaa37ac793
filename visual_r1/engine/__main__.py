"""`python -m visual_r1.engine`: serve Tinker's protocol over a model on this machine."""

import argparse
import contextlib
import logging
import os
import resource
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.filesize import decimal as size_text

from visual_r1.engine.launch import REFUSAL
from visual_r1.engine.process import ServeOptions, Shutdown, bind, serve
from visual_r1.engine.store.budget import MAX_DISK_VARIABLE, parse_size, report
from visual_r1.engine.store.deletion import delete_run
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.lifetimes import now_utc
from visual_r1.engine.store.store import Store
from visual_r1.errors import CredentialError, StorageError, VisualR1Error
from visual_r1.freed_memory import keep_freed_memory
from visual_r1.models import TINY_GEOMETRY
from visual_r1.printing import CommandParser, PrintableFormatter, say

KEY_VARIABLE = "VISUAL_R1_ENGINE_KEY"

MOST_FREE = 256 * 2**20
"""Bytes of memory that it keeps though nothing uses them: a training call wants them again."""


def main(arguments: Sequence[str] | None = None, *, by_hand: bool = False) -> int:
    """Run the engine; the status is 1 when it could not start, after one sentence saying why.

    Started `by_hand` (`visual-r1 engine`) it makes up a key where none is given, and says how to
    point a program at it.
    """
    chosen = _parser(by_hand).parse_args(arguments)
    if chosen.report:
        say(report(HomeFolder(chosen.home), now_utc()))
        return 0
    if chosen.delete_run is not None:
        return _delete_run(chosen.home, chosen.delete_run)
    shutdown = Shutdown()
    shutdown.on_signals()
    if chosen.parent_fd is not None:
        shutdown.with_parent(chosen.parent_fd)
    # Let idle threads sleep; must be set before torch is loaded. By default they spin, and beside
    # any other busy process two threads fall to a thirtieth of their speed (128 samples beside one:
    # 35 s instead of 0.9).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What computes is one thread, which is not the first.
    keep_freed_memory(MOST_FREE, one_heap=True)
    try:
        _log_to(chosen.log)
        _allow_many_connections()
        max_disk = chosen.max_disk or os.environ.get(MAX_DISK_VARIABLE, "")
        options = ServeOptions(
            host=chosen.host,
            port=chosen.port,
            home=chosen.home.absolute(),
            model=chosen.model,
            device=chosen.device,
            threads=chosen.threads,
            api_key=_key(chosen.api_key, by_hand),
            has_parent=chosen.parent_fd is not None,
            max_disk=parse_size(max_disk) if max_disk else None,
            by_hand=by_hand,
        )
        serve(options, bind(options.host, options.port), shutdown)
    except VisualR1Error as error:
        name = "visual-r1 engine: " if by_hand else REFUSAL
        say(f"{name}{error}", sys.stderr)
        return 1
    return 0


def _delete_run(home: Path, name: str) -> int:
    try:
        store = Store(home)
        try:
            used = store.home.used_bytes()
            gone = delete_run(store, name)
            freed = size_text(used - store.home.used_bytes())
        finally:
            store.close()
    except VisualR1Error as error:
        say(f"visual-r1 engine: {error}", sys.stderr)
        return 1
    say(f"{len(gone)} checkpoints of {name} are deleted, which frees {freed}.")
    return 0


def run_by_hand(arguments: Sequence[str] | None = None) -> NoReturn:
    """`visual-r1 engine`."""
    run(arguments, by_hand=True)


def run(arguments: Sequence[str] | None = None, *, by_hand: bool = False) -> NoReturn:
    """Run the engine and end the process at once: no computation is waited for."""
    status = main(arguments, by_hand=by_hand)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parser(by_hand: bool) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="visual-r1 engine" if by_hand else "python -m visual_r1.engine",
        description="Serve Tinker's protocol over a model on this machine, until Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose (default)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (loopback)")
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(".visual-r1/engine"),
        help="folder of the checkpoints (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default=TINY_GEOMETRY,
        help="hub id or folder of a Qwen3-VL or Qwen3.5 (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    otherwise = "a fresh one is made up" if by_hand else "there must be one"
    parser.add_argument(
        "--api-key", help=f"starts with tml-; else ${KEY_VARIABLE}, else {otherwise}"
    )
    parser.add_argument(
        "--max-disk",
        metavar="SIZE",
        help=f"most bytes of the folder, 20GB say; else ${MAX_DISK_VARIABLE}, else no limit",
    )
    parser.add_argument(
        "--report", action="store_true", help="print the disk used by run in --home, and end"
    )
    parser.add_argument(
        "--delete-run", metavar="NAME", help="delete the checkpoints of a run in --home, and end"
    )
    parser.add_argument("--log", type=Path, help="file for errors and warnings (default: stderr)")
    parser.add_argument(
        "--parent-fd", type=int, help="end when this inherited pipe is closed by its other side"
    )
    return parser


def _key(given: str | None, by_hand: bool) -> str:
    key = given or os.environ.pop(KEY_VARIABLE, "")
    if not key and by_hand:
        return f"tml-{secrets.token_urlsafe(24)}"
    if not key:
        raise CredentialError(
            f"the engine needs a key: set {KEY_VARIABLE}, or pass --api-key; it starts with tml-."
        )
    if not key.startswith("tml-"):
        raise CredentialError(
            "the engine's key must start with tml-, as the tinker SDK wants it; choose another."
        )
    return key


def _allow_many_connections() -> None:
    """Each waiting result holds a connection: take more than the usual thousand."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if most == resource.RLIM_INFINITY else min(most, 16384)
    if now != resource.RLIM_INFINITY and now < wanted:
        # Some systems refuse below their stated limit; then the thousand must do.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _log_to(file: Path | None) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(file)
        except OSError as error:
            raise StorageError(f"the log {file} cannot be written: {error.strerror}.") from error
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


if __name__ == "__main__":
    run()
