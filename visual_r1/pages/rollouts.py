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
from visual_r1.pages.lines import SEARCH, Table, lines_of, place_in
from visual_r1.pages.queries import Session, Vanished, names_of, parquet, pattern_of, quoted
from visual_r1.pages.sound import COMPONENT, Files
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
    """One rollout as a line of a table: `place` is where it is in the files, `key` what it is
    ordered by, `excerpt` a part of its response."""

    place: int
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
    key: float
    excerpt: str = ""

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
    """The rollouts of sound files, asked in one session.

    `table` has their `lines` in memory; where it is None the files are asked. Whatever is asked of
    both is the same but for what it costs.
    """

    def __init__(
        self, session: Session, files: Files, asked: Asked, table: Table | None = None
    ) -> None:
        if asked.component is not None and asked.component not in files.components:
            raise DataError(
                f"There is no component {asked.component!r} of the reward in this run: there are "
                f"{', '.join(files.components) or 'none'}."
            )
        self._session, self._files, self._asked = session, files, asked
        self._conditions = _conditions(asked)
        self._values = _values(asked) | {"files": names_of(files.paths)}
        self._table = table.name if table else f"({lines_of(files)})"
        # A page of some steps is asked of their files; the counts by step are of all steps. In
        # memory, and where a text is looked for, the places are those in all files.
        self._narrowed = files
        if table is None and asked.text is None:
            narrowed = files.between(asked.step_from, asked.step_to)
            self._narrowed = narrowed if narrowed.paths else files.only([0])
        if asked.text is not None:
            pattern = pattern_of(asked.text, regular=asked.how == "regex")
            self._values["pattern"] = pattern
            if table is not None:
                found = table.found(session, pattern, self._values)
            else:
                session.run(f"CREATE TEMP TABLE {(found := 'found')} AS {SEARCH}", self._values)
            self._table = f"(FROM {self._table} SEMI JOIN {found} USING (place))"

    def page(self) -> Page:
        """The page that was asked for."""
        asked = self._asked
        back = asked.before is not None
        mark = asked.before if back else asked.after
        direction, sign = ("DESC", "<") if back else ("ASC", ">")
        parts = (_KEYS[asked.sort], "-step", '"group"', "sample")
        conditions = list(self._conditions.values())
        values = self._values | {"files": names_of(self._narrowed.paths)}
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
        columns = [
            "place", "step", "problem_id", "group", "sample", "reward", "advantage",
            "response_tokens", "stop_reason", "verdict", "outcome", "failure",
        ]  # fmt: skip
        found = self._session.rows(
            _LINES,
            f"SELECT {', '.join(map(quoted, columns))}, {parts[0]} AS key FROM {self._table} "
            f"WHERE {_all_of(conditions)} ORDER BY {order} LIMIT {PAGE + 1}",
            values,
        )
        more = len(found) > PAGE
        lines = self._with_excerpts(found[:PAGE][::-1] if back else found[:PAGE])
        has_after, has_before = (True, more) if back else (more, mark is not None)
        return Page(
            tuple(lines),
            lines[-1].mark if lines and has_after else None,
            lines[0].mark if lines and has_before else None,
        )

    def _with_excerpts(self, lines: Sequence[RolloutLine]) -> list[RolloutLine]:
        """The lines with the ends of their responses, or with what surrounds the text in them."""
        if not lines:
            return []
        places = [place_in(line.place) for line in lines]
        numbers = {at: number for number, at in enumerate(sorted({at for at, _ in places}))}
        excerpt = f"right(response, {_SHOWN})"
        if self._asked.text is not None:
            found = "strpos(response, regexp_extract(response, $pattern, 0, 'i'))"
            excerpt = f"substr(response, greatest(1, {found} - {_SHOWN // 3}), {_SHOWN})"
        rows = self._session.rows(
            _EXCERPTS,
            f'SELECT step, "group", sample, {excerpt} AS excerpt FROM {parquet("files")} '
            "WHERE (file_index, file_row_number) IN (SELECT (unnest($numbers), unnest($rows)))",
            self._values
            | {
                "files": names_of(self._narrowed.only(numbers).paths),
                "numbers": [numbers[at] for at, _ in places],
                "rows": [row for _, row in places],
            },
        )
        texts = {(row.step, row.group, row.sample): row.excerpt for row in rows}
        try:
            return [
                replace(line, excerpt=texts[line.step, line.group, line.sample]) for line in lines
            ]
        except KeyError as error:
            raise Vanished("A file was written anew while it was read: try again.") from error

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
        found = self._session.rows(
            _COUNTED,
            "WITH counted AS (SELECT verdict, outcome, step, stop_reason, "
            f"{_IS_CUT} AS is_cut, count(*) AS n, "
            f"sum(reward) AS rewards, count(reward) AS rewarded{sums} "
            f"FROM {self._table} WHERE {_all_of(common)} "
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


_FACETS = ("verdict", "outcome", "cut", "step")


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
