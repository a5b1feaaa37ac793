"""Which values of metrics.jsonl have a curve, and how they are shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visual_r1.report.charts import Point, Show


@dataclass(frozen=True, slots=True)
class Watched:
    """A value by step: a curve from 0 up, to `least` at least, or over its `y_range`."""

    key: str
    title: str
    show: Show = "{:.3g}".format
    least: float | None = None
    y_range: Point | None = None

    def range_of(self, values: Sequence[float]) -> Point | None:
        """The range that its axis covers, of values that it has; None for theirs."""
        if self.y_range is not None or self.least is None or not values:
            return self.y_range
        return min(*values, 0.0), max(*values, self.least)


_SHARE: Show = "{:.0%}".format

FIRST = (
    Watched("accuracy", "Accuracy of the samples", _SHARE, y_range=(0.0, 1.0)),
    Watched("reward_mean", "Mean reward", "{:.2f}".format),
    Watched("response_loss", "Loss of the responses, nats a token", "{:.3f}".format, 0.1),
    Watched("held_out_loss", "Loss of held-out responses, nats a token", "{:.3f}".format, 0.1),
    Watched("entropy", "Entropy, nats a token", "{:.2f}".format, 0.1),
    Watched("response_tokens_mean", "Response length, tokens", "{:.0f}".format, 10.0),
    Watched("kl_sampler_learner", "KL(sampler ‖ learner), nats a token", "{:.1g}".format, 1e-6),
    Watched("grad_norm", "Gradient norm", "{:.3g}".format, 1.0),
)
"""Those that a page opens with, as far as a run has them."""


def watched(key: str) -> Watched:
    """How the value `key` of metrics.jsonl is shown, whatever it is."""
    known = next((one for one in FIRST if one.key == key), None)
    if known is not None:
        return known
    is_share = key.endswith(("_share", "_rate")) or key.startswith("outcome_")
    return Watched(key, key.replace("_", " "), _SHARE if is_share else "{:.3g}".format)


def series(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[Point, ...]:
    """The values of the steps that have one."""
    return tuple(
        (float(row["step"]), float(value))
        for row in rows
        if isinstance(value := row.get(key), int | float) and not isinstance(value, bool)
    )


def others(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The further keys of the rows that hold numbers which change, in their order."""
    first = {one.key for one in FIRST} | {"step"}
    keys = dict.fromkeys(key for row in (*rows[:1], *rows[-1:]) for key in row)
    return [key for key in keys if key not in first and len({y for _, y in series(rows, key)}) > 1]
