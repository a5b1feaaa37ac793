"""A user's own function, named in a setting as `module:function`.

The module is one that Python finds, or a file in the working directory. What is wrong with the name
or the module is said in one sentence, and so is what the function raises when it is called, with
file and line of the user's code.
"""

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from visual_r1.errors import ConfigError

_INSTALLED = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a setting wants of its function, which takes two arguments; in words for messages."""

    setting: str
    example: str
    takes: str
    returns: str


REWARD = Wanted("reward.custom", "my_reward", "the sample and its grade", "a number")
LOSS = Wanted(
    "train.loss", "my_loss", "the data and their log-probabilities", "the loss and its metrics"
)


@dataclass(frozen=True, slots=True)
class OwnFunction:
    """A user's function, and the file that it stands in (None: no file)."""

    function: Callable[..., Any]
    file: Path | None


def own_function(path: str, wanted: Wanted) -> OwnFunction:
    """The function that `module:function` names.

    Raises `ConfigError` in one sentence where `path` has another form, where the module is not
    there or fails to import, and where it has no such function: then with those that it has.
    """
    named = f"{wanted.setting} = {path!r}"
    module_name, colon, name = path.partition(":")
    parts = module_name.split(".")
    file = Path(module_name)
    if file.suffix == ".py":
        raise ConfigError(
            f"{named} names a file, and a module is wanted: {file.stem}:{name or wanted.example}, "
            f"with {file.name} in the working directory."
        )
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in parts)):
        raise ConfigError(
            f"{named} has another form than module:function, such as my_module:{wanted.example}."
        )
    module = _import(module_name, named)
    function = getattr(module, name, None)
    where = f"{module_name} ({module.__file__})" if module.__file__ else module_name
    if not callable(function):
        own = sorted(
            key
            for key, value in vars(module).items()
            if not key.startswith("_")
            and callable(value)
            and getattr(value, "__module__", None) == module.__name__
        )
        raise ConfigError(
            f"{named}: there is no function {name!r} in {where}; it has {', '.join(own) or 'none'}."
        )
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError(f"{named} must be a plain function that returns {wanted.returns}.")
    try:
        # A built-in has no signature and raises ValueError: its first call will tell.
        with suppress(ValueError):
            inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConfigError(f"{named} must take two arguments, {wanted.takes}: {error}.") from error
    return OwnFunction(function, Path(module.__file__).absolute() if module.__file__ else None)


def _import(name: str, named: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        # Last, so that a file of the user's never stands in for an installed package; it stays
        # for what the module imports later.
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    # Importing runs the user's module, which may raise anything.
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # The module itself or a package above it; another is one that the module imports.
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{named}: there is no module {missing!r}, neither installed nor in the working "
                f"directory {here}."
            ) from error
        raise ConfigError(f"{named}: importing {name} failed with {failure(error)}.") from error


def failure(error: BaseException) -> str:
    """The error in one line, with the line of the user's code that led to it.

    That is the innermost one outside installed packages: what a library raises is seldom its fault.
    """
    named = f"{type(error).__name__}: {shortened(error)}"
    if isinstance(error, SyntaxError):  # it says its own
        return named
    frames = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [(file, line) for file, line in frames if not _is_installed(file)]
    for file, line in (own or frames)[-1:]:
        return f"{named} ({file.name}, line {line})"
    return named


def _is_installed(file: Path) -> bool:
    """Whether it belongs to Python or to a package; `<frozen importlib…>` does."""
    return str(file).startswith("<") or any(file.is_relative_to(root) for root in _INSTALLED)


def shortened(value: object, most: int = 200) -> str:
    """A value of the user's, or the text of an error, as one line that is not too long."""
    try:
        text = " ".join((str(value) if isinstance(value, BaseException) else repr(value)).split())
    except Exception as error:  # noqa: BLE001 - a __str__ or __repr__ is the user's code as well
        return f"something that cannot be shown ({type(error).__name__})"
    return text if len(text) <= most else f"{text[:most]}…"
