"""Text and numbers as a reader sees them, the same on the terminal and in the report."""

import re
from collections.abc import Sequence

import regex
from markupsafe import Markup

LINE = 2000
"""Characters of a line on a terminal, in a log or in an error; what is longer is cut in between."""

PAGE_LINE = 20_000
"""The same of a page, where lines are wrapped."""

# What does not show, or changes how the rest shows, by Unicode's own properties: controls (ESC and
# the C1 set among them), format characters (bidi overrides, zero-width ones, tags), surrogates that
# stand alone, private use, unassigned, separators of lines and paragraphs, what a renderer is told
# to leave out, and marks piled upon one letter until they cover the lines around it.
_PILED = 6
UNPRINTABLE = regex.compile(
    r"[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]" rf"|(?<=\p{{M}}{{{_PILED}}})\p{{M}}"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Between the two words of it a link would be made, or a person called, without any bracket.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&|~#$:@]|(?<=www)\.|^[-+=]|(?<=^\d)[.)]", re.IGNORECASE)


def printable(text: str, *, lines: bool = False, most: int | None = LINE) -> str:
    """`text` from outside as it can be shown anywhere: in one line, nothing hidden, none too long.

    What does not show or would command the terminal becomes a visible escape, as Python writes it
    in a string: `\\x1b`, `\\u202e`. Line breaks and tabs are among it, unless `lines` says that
    several lines are meant. A line of more than `most` characters is cut in its middle. Text that
    is printable comes back as it was, so that it may pass here twice.
    """
    if lines:
        return "\n".join(_line(line, most, keep="\t") for line in text.split("\n"))
    return _line(text, most, keep="")


def for_page(value: object) -> object:
    """A value on its way into a page of HTML: text printable, and still to be escaped or not."""
    if not isinstance(value, str):
        return value
    shown = printable(value, lines=True, most=PAGE_LINE)
    return Markup(shown) if isinstance(value, Markup) else shown


def as_markdown(text: str) -> str:
    """`text` from outside within a line of Markdown: it shows as it is and means nothing there."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def _line(line: str, most: int | None, keep: str) -> str:
    if most is None or len(line) <= most:
        shown = _escaped(line, keep)
        if most is None or len(shown) <= most:
            return shown
    cut = f" [… {len(line):,} characters in all …] "
    tail = (most - len(cut)) // 3
    head = most - len(cut) - tail
    return _escaped(line[:head], keep)[:head] + cut + _escaped(line[-tail:], keep)[-tail:]


def _escaped(line: str, keep: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] == keep else _escape(found[0]), line)


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def percent(share: float) -> str:
    """0.613 -> `61.3%`."""
    return f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """0.176 -> `+17.6`, in percentage points; never `-0.0`."""
    rounded = round(100 * difference, 1) + 0.0
    return f"{rounded:+.1f}"


def percent_range(interval: Sequence[float]) -> str:
    """(0.57, 0.65) -> `57.0 to 65.0%`."""
    low, high = interval
    return f"{100 * low:.1f} to {percent(high)}"


def points_range(interval: Sequence[float]) -> str:
    """(0.13, 0.22) -> `+13.0 to +22.0`."""
    low, high = interval
    return f"{points(low)} to {points(high)}"


def accuracy_moved(before: float, after: float, delta: float) -> str:
    """`Accuracy rose by 3.1 points, from 50.0% to 53.1%`, of two that are not the same."""
    verb = "rose" if delta > 0 else "fell"
    by = f"{abs(100 * delta):.1f}"
    return f"Accuracy {verb} by {by} points, from {percent(before)} to {percent(after)}"


def p_value_in_words(p_value: float) -> str:
    """`p = 0.031`, `p < 0.0001`, `p = 1`."""
    if p_value < 0.0001:
        return "p < 0.0001"
    return f"p = {p_value:.2g}" if p_value < 0.995 else "p = 1"


def duration(seconds: float) -> str:
    """456 -> `7 min 36 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
