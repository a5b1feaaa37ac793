"""The samples of a group or of a problem, whole, and where the next group is."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from visual_r1.pages.queries import Session, names_of, parquet, quoted
from visual_r1.pages.sound import COLUMNS, COMPONENT, Files

MOST = 2000
"""Samples of a problem that are read; of more, those of the last steps."""

_TYPES = {"text": "VARCHAR", "whole numbers": "INTEGER", "numbers": "DOUBLE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One rollout as it is stored; what an older version did not write is None."""

    step: int
    problem_id: str
    group: int
    sample: int
    response: str
    reward: float | None
    advantage: float | None
    response_tokens: int | None
    stop_reason: str | None
    verdict: str | None
    reason: str | None
    grader_version: str | None
    outcome: str | None
    second_verdict: str | None
    scan_read: str | None
    second_response: str | None
    second_order: str | None
    failure: str | None
    components: Mapping[str, float | None]

    @property
    def is_cut(self) -> bool:
        """Whether it ran out of tokens."""
        return self.stop_reason == "length"


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """Which group of a run: its step, and its number in it."""

    step: int
    group: int


_SAMPLES, _PLACES = TypeAdapter(Sample), TypeAdapter(GroupPlace)


def group_samples(session: Session, files: Files, place: GroupPlace) -> list[Sample]:
    """The samples of a group in their order; empty where there is no such group."""
    files = files.between(place.step, place.step)
    if not files.paths:
        return []
    return session.rows(
        _SAMPLES,
        f'{_whole(files)} WHERE step = $step AND "group" = $group ORDER BY sample',
        {"files": names_of(files.paths), "step": place.step, "group": place.group},
    )


def problem_samples(session: Session, files: Files, problem: str) -> list[Sample]:
    """The samples of a problem in all steps, in their order."""
    found = session.rows(
        _SAMPLES,
        f'{_whole(files)} WHERE problem_id = $problem ORDER BY -step, "group", sample LIMIT {MOST}',
        {"files": names_of(files.paths), "problem": problem},
    )
    return sorted(found, key=lambda one: (one.step, one.group, one.sample))


def neighbours(
    session: Session, files: Files, place: GroupPlace
) -> tuple[GroupPlace | None, GroupPlace | None]:
    """The group before a group, and the one after it."""
    near = _near(files, place.step)
    rows = session.rows(
        _PLACES,
        f'SELECT DISTINCT step, "group" FROM {parquet("files")} ORDER BY step, "group"',
        {"files": names_of(near.paths)},
    )
    at = rows.index(place)
    return (rows[at - 1] if at else None), (rows[at + 1] if at + 1 < len(rows) else None)


def _near(files: Files, step: int) -> Files:
    """The files with a step, and the nearest ones before and after them."""
    order = sorted(range(len(files.paths)), key=lambda at: (files.steps[at].start, at))
    within = [place for place, at in enumerate(order) if step in files.steps[at]]
    return files.only(order[max(0, within[0] - 1) : within[-1] + 2])


def _whole(files: Files) -> str:
    """A selection of all columns, those of the components as one."""
    columns = [
        quoted(name) if name in files.columns else f"NULL::{_TYPES[kind]} AS {quoted(name)}"
        for name, kind in COLUMNS.items()
    ]
    parts = ", ".join(f"{quoted(name)}: {quoted(COMPONENT + name)}" for name in files.components)
    components = f"{{{parts}}}" if parts else "MAP {}"
    return f"SELECT {', '.join(columns)}, {components} AS components FROM {parquet('files')}"
