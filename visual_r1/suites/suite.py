"""A suite: a benchmark by name, shipped or a file of one's own, and an evaluation by it.

    title = "MATH-Vision, testmini"
    problems = 304                     # rows of the split
    form = "mixed"                     # of the answers: "free form", "choices", or both
    answers = "five choices, …"        # what counts, and how choices are shown
    licence = "MIT"
    layout = "https://…"               # where splits and columns are documented
    contamination = "…"                # what a model may have seen of it

    [data]                             # as [data] of a run: source, subset, splits, columns
    source = "MathLLMs/MathVision"     # a hub id, or a folder or file beside this one

    [asked]                            # what an evaluation of it asks here
    template = "run"                   # the run's own, or the name of one that ships
    rounding = "exact"                 # or "rounded"
    samples = 0                        # of each problem for avg@k; 0 is greedy answers alone
    temperature = 1.0                  # of those

    [convention]                       # by which others report
    headline = "greedy"                # or "avg@k": which figure is put beside theirs
    says = "…"
    source = "https://…"

    [[published]]                      # for orientation
    who = "…"
    value = 0.24                       # or [before, after]
    convention = "…"
    source = "https://…"

A policy is asked in its run's own template, whatever words others use: else it would be asked in a
way that it was not trained in. Whoever names a setting beside a suite gets what he named, and the
table says that this is not the convention.
"""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from visual_r1.config import DataSection, RunConfig, read_toml
from visual_r1.data.manifest import MANIFEST_FILE
from visual_r1.data.sources.inter_gps import InterGPSSource
from visual_r1.errors import ConfigError
from visual_r1.prompts.templates import own_template
from visual_r1.storage import first_fault

SUITES_DIR = Path(__file__).parent
RUNS_OWN = "run"

Headline = Literal["greedy", "avg@k"]

ASKED = {
    "evaluation.samples": "samples",
    "evaluation.temperature": "temperature",
    "reward.rounding": "rounding",
    "prompt.template": "template",
}
"""The settings of a run in whose place a suite has its own, by its names of them."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Asked(_Part):
    """What an evaluation asks of each problem."""

    template: str = RUNS_OWN
    rounding: Literal["exact", "rounded"] = "exact"
    samples: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, gt=0)


class Convention(_Part):
    """How others report it."""

    headline: Headline = "greedy"
    says: str
    source: str


class Published(_Part):
    """A figure of somebody else, a share; two are before and after training."""

    who: str
    value: float | tuple[float, float]
    convention: str
    source: str


class Suite(_Part):
    """A benchmark; see this file's head for what the parts mean."""

    name: str
    title: str
    problems: int | None = Field(default=None, ge=1)
    form: Literal["free form", "choices", "mixed"]
    answers: str
    licence: str
    layout: str
    contamination: str
    data: DataSection
    asked: Asked = Asked()
    convention: Convention
    published: tuple[Published, ...] = ()
    _convention: Asked | None = PrivateAttr(default=None)

    def asking(self, config: RunConfig, named: Collection[str]) -> "Suite":
        """This suite, asked as `config` has it in the settings that somebody `named` beside it."""
        samples, temperature = config.evaluation.samples, config.evaluation.temperature
        theirs: dict[str, Any] = {
            "samples": samples,
            "temperature": config.sampling.temperature if temperature is None else temperature,
            "rounding": config.reward.rounding,
            "template": RUNS_OWN,
        }
        of_them = {field: theirs[field] for setting, field in ASKED.items() if setting in named}
        changed = self.model_copy(update={"asked": self.asked.model_copy(update=of_them)})
        changed._convention = self.asked
        return changed

    @property
    def departures(self) -> list[str]:
        """In which points it is not asked by its own convention: `samples 2 and not 8`."""
        own, asked = self._convention or self.asked, self.asked
        return [
            f"{field} {getattr(asked, field)} and not {getattr(own, field)}"
            for field in ASKED.values()
            if getattr(asked, field) != getattr(own, field)
        ]

    def config_for(self, config: RunConfig, source: str | None = None) -> RunConfig:
        """`config` with what this suite asks in place of its own; the run stays the one it is.

        `source` is a folder or file that has the problems in place of the suite's own source.
        """
        asked = self.asked
        changes: dict[str, Any] = {
            "run": config.run.model_copy(update={"name": config.run_name}),
            "data": self._data(config.data, source),
            "reward": config.reward.model_copy(update={"rounding": asked.rounding}),
            "evaluation": config.evaluation.model_copy(
                update={"samples": asked.samples, "temperature": asked.temperature}
            ),
        }
        if asked.template != RUNS_OWN:
            changes["prompt"] = config.prompt.model_copy(update={"template": asked.template})
        return config.model_copy(update=changes)

    def _data(self, of_run: DataSection, source: str | None) -> DataSection:
        """Of a source in another layout than the suite's, the suite's columns mean nothing."""
        kept = {"max_rejected_share": of_run.max_rejected_share}
        if source is None:
            return self.data.model_copy(update=kept)
        path = Path(source).expanduser()
        is_prepared = (path / MANIFEST_FILE).is_file()
        if is_prepared or (path.is_dir() and InterGPSSource.recognises(path)):
            kept |= {"show_choices": self.data.show_choices}
            splits = {"test": "test"} if is_prepared or (path / "test").is_dir() else {}
            return DataSection.model_validate({"source": source, "splits": splits, **kept})
        subset = self.data.subset if not path.exists() else None
        return self.data.model_copy(update=kept | {"source": source, "subset": subset})


def suite_names() -> list[str]:
    """The suites that ship with the package, in alphabetical order."""
    return sorted(path.stem for path in SUITES_DIR.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """A shipped suite by its name, or a user's file by its path.

    Raises `ConfigError` where there is none, with the nearest name, or where its file is wrong.
    """
    if name in suite_names():
        return _read(SUITES_DIR / f"{name}.toml")
    path = Path(name).expanduser()
    if path.suffix == ".toml" and path.is_file():
        return _read(path)
    near = difflib.get_close_matches(name.lower(), suite_names(), n=1)
    asked = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"There is no suite {name!r}: give the path of a TOML file, or one of "
        f"{', '.join(suite_names())}.{asked}"
    )


def load_suites(names: Sequence[str], source: str | None = None) -> list[Suite]:
    """Those suites, each once. Raises `ConfigError` as `load_suite`, where two have one name, and
    where one `source` is given for several."""
    suites = [load_suite(name) for name in dict.fromkeys(names)]
    folders = [suite.name for suite in suites]
    if twice := next((one for one in folders if folders.count(one) > 1), None):
        raise ConfigError(f"Two suites are called {twice!r}: rename one of the files.")
    if source is not None and len(suites) != 1:
        raise ConfigError(
            f"--data.source {source} holds the problems of one suite, and {len(suites)} are named: "
            "give them a command each."
        )
    return suites


def _read(path: Path) -> Suite:
    content = read_toml(path)
    try:
        suite = Suite.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise ConfigError(f"The suite {path} is wrong at {first_fault(error)}.") from error
    template = suite.asked.template
    if template != RUNS_OWN and not _ships(template):
        raise ConfigError(
            f"The suite {path} asks in the template {template!r}: that is {RUNS_OWN!r}, or one "
            "that ships."
        )
    beside = path.parent / suite.data.source
    if beside.exists() and path.parent != SUITES_DIR:
        data = suite.data.model_copy(update={"source": str(beside)})
        suite = suite.model_copy(update={"data": data})
    return suite


def _ships(template: str) -> bool:
    try:
        return own_template(template) is None
    except ConfigError:
        return False
