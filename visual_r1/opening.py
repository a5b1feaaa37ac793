"""Files of the user, opened: what a dataset, a template or a configuration names by a path.

A path may lead, also by a link, to what is no file: a named pipe, on which opening waits until
somebody writes, a device without an end, a socket, a folder. None of these is opened. A file is
read as far as its size says, so those that the system makes up (`/proc`) end as well.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def user_path(text: str | Path) -> Path:
    """The path that somebody wrote: a `~` or `~NAME` at its beginning is that user's home, on the
    machine where this is asked; `./~` is a folder of such a name, and becomes absolute so that
    nobody takes it for the home later.

    A shell has no part in a file, in a form, nor in `--flag=~/folder`. Raises `ValueError` where
    there is no such user.
    """
    path = Path(text)
    if str(text).startswith("~"):
        try:
            return path.expanduser()
        except RuntimeError as error:
            raise ValueError(
                f"there is no home of {path.parts[0]} on this machine: write the path from / on"
            ) from error
    return path.absolute() if str(path).startswith("~") else path


class NotAFile(OSError):
    """What the path leads to is no file; `strerror` says what it is."""


def open_file(path: Path) -> BufferedReader:
    """The file at `path`, to be read; it never waits for somebody to write.

    Raises `NotAFile`, or what `open` raises, always with a `strerror`.
    """
    # Without this flag opening a named pipe waits; to a file it means nothing.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _require(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, most: int | None = None) -> bytes:
    """The contents of the file at `path`.

    Raises `OSError` as `open_file`, and `NotAFile` where it has more than `most` bytes.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise NotAFile(None, f"it has {size} bytes, more than {most}", str(path))
        return file.read(size)


def require_file(path: Path) -> None:
    """For what a library opens by its path. Raises `NotAFile`, or what `stat` raises."""
    _require(path.stat(), path)


def _require(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_one, name in _KINDS if is_one(status.st_mode)), "no file")
        raise NotAFile(None, f"it is {kind}, not a file", str(path))
