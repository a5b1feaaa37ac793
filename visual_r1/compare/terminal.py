"""The comparison in a terminal: tables, the conclusions, and which problems changed."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from rich import box
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from visual_r1.compare.comparison import Against, Compared, SeedsAgainst, SeedsCompared
from visual_r1.evaluation.statistics import Interval
from visual_r1.printing import Terminal
from visual_r1.wording import (
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
    printable,
)

Link = Callable[[str, str], str | None]
"""The address of a problem in a comparison, by the comparison's label and the problem's id."""


def show(found: Compared, console: Terminal, link: Link, most: int) -> None:
    """Print it all; of problems that changed `most` ids each, with their links."""
    several = len(found.against) > 1
    for note in found.notes:
        console.sentence(note, "note")
    for one in found.against:
        for line in one.differing:
            console.sentence(f"{line}.", "not the same", "yellow")
        for reason, count in one.left_out.items():
            problems = "problem" if count == 1 else "problems"
            console.sentence(f"{count} {problems} {reason}: in no pair.", "left out", "yellow")
    if several:
        console.print(_several(found))
    else:
        console.print(_measures(found, found.against[0]))
    for one in found.against:
        console.print(_conclusion(one))
    for one in found.against:
        if one.groups:
            console.print(_groups(found, one))
        for name, ids in (("gained", one.gained), ("lost", one.lost)):
            if ids and (most or not several):
                of = f" by {one.label}" if several else ""
                console.print(_ids(f"{name}{of}: ", one.label, ids, link, most))


def show_seeds(found: SeedsCompared, console: Terminal) -> None:
    """Print the table over seeds with its conclusions."""
    for note in found.notes:
        console.sentence(note, "note")
    for line in found.differing:
        console.sentence(f"{line}.", "not the same", "yellow")
    table = _table(f"against {found.reference}")
    for heading in ("", "seeds", "accuracy", "difference", "p (Holm)"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    mean = sum(found.accuracies) / len(found.accuracies)
    table.add_row(
        found.reference, f"{len(found.accuracies)}", _over(percent(mean), _each(found.accuracies))
    )
    for one in found.against:
        table.add_row(
            one.label,
            f"{len(one.accuracies)}",
            _over(percent(one.accuracy), _each(one.accuracies)),
            _difference(one.gain.value, one.gain.ci95),
            p_value_in_words(one.p_holm).removeprefix("p = "),
        )
    console.print(table)
    for one in found.against:
        console.print(_conclusion(one))


def _conclusion(one: Against | SeedsAgainst) -> Text:
    return Text.assemble((printable(one.headline), "bold"), " ", printable(one.evidence))


def _each(accuracies: Sequence[float]) -> str:
    return " ".join(map(percent, accuracies)) if len(accuracies) > 1 else ""


def _measures(found: Compared, one: Against) -> RenderableType:
    it = one.accuracy
    run = f"{found.run}: " if found.run else ""
    table = _table(f"{run}{one.label} against {found.reference}, {it.n} problems")
    table.caption = "in grey: 95% intervals"
    if it.smallest_detectable < 1:
        table.caption += (
            f"; so many problems show a true difference of {100 * it.smallest_detectable:.1f} "
            "points in four of five comparisons"
        )
    for heading in ("", found.reference, one.label, "difference", "p"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    table.add_row(
        "accuracy",
        _over(percent(it.baseline), percent_range(it.baseline_ci95)),
        _over(percent(it.final), percent_range(it.final_ci95)),
        _difference(it.delta, it.delta_ci95),
        p_value_in_words(it.p_value).removeprefix("p = "),
    )
    for measure in one.measures:
        table.add_row(
            measure.name.replace("_", " "),
            percent(measure.reference),
            percent(measure.value),
            _difference(measure.gain.value, measure.gain.ci95),
            p_value_in_words(measure.gain.p_value).removeprefix("p = "),
        )
    return table


def _several(found: Compared) -> RenderableType:
    table = _table(f"{found.run}: against {found.reference}".removeprefix(": "))
    table.caption = "in grey: 95% intervals; p: exact McNemar, adjusted by Holm"
    for heading in ("", "problems", "accuracy", "difference", "gained", "lost", "p (Holm)"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for one in found.against:
        it = one.accuracy
        table.add_row(
            one.label,
            f"{it.n}",
            Text.assemble(percent(it.final), "\n", (f"from {percent(it.baseline)}", "dim")),
            _difference(it.delta, it.delta_ci95),
            f"{it.gained}",
            f"{it.lost}",
            p_value_in_words(one.p_holm).removeprefix("p = "),
        )
    return table


def _groups(found: Compared, one: Against) -> RenderableType:
    whose = f" ({found.by_whom})" if found.by_whom else ""
    table = _table(f"{one.label} by {found.by}{whose}")
    table.caption = "p: exact McNemar, adjusted by Holm for the groups"
    for heading in (found.by, "problems", found.reference, one.label, "difference", "p (Holm)"):
        table.add_column(
            heading, justify="left" if heading == found.by else "right", overflow="fold"
        )
    for group in one.groups:
        it = group.accuracy
        table.add_row(
            group.name,
            f"{it.n}",
            percent(it.baseline),
            percent(it.final),
            _difference(it.delta, it.delta_ci95),
            p_value_in_words(group.p_holm).removeprefix("p = "),
        )
    return table


def _ids(start: str, label: str, ids: Iterable[str], link: Link, most: int) -> Text:
    given = list(ids)
    text = Text(printable(start), "bold")
    for place, id in enumerate(islice(given, most)):
        where = link(label, id)
        text.append(", " if place else "", "not bold")
        text.append(printable(id), Style(bold=False, link=where))
    if len(given) > most:
        text.append(f"{' and ' if most else ''}{len(given) - most} more", "not bold dim")
    return text


def _table(title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.title = title
    return table


def _over(value: str, rest: str) -> Text:
    return Text.assemble(value, "\n", (rest, "dim")) if rest else Text(value)


def _difference(value: float, ci95: Interval) -> Text:
    return _over(points(value), points_range(ci95))
