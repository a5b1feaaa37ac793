"""The section of the page on where a policy fails: a bar a checkpoint, a table, sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.perception import (
    KINDS,
    MEANINGS,
    Change,
    Failures,
    Kind,
    Share,
    compared,
    sentences,
    short,
)
from visual_r1.report.summary import BASELINE, FINAL
from visual_r1.wording import percent

_WIDTH, _NAMES, _BAR, _GAP = 920, 120, 30, 12
_LEAST_LABELLED = 0.05  # of the whole: what fits a number


@dataclass(frozen=True, slots=True)
class FailureSection:
    """What the page shows: the picture of all evaluations, and a table with a line a kind.

    `lines` have a kind's name, its meaning, its `Failures` share in each of `columns`, and its
    change where there is a before and an after. `notes` say what is to be known of it.
    """

    chart: Markup
    columns: tuple[str, ...]
    lines: tuple[tuple[Kind, str, tuple[Share, ...], Change | None], ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]


def failure_section(found: Mapping[str, Failures]) -> FailureSection | None:
    """The section over a run's evaluations; None where nothing is known of any of them."""
    shown = [one for one in _in_order(found) if one.n]
    if not any(one.is_told for one in shown):
        return None
    changes = None
    if BASELINE in found and FINAL in found and found[BASELINE].n and found[FINAL].n:
        changes = compared(found[BASELINE], found[FINAL])
    columns = [found[BASELINE], found[FINAL]] if changes else shown[-1:]
    return FailureSection(
        chart=bars(shown, "where-it-fails"),
        columns=tuple(one.name for one in columns),
        lines=tuple(
            (
                kind,
                MEANINGS[kind],
                tuple(one.kinds[kind] for one in columns),
                changes.kinds[kind] if changes else None,
            )
            for kind in KINDS
            if any(one.kinds[kind].count for one in shown)
        ),
        sentences=tuple(sentences(changes) if changes else ()),
        notes=tuple(_notes(shown)),
    )


def _in_order(found: Mapping[str, Failures]) -> list[Failures]:
    """The baseline first, the final one last, the others by the number in their names."""
    middle = sorted(
        (name for name in found if name not in (BASELINE, FINAL)),
        key=lambda name: (int("".join(filter(str.isdecimal, name)) or 0), name),
    )
    return [found[name] for name in (BASELINE, *middle, FINAL) if name in found]


def bars(found: Sequence[Failures], ident: str) -> Markup:
    """A bar an evaluation, from right on the left to what nobody can tell on the right."""
    height = len(found) * (_BAR + _GAP)
    body: list[Markup] = []
    said: list[str] = []
    piece = Markup(
        '<rect class="failure fails-{}" x="{}" y="{}" width="{}" height="{}">'
        "<title>{}</title></rect>"
    )
    label = Markup('<text class="count on-{}" x="{}" y="{}" text-anchor="middle">{}</text>')
    name = Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>')
    for row, one in enumerate(found):
        top, left = row * (_BAR + _GAP), float(_NAMES)
        body.append(name.format(_NAMES - 10, top + _BAR / 2 + 5, one.name))
        for kind in KINDS:
            share = one.kinds[kind]
            if not share.count:
                continue
            width = round((_WIDTH - _NAMES) * share.value, 2)
            told = f"{one.name}, {MEANINGS[kind]}: {share.count} of {one.n}, {percent(share.value)}"
            body.append(piece.format(kind, round(left, 2), top, width, _BAR, told))
            if share.value >= _LEAST_LABELLED:
                middle = round(left + width / 2, 1)
                body.append(label.format(kind, middle, top + _BAR / 2 + 5, percent(share.value)))
            left += width
            said.append(told)
    return Markup(
        '<svg class="chart bars" viewBox="0 0 {} {}" role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">Where each evaluation fails</title><desc id="{i}-d">{}.</desc>{}</svg>'
    ).format(_WIDTH, height - _GAP, "; ".join(said), Markup("").join(body), i=ident)


def _notes(found: Sequence[Failures]) -> list[str]:
    notes: list[str] = []
    last = found[-1]
    if len(found) > 1:
        notes.append(
            "Differences are paired, problem by problem, with Newcombe's intervals; p is the exact "
            "McNemar test's, by Holm's correction over the kinds."
        )
    if last.bases.get("facts"):
        notes.append(
            "What was read is held against the figure's facts, and what follows from it is worked "
            "out by the rule of the problem's family; each response may be worded as it likes."
        )
    if last.bases.get("passes"):
        notes.append(
            "Where no facts of a figure are known, an answer that is wrong with the image and "
            "right from the policy's own description was read rightly; of one that is wrong both "
            "times nothing can be told."
        )
    if last.renamed:
        notes.append(
            f"In {last.renamed} responses of “{last.name}” all values are right and stand at other "
            "names than in the figure, which changes nothing here."
        )
    for what, reasons in (("cannot be told", last.untold), ("had no answer", last.forms)):
        if reasons:
            parts = ", ".join(f"{count} × {why}" for why, count in reasons.items())
            notes.append(f"What {what} in “{last.name}”: {parts}.")
    notes += dict.fromkeys(one.missing for one in found if one.missing)
    return notes


def swatches(section: FailureSection) -> list[tuple[Kind, str]]:
    """The kinds that the picture shows, each in a word or two."""
    return [(kind, short(kind)) for kind, *_ in section.lines]
