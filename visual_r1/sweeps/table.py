"""The comparison as a table: for the terminal, and as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from visual_r1.sweeps.comparison import Comparison, SettingResult
from visual_r1.wording import (
    as_markdown,
    p_value_in_words,
    percent,
    points,
    points_range,
)

HEADINGS = ("setting", "seeds", "validation", "test", "gain", "95% interval", "p (Holm)",
            "to the chosen")  # fmt: skip


def row_of(one: SettingResult, chosen: str | None) -> tuple[str, ...]:
    """The cells of a setting, under `HEADINGS`."""
    whole = sum(member.final is not None for member in one.members)
    seeds = f"{whole} of {len(one.members)}" if whole < len(one.members) else f"{whole}"
    validation = "" if one.validation is None else percent(one.validation)
    if one.stopped_at is not None:
        return (
            one.label,
            f"{len(one.members)}",
            validation,
            f"stopped at {one.stopped_at}",
            *[""] * 4,
        )
    if one.gain is None or one.gain_p_holm is None:
        return one.label, seeds, validation, "not whole", *[""] * 4
    if one.label == chosen:
        against = "chosen"
    elif one.to_chosen is None or one.to_chosen_p_holm is None:
        against = ""
    else:
        against = f"{points(one.to_chosen.value)}, {p_value_in_words(one.to_chosen_p_holm)}"
    test = "" if one.final is None else percent(one.final)
    if one.ended_by_budget:
        test = f"{test} (ended at {one.ended_by_budget} by its budget)".strip()
    return (
        one.label,
        seeds,
        validation,
        test,
        points(one.gain.value),
        points_range(one.gain.ci95),
        p_value_in_words(one.gain_p_holm),
        against,
    )


def ranked(found: Comparison) -> list[SettingResult]:
    """The chosen one, then those that were compared by their gain, then the rest as planned."""
    order = {one.label: place for place, one in enumerate(found.settings)}

    def rank(one: SettingResult) -> tuple[bool, bool, float, int, int]:
        gain = one.gain.value if one.gain else 0.0
        return (
            one.label != found.chosen,
            one.gain is None,
            -gain,
            -(one.stopped_at or 0),
            order[one.label],
        )

    return sorted(found.settings, key=rank)


def troubles(found: Comparison) -> Sequence[str]:
    """A line for each run that is not in the comparison."""
    return [
        f"{setting.label} seed={member.seed} ({member.run}, {member.steps} steps): {member.trouble}"
        for setting in found.settings
        for member in setting.members
        if member.trouble
    ]


def terminal_table(found: Comparison, report: Path) -> RenderableType:
    """The table with its conclusion, and where the report is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.title = f"sweep {found.sweep}: {found.problems} test problems"
    table.caption = "gain over the baseline in points, with its 95% interval"
    for heading in (HEADINGS[0], *HEADINGS[2:5], *HEADINGS[6:]):
        is_text = heading in (HEADINGS[0], HEADINGS[-1])
        fits = heading == HEADINGS[0] and all(len(one.label) <= 22 for one in found.settings)
        table.add_column(
            heading, justify="left" if is_text else "right", overflow="fold", no_wrap=fits
        )
    for one in ranked(found):
        label, seeds, *shares, gain, interval, p_value, against = row_of(one, found.chosen)
        style = "bold" if one.label == found.chosen and found.chosen_by == "validation" else ""
        table.add_row(
            Text.assemble(label, "\n", (f"{seeds} seed{'' if seeds == '1' else 's'}", "dim")),
            *shares,
            Text.assemble(gain, "\n", (interval, "dim")),
            p_value.removeprefix("p = "),
            against.replace(", ", "\n", 1),
            style=style,
        )
    closing = [Text(found.conclusion, "bold"), *map(Text, found.notes)]
    closing += [Text(line, "yellow") for line in troubles(found)]
    return Group(table, *closing, Text(f"Report: {report}"))


def markdown(found: Comparison) -> str:
    """The same as Markdown, with nothing in it that differs from one time to the next."""
    lines = [
        f"# Sweep {as_markdown(found.sweep)}",
        "",
        as_markdown(found.conclusion),
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"| --- {'| ---: ' * (len(HEADINGS) - 1)}|",
    ]
    for one in ranked(found):
        cells = [as_markdown(cell) for cell in row_of(one, found.chosen)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Gains are over the baseline, in points, on {found.problems} test problems; p-values are "
        "Holm's, for the gains and for the differences each as one family.",
    ]
    for note in (*found.notes, *troubles(found)):
        lines += ["", f"- {as_markdown(note)}"]
    return "\n".join(lines) + "\n"
