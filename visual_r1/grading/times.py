"""Times of day: `6:00`, `3:30 PM`, `5 o'clock`, `noon`.

`2:30` may be a time or a ratio. It is surely a time where a word or a leading zero says so
(`6:00`, `3:05`); else the ratio carries its time along, and two of them that are one ratio and two
times cannot be told apart.
"""

from collections.abc import Sequence

from visual_r1.grading.forms import Clock
from visual_r1.grading.spelling import Token

_HALVES = {"am": "am", "pm": "pm", "noon": "pm", "midnight": "am"}
_MARKS = frozenset(("oclock",))


def read_time(tokens: Sequence[Token]) -> tuple[Clock, bool] | None:
    """The time that all of `tokens` say, and whether they can be nothing else; None without one."""
    words = [token.text.lower() for token in tokens if token.kind == "word"]
    if len(tokens) == 1 and words and words[0] in ("noon", "midnight"):
        return Clock(12 * 3600 if words[0] == "noon" else 0, _HALVES[words[0]]), True
    rest = list(tokens)
    half, marked = "", False
    while rest and rest[-1].kind == "word" and (word := rest[-1].text.lower()):
        if word in _HALVES and not half:
            half = _HALVES[word]
        elif word not in _MARKS:
            return None
        marked = True
        rest = rest[:-1]
    parts = [token.text for token in rest[::2]]
    between = {token.text for token in rest[1::2]}
    if not 1 <= len(parts) <= 3 or len(rest) % 2 == 0 or between - {":"}:
        return None
    # 5:12 is written without blanks, an hour with one digit or two, all else with two.
    if any(token.spaced for token in rest[1:]) or not all(part.isdigit() for part in parts):
        return None
    if len(parts) == 1 and not marked:
        return None
    if len(parts[0]) > 2 or any(len(part) != 2 or int(part) > 59 for part in parts[1:]):
        return None
    hour, minute, second = (int(part) for part in (*parts, "0", "0")[:3])
    if hour > 24 or (half and not 1 <= hour <= 12 and hour != 0):
        return None
    marked = marked or any(part[0] == "0" for part in parts[1:]) or parts[0].startswith("0")
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    elif hour > 12 or (hour == 0 and marked):
        half = "pm" if hour > 12 else "am"
    return Clock(hour % 24 * 3600 + minute * 60 + second, half), marked


def same_time(one: Clock, other: Clock) -> bool:
    """Whether two times are the same; where one does not say which half of the day, either will."""
    if one.half and other.half:
        return one.seconds == other.seconds
    return (one.seconds - other.seconds) % (12 * 3600) == 0
