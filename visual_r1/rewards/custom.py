"""A user's own component of the reward, by import path: `reward.custom = "my_module:my_reward"`.

    def my_reward(sample: RewardInput, grade: Grade) -> float

The module is one that Python finds, or a file in the working directory. The function must be pure:
the same sample gives the same number in every process, or a resumed run is another run.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from visual_r1.errors import ConfigError, RewardError
from visual_r1.grading import Grade
from visual_r1.rewards.sample import RewardInput


@dataclass(frozen=True, slots=True)
class CustomReward:
    """A user's function: the path it is named by, and the file it stands in (None: no file)."""

    path: str
    function: Callable[..., Any]
    file: Path | None

    def __call__(self, sample: RewardInput, grade: Grade) -> float:
        """The function's value for one sample.

        Raises `RewardError`, naming the function, where it raises anything or returns anything but
        a finite number.
        """
        try:
            value = self.function(sample, grade)
        # What a user's code raises is not ours to list, `sys.exit()` included; it is named, counted
        # and costs its sample. Ctrl-C goes through.
        except (Exception, SystemExit) as error:
            raise RewardError(f"{self.path} failed with {_named(error)}") from error
        if not isinstance(value, Real):
            raise RewardError(
                f"{self.path} returned {_shortened(value)} ({type(value).__name__}), which is no "
                "number"
            )
        try:
            number = float(value)
        except OverflowError as error:
            raise RewardError(f"{self.path} returned a number beyond all floats") from error
        if not math.isfinite(number):
            raise RewardError(f"{self.path} returned {number}, which is not finite")
        return number


@lru_cache
def load_custom(path: str) -> CustomReward:
    """The function that `module:function` names.

    Raises `ConfigError` in one sentence where `path` has another form, where the module is not
    there or fails to import, and where it has no such function: then with those that it has.
    """
    module_name, colon, name = path.partition(":")
    parts = module_name.split(".")
    file = Path(module_name)
    if file.suffix == ".py":
        raise ConfigError(
            f"reward.custom = {path!r} names a file, and a module is wanted: "
            f"{file.stem}:{name or 'my_reward'}, with {file.name} in the working directory."
        )
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in parts)):
        raise ConfigError(
            f"reward.custom = {path!r} has another form than module:function, such as "
            "my_module:my_reward."
        )
    module = _import(module_name, path)
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
            f"reward.custom = {path!r}: there is no function {name!r} in {where}; it has "
            f"{', '.join(own) or 'none'}."
        )
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError(
            f"reward.custom = {path!r} must be a plain function that returns a number."
        )
    try:
        # A built-in has no signature and raises ValueError: its first call will tell.
        with suppress(ValueError):
            inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"reward.custom = {path!r} must take two arguments, the sample and its grade: {error}."
        ) from error
    file = Path(module.__file__).absolute() if module.__file__ else None
    return CustomReward(path, function, file)


def _import(name: str, path: str) -> ModuleType:
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
                f"reward.custom = {path!r}: there is no module {missing!r}, neither installed "
                f"nor in the working directory {here}."
            ) from error
        raise ConfigError(
            f"reward.custom = {path!r}: importing {name} failed with {_named(error)}."
        ) from error


def _named(error: BaseException) -> str:
    """The error in one line, with the line of the user's code that raised it."""
    trace = None if isinstance(error, SyntaxError) else error.__traceback__  # it says its own
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        place = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"
    return f"{type(error).__name__}: {_shortened(error)}{place}"


def _shortened(value: object, most: int = 200) -> str:
    try:
        text = " ".join((str(value) if isinstance(value, BaseException) else repr(value)).split())
    except Exception as error:  # noqa: BLE001 - a __str__ or __repr__ is the user's code as well
        return f"something that cannot be shown ({type(error).__name__})"
    return text if len(text) <= most else f"{text[:most]}…"
