"""Numbers as a reader sees them, the same on the terminal and in the report."""

from collections.abc import Sequence


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
