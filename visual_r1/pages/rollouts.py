"""The rollouts of a run: what is asked for in an address, a page of them, and how many of what.

    /runs/NAME/rollouts?verdict=wrong&step_from=40&text=radius&sort=reward&after=…

A page begins behind the last row of the one before, by the values that rows are ordered by, so the
thousandth page costs what the first does, and none shifts while the run goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from visual_r1.errors import DataError
from visual_r1.pages.queries import Session, names_of, parquet, pattern_of, quoted
from visual_r1.pages.sound import COLUMNS, COMPONENT, Files
from visual_r1.storage import first_fault

PAGE = 50
MOST_CHARACTERS = 200
"""Of a text or an expression that is looked for."""

VERDICTS = ("right", "wrong", "gave_up")
OUTCOMES = ("both", "image_only", "scan_only", "neither")

Sort = Literal[
    "newest", "oldest", "reward", "-reward", "advantage", "-advantage", "tokens", "-tokens"
]
# Each ascends; what has no value stands last.
_KEYS: Mapping[Sort, str] = {
    "newest": "-step::DOUBLE",
    "oldest": "step::DOUBLE",
    "reward": "coalesce(reward, 'infinity'::DOUBLE)",
    "-reward": "coalesce(-reward, 'infinity'::DOUBLE)",
    "advantage": "coalesce(advantage, 'infinity'::DOUBLE)",
    "-advantage": "coalesce(-advantage, 'infinity'::DOUBLE)",
    "tokens": "coalesce(response_tokens, 2147483647)::DOUBLE",
    "-tokens": "coalesce(-response_tokens, 2147483647)::DOUBLE",
}
# Of the text of a response its end is shown, where its answer is, or what surrounds what was found.
_SHOWN = 220


class Asked(BaseModel):
    """What an address asks for; a field of it is a name in its query."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step_from: int | None = Field(default=None, ge=0)
    step_to: int | None = Field(default=None, ge=0)
    problem: str | None = None
    verdict: Literal["right", "wrong", "gave_up"] | None = None
    outcome: Literal["both", "image_only", "scan_only", "neither"] | None = None
    cut: Literal["yes", "no"] | None = None
    reward_from: float | None = None
    reward_to: float | None = None
    component: str | None = None
    component_from: float | None = None
    component_to: float | None = None
    text: str | None = Field(default=None, max_length=MOST_CHARACTERS)
    how: Literal["plain", "regex"] = "plain"
    sort: Sort = "newest"
    after: str | None = None
    before: str | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """What a query asks for; fields that a form left empty are not asked for.

        Raises `DataError` where a value is none of its kind.
        """
        given = {name: value for name, value in query.items() if value}
        if "step" in given:  # one step, as other pages name it
            given |= dict.fromkeys(("step_from", "step_to"), given["step"])
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise DataError(
                f"The address asks for what there is not ({first_fault(error)}): take that field "
                "out of it."
            ) from error

    def query(self, **changes: object) -> dict[str, object]:
        """As the query of an address, without what is at its default; `changes` laid over it.

        Where something else than the page changes, the first page is meant.
        """
        if changes.keys().isdisjoint({"after", "before"}):
            changes |= {"after": None, "before": None}
        values = self.model_dump() | changes
        defaults = type(self)().model_dump()
        return {name: value for name, value in values.items() if value != defaults.get(name)}

    @property
    def is_narrowed(self) -> bool:
        """Whether it asks for some of the rollouts, and not for all of them."""
        return bool(self.query(sort=None).keys() - {"sort", "how"})


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One rollout as a line of a table; `excerpt` is part of the response, `key` what it is ordered
    by."""

    step: int
    problem_id: str
    group: int
    sample: int
    reward: float | None
    advantage: float | None
    response_tokens: int | None
    stop_reason: str | None
    verdict: str | None
    outcome: str | None
    failure: str | None
    excerpt: str
    key: float

    @property
    def mark(self) -> str:
        """Its place in the order, for an address."""
        return f"{self.key!r},{self.step},{self.group},{self.sample}"


@dataclass(frozen=True, slots=True)
class Page:
    """Rollouts in their order; `after` and `before` are the marks of the pages on both sides, None
    where there is none."""

    lines: tuple[RolloutLine, ...]
    after: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class StepCount:
    """How many of the rollouts of the steps from `first` to `last` were found, and are right."""

    first: int
    last: int
    n: int
    right: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rollouts an address asks for, and how many it would with one field changed.

    The counts of a field are of those that all others ask for. `means` are of the components,
    `steps` in at most `STRIPES` spans.
    """

    n: int
    right: int
    verdict: Mapping[str, int]
    outcome: Mapping[str, int]
    cut: Mapping[str, int]
    steps: tuple[StepCount, ...]
    means: Mapping[str, float]
    reward: float | None


STRIPES = 100


# The sum of none is null.
_Count = Annotated[int, BeforeValidator(lambda value: 0 if value is None else int(value))]


@dataclass(frozen=True, slots=True)
class _Excerpt:
    step: int
    group: int
    sample: int
    excerpt: str


@dataclass(frozen=True, slots=True)
class _Counted:
    verdict: str | None
    outcome: str | None
    is_cut: bool | None
    step: int | None
    kind: int
    n: _Count
    right: _Count
    of_verdict: _Count
    of_outcome: _Count
    of_cut: _Count
    of_step: _Count
    step_right: _Count
    reward: float | None
    means: list[float | None]


_LINES = TypeAdapter(RolloutLine)
_EXCERPTS = TypeAdapter(_Excerpt)
_COUNTED = TypeAdapter(_Counted)
_IS_CUT = "coalesce(stop_reason = 'length', false)"


class Rollouts:
    """The rollouts of sound files, asked in one session."""

    def __init__(self, session: Session, files: Files, asked: Asked) -> None:
        if asked.component is not None and asked.component not in files.components:
            raise DataError(
                f"There is no component {asked.component!r} of the reward in this run: there are "
                f"{', '.join(files.components) or 'none'}."
            )
        narrowed = files.between(asked.step_from, asked.step_to)
        # The counts by step are of all steps.
        self._session, self._files, self._asked = session, files, asked
        self._conditions = _conditions(asked)
        self._values = _values(asked) | {"files": names_of(files.paths)}
        self._values["narrowed"] = names_of(narrowed.paths or files.paths[:1])
        self._table, self._narrowed = parquet("files"), parquet("narrowed")
        if asked.text is not None:
            self._find(asked)

    def _find(self, asked: Asked) -> None:
        """Look for the text once: where it is, is a small table for all that is asked of it."""
        self._values["pattern"] = pattern_of(asked.text or "", regular=asked.how == "regex")
        kept = [name for name in _narrow(self._files) if name in self._files.columns]
        self._session.run(
            f"CREATE TEMP TABLE found AS SELECT {', '.join(map(quoted, kept))} "
            f"FROM {self._table} WHERE regexp_matches(response, $pattern, 'i')",
            self._values,
        )
        self._table = self._narrowed = "found"

    def page(self) -> Page:
        """The page that was asked for."""
        asked = self._asked
        back = asked.before is not None
        mark = asked.before if back else asked.after
        direction, sign = ("DESC", "<") if back else ("ASC", ">")
        parts = (_KEYS[asked.sort], "-step", '"group"', "sample")
        conditions, values = list(self._conditions.values()), dict(self._values)
        if mark is not None:
            values |= _values_of_mark(mark)
            conditions.append(
                f"({', '.join(parts)}) {sign} ($at_key, $at_step, $at_group, $at_sample)"
            )
            if asked.sort in ("newest", "oldest"):
                # Once more, as the statistics of row groups can answer it.
                later = (asked.sort == "oldest") != back
                conditions.append("step >= $edge" if later else "step <= $edge")
                values["edge"] = -int(str(values["at_step"]))
        order = ", ".join(f"{part} {direction}" for part in parts)
        excerpt = "''" if asked.text is not None else f"right(response, {_SHOWN})"
        columns = [
            "step", "problem_id", "group", "sample", "reward", "advantage", "response_tokens",
            "stop_reason", "verdict", "outcome", "failure",
        ]  # fmt: skip
        found = self._session.rows(
            _LINES,
            f"SELECT {', '.join(self._column(name) for name in columns)}, {excerpt} AS excerpt, "
            f"{parts[0]} AS key FROM {self._narrowed} WHERE {_all_of(conditions)} "
            f"ORDER BY {order} LIMIT {PAGE + 1}",
            values,
        )
        more = len(found) > PAGE
        lines = found[:PAGE][::-1] if back else found[:PAGE]
        if asked.text is not None and lines:
            lines = self._with_excerpts(lines)
        has_after, has_before = (True, more) if back else (more, mark is not None)
        return Page(
            tuple(lines),
            lines[-1].mark if lines and has_after else None,
            lines[0].mark if lines and has_before else None,
        )

    def _with_excerpts(self, lines: Sequence[RolloutLine]) -> list[RolloutLine]:
        """The lines with what surrounds the text in their responses."""
        steps = [line.step for line in lines]
        files = self._files.between(min(steps), max(steps))
        place = "strpos(response, regexp_extract(response, $pattern, 0, 'i'))"
        start = f"greatest(1, {place} - {_SHOWN // 3})"
        rows = self._session.rows(
            _EXCERPTS,
            f'SELECT step, "group", sample, substr(response, {start}, {_SHOWN}) AS excerpt '
            f'FROM {parquet("files")} WHERE (step, "group", sample) IN '
            "(SELECT (unnest($steps), unnest($groups), unnest($samples)))",
            {
                "files": names_of(files.paths), "pattern": self._values["pattern"], "steps": steps,
                "groups": [line.group for line in lines],
                "samples": [line.sample for line in lines],
            },
        )  # fmt: skip
        texts = {(row.step, row.group, row.sample): row.excerpt for row in rows}
        return [
            replace(line, excerpt=texts.get((line.step, line.group, line.sample), ""))
            for line in lines
        ]

    def counts(self) -> Counts:
        """How many there are of each kind, in one reading of narrow columns.

        They are counted by verdict, outcome, length and step at once; the fields' own counts are
        made of that, which is small.
        """
        common = [c for name, c in self._conditions.items() if name not in _FACETS]
        facets = {name: self._conditions.get(name, "true") for name in _FACETS}
        is_all = _all_of(facets.values())

        def but(name: str) -> str:
            return _all_of(c for other, c in facets.items() if other != name)

        sums = "".join(
            f", sum({quoted(COMPONENT + name)}) AS sum_{at}, "
            f"count({quoted(COMPONENT + name)}) AS n_{at}"
            for at, name in enumerate(self._files.components)
        )
        means = ", ".join(
            f"sum(sum_{at}) FILTER ({is_all}) / nullif(sum(n_{at}) FILTER ({is_all}), 0)"
            for at in range(len(self._files.components))
        )
        is_cut = _IS_CUT if "stop_reason" in self._files.columns else "false"
        found = self._session.rows(
            _COUNTED,
            "WITH counted AS (SELECT verdict, outcome, step, stop_reason, "
            f"{is_cut} AS is_cut, count(*) AS n, "
            f"sum(reward) AS rewards, count(reward) AS rewarded{sums} "
            f"FROM (SELECT {', '.join(map(self._column, _narrow(self._files)))} "
            f"FROM {self._table} WHERE {_all_of(common)}) "
            "GROUP BY verdict, outcome, step, stop_reason) "
            "SELECT verdict, outcome, is_cut, step, "
            "GROUPING(verdict, outcome, is_cut, step) AS kind, "
            f"sum(n) FILTER ({is_all}) AS n, "
            f"sum(n) FILTER ({is_all} AND verdict = 'right') AS right, "
            f"sum(n) FILTER ({but('verdict')}) AS of_verdict, "
            f"sum(n) FILTER ({but('outcome')}) AS of_outcome, "
            f"sum(n) FILTER ({but('cut')}) AS of_cut, "
            f"sum(n) FILTER ({but('step')}) AS of_step, "
            f"sum(n) FILTER ({but('step')} AND verdict = 'right') AS step_right, "
            f"sum(rewards) FILTER ({is_all}) / nullif(sum(rewarded) FILTER ({is_all}), 0) "
            "AS reward, "
            f"[{means}]::DOUBLE[] AS means FROM counted "
            "GROUP BY GROUPING SETS ((), (verdict), (outcome), (is_cut), (step))",
            self._values,
        )
        [whole] = [one for one in found if one.kind == 0b1111]
        of = {
            name: [one for one in found if one.kind == 0b1111 ^ bit]
            for name, bit in (("verdict", 8), ("outcome", 4), ("cut", 2), ("step", 1))
        }
        means_of = zip(self._files.components, whole.means, strict=True)
        return Counts(
            n=whole.n,
            right=whole.right,
            verdict=_counted((one.verdict, one.of_verdict) for one in of["verdict"]),
            outcome=_counted((one.outcome, one.of_outcome) for one in of["outcome"]),
            cut=_counted(("yes" if one.is_cut else "no", one.of_cut) for one in of["cut"]),
            steps=_spans([(one.step or 0, one.of_step, one.step_right) for one in of["step"]]),
            means={name: mean for name, mean in means_of if mean is not None},
            reward=whole.reward,
        )

    def _column(self, name: str) -> str:
        """A column; null where an older version wrote none."""
        if name in self._files.columns:
            return quoted(name)
        kind = {"text": "VARCHAR", "whole numbers": "INTEGER"}.get(COLUMNS.get(name, ""), "DOUBLE")
        return f"NULL::{kind} AS {quoted(name)}"


_FACETS = ("verdict", "outcome", "cut", "step")


def _narrow(files: Files) -> list[str]:
    """The columns that are looked through for a table: all but the long texts."""
    long = {"response", "scan_read", "second_response", "reason", "grader_version"}
    return [name for name in COLUMNS if name not in long] + [
        COMPONENT + name for name in files.components
    ]


def _conditions(asked: Asked) -> dict[str, str]:
    """Conditions of SQL by the fields that ask for them."""
    component = quoted(f"{COMPONENT}{asked.component}")
    given = {
        "verdict": (asked.verdict, "verdict = $verdict"),
        "outcome": (asked.outcome, "outcome = $outcome"),
        "cut": (asked.cut, f"{_IS_CUT} = ($cut = 'yes')"),
        "step_from": (asked.step_from, "step >= $step_from"),
        "step_to": (asked.step_to, "step <= $step_to"),
        "problem": (asked.problem, "problem_id = $problem"),
        "reward_from": (asked.reward_from, "reward >= $reward_from"),
        "reward_to": (asked.reward_to, "reward <= $reward_to"),
        "component_from": (asked.component_from, f"{component} >= $component_from"),
        "component_to": (asked.component_to, f"{component} <= $component_to"),
    }
    found = {name: sql for name, (value, sql) in given.items() if value is not None}
    if asked.component is None:
        found = {name: sql for name, sql in found.items() if not name.startswith("component")}
    steps = [found.pop(name) for name in ("step_from", "step_to") if name in found]
    return found | ({"step": " AND ".join(steps)} if steps else {})


def _values(asked: Asked) -> dict[str, object]:
    return asked.model_dump(exclude={"sort", "how", "after", "before", "component", "text"})


def _values_of_mark(mark: str) -> dict[str, object]:
    try:
        key, step, group, sample = mark.split(",")
        place = float(key), -int(step), int(group), int(sample)
    except ValueError as error:
        raise DataError(
            f"The address has the page {mark!r}, which is none: take after and before out of it."
        ) from error
    return dict(zip(("at_key", "at_step", "at_group", "at_sample"), place, strict=True))


def _all_of(conditions: Any) -> str:
    return " AND ".join(f"({one})" for one in conditions) or "true"


def _counted(pairs: Any) -> dict[str, int]:
    return {name: n for name, n in pairs if name is not None and n}


def _spans(steps: Sequence[tuple[int, int, int]]) -> tuple[StepCount, ...]:
    """Steps with their counts, in spans of equal length."""
    if not steps:
        return ()
    first, last = min(steps)[0], max(steps)[0]
    length = -(-(last - first + 1) // STRIPES)
    spans: dict[int, list[int]] = {}
    for step, n, right in steps:
        span = spans.setdefault((step - first) // length, [0, 0])
        span[0] += n
        span[1] += right
    return tuple(
        StepCount(first + length * at, min(last, first + length * (at + 1) - 1), n, right)
        for at, (n, right) in sorted(spans.items())
    )
