"""What a user writes: which settings are tried, how they are thinned out, and what it may cost.

    name = "rates"                 # default: the file's name
    seeds = [0, 1]                 # each setting with each of these as train.seed

    [grid]                         # every combination of these values
    "train.learning_rate" = [3e-4, 1e-3]

    [[combinations]]               # and these as they stand; an empty one is the base itself
    "train.learning_rate" = 1e-3
    "train.group_size" = 16

    [random]                       # and so many draws
    count = 8
    settings = { "train.learning_rate" = { log_uniform = [1e-4, 1e-2] } }

    [halving]                      # after so many steps each, keep the best third by validation
    steps = [20]
    eta = 3

Dotted names may stand in quotes or not: TOML reads what has none as tables in tables.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from visual_r1.config import read_toml
from visual_r1.errors import ConfigError

# What the values of a setting are called by; a table with one of these keys is a distribution.
_RULES = ("uniform", "log_uniform", "choice")
_OF_A_RULE = {*_RULES, "integer"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Distribution(_Part):
    """Where the values of one setting are drawn from: exactly one of the three rules."""

    uniform: tuple[float, float] | None = Field(
        default=None, description="Between two numbers, each as likely as another."
    )
    log_uniform: tuple[float, float] | None = Field(
        default=None, description="Between two positive numbers, each power as likely as another."
    )
    choice: list[Any] | None = Field(default=None, min_length=1, description="One of these.")
    integer: bool = Field(default=False, description="Round what is drawn to a whole number.")

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        given = [name for name in _RULES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a distribution is one of {', '.join(_RULES)}, and "
                f"{' and '.join(given) if given else 'none'} is given"
            )
        for name in ("uniform", "log_uniform"):
            ends = getattr(self, name)
            if ends is not None and not ends[0] < ends[1]:
                raise ValueError(f"{name} goes from a smaller to a larger number, not {ends}")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs positive numbers")
        if self.choice is not None and self.integer:
            raise ValueError("integer is for uniform and log_uniform; choice takes what is given")
        return self


class RandomDraws(_Part):
    """Draws that depend on `seed`, the setting's name and the draw's number alone: with a larger
    `count`, or another setting beside them, those from before stay."""

    count: int = Field(ge=1, description="How many combinations are drawn.")
    seed: int = Field(default=0, description="Of the draws; the runs have seeds of their own.")
    settings: dict[str, Distribution] = Field(
        min_length=1, description="Dotted names of settings, and where their values come from."
    )

    @field_validator("settings", mode="before")
    @classmethod
    def _dotted(cls, settings: object) -> object:
        if not isinstance(settings, Mapping):
            return settings
        given = cast("Mapping[str, Any]", settings)
        return dict(_flat(given, lambda value: bool(value.keys() & _OF_A_RULE)))


class Halving(_Part):
    """Successive halving (Jamieson and Talwalkar 2016; Li et al. 2018): after each rung the best
    1/eta of the settings by validation accuracy, as the mean over their seeds, go on."""

    steps: list[int] = Field(
        min_length=1,
        description="The rungs, in steps; the last one, train.steps, need not be said.",
    )
    eta: float = Field(default=3, gt=1, description="Of eta settings, one goes on.")

    @field_validator("steps")
    @classmethod
    def _rise(cls, steps: list[int]) -> list[int]:
        if any(step < 1 for step in steps) or sorted(set(steps)) != steps:
            raise ValueError("the rungs are positive numbers of steps, each larger than the last")
        return steps


class Sweep(_Part):
    """A sweep, as a TOML file or a deployment's parameter holds it."""

    name: str = Field(description="Names the folder sweeps/NAME; more values may join it later.")
    seeds: list[int] | None = Field(
        default=None,
        min_length=1,
        description="Each setting is trained with each of these as train.seed; default: the one "
        "of the base.",
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict[str, list[Any]],
        description="Dotted names of settings, each with a list of values: all combinations.",
    )
    combinations: list[dict[str, Any]] = Field(
        default_factory=list[dict[str, Any]],
        description="Combinations as they stand, dotted names to values; an empty one is the base.",
    )
    random: RandomDraws | None = Field(default=None, description="Combinations that are drawn.")
    halving: Halving | None = Field(
        default=None, description="Stop the worse settings early, by validation."
    )
    at_once: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Runs at a time; default: 4 on a remote server, 1 on the embedded engine, "
        "which computes one thing at a time.",
    )
    max_members: int = Field(
        default=100, ge=1, description="Refuse a sweep of more runs: a slip in a grid multiplies."
    )
    max_usd: float | None = Field(
        default=None,
        ge=0,
        description="US dollars: a sweep that is foretold to cost more does not start, and no "
        "further run is begun once so much is spent.",
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="A sweep that is foretold to take longer does not start."
    )

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not name.strip(". ") or set(name) & {"/", "\\", "\0"}:
            raise ValueError("a sweep's name is that of its folder under sweeps/, without slashes")
        return name

    @field_validator("grid", mode="before")
    @classmethod
    def _dotted(cls, grid: object) -> object:
        return dict(_flat(cast("Mapping[str, Any]", grid))) if isinstance(grid, Mapping) else grid

    @field_validator("grid")
    @classmethod
    def _has_values(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in grid.items():
            if not values:
                raise ValueError(f"{name} has no value: give one at least, or leave it out")
        return grid

    @field_validator("combinations", mode="before")
    @classmethod
    def _each_dotted(cls, given: object) -> object:
        if not isinstance(given, list):
            return given
        each = cast("list[Any]", given)
        return [
            dict(_flat(cast("Mapping[str, Any]", one))) if isinstance(one, Mapping) else one
            for one in each
        ]

    @model_validator(mode="after")
    def _tries_something(self) -> Self:
        if not (self.grid or self.combinations or self.random or self.seeds):
            raise ValueError("nothing is varied: give a grid, combinations, random draws or seeds")
        return self


def _flat(
    values: Mapping[str, Any],
    ends: Callable[[Mapping[str, Any]], bool] = lambda _: False,
    prefix: str = "",
) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of tables in tables; a table where `ends` holds is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and not ends(inner := cast("Mapping[str, Any]", value)):
            yield from _flat(inner, ends, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_sweep(path: Path) -> Sweep:
    """The sweep in a TOML file, named as the file where it says no name.

    Raises `ConfigError` in a sentence for what is wrong with it.
    """
    return sweep_of({"name": path.stem} | read_toml(path), str(path))


def sweep_of(values: Mapping[str, Any], where: str) -> Sweep:
    """The sweep that `values` describe; raises `ConfigError`, which names `where` they stand."""
    try:
        return Sweep.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(Sweep.model_fields)
            said = f"there is no such key; a sweep has {known}"
        raise ConfigError(
            f"The sweep in {where} cannot be read: {place}{': ' if place else ''}"
            f"{said[:1].lower()}{said[1:]}."
        ) from error
