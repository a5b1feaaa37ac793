"""What a run shows of itself while it trains: how far it is, and its last steps.

Prefect keeps a version of each artifact for every flow run that made one; within a flow run it is
one that changes. Neither is ever told more often than every `TELL_EVERY_S`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from tasks.records.names import artifact_key
from tasks.records.sending import Sender
from visual_r1.config import RunConfig
from visual_r1.prices import usd_in_all
from visual_r1.runs.journal import MetricsRow
from visual_r1.wording import as_markdown, duration, percent

TELL_EVERY_S = 15.0
LAST_STEPS = 20
PACE_STEPS = 10
"""Of so many steps the mean says how long the others will take."""

_SHOWN: Mapping[str, tuple[str, int]] = {
    "loss": ("response_loss", 3),
    "reward": ("reward_mean", 3),
    "accuracy": ("accuracy", 3),
    "entropy": ("entropy", 3),
    "tokens": ("response_tokens_mean", 1),
    "gradient": ("grad_norm", 1),
    "seconds": ("seconds_total", 1),
    "US dollars": ("cost_usd", 4),
}


def steps_table(rows: Sequence[MetricsRow]) -> list[dict[str, Any]]:
    """The newest steps, the last one first; what no step has is no column, numbers are rounded."""
    last = list(reversed(rows[-LAST_STEPS:]))
    there = {
        title: shown
        for title, shown in _SHOWN.items()
        if any(row.get(shown[0]) is not None for row in last)
    }
    return [
        {
            "step": row["step"],
            **{title: _rounded(row.get(key), digits) for title, (key, digits) in there.items()},
            "KL": _short(row.get("kl_sampler_learner")),
            "with contrast": _with_contrast(row),
        }
        for row in last
    ]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # never -0.0


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _with_contrast(row: MetricsRow) -> str:
    groups, without = row.get("groups"), row.get("groups_without_contrast")
    return f"{groups - without} of {groups}" if groups is not None and without is not None else ""


def seconds_left(rows: Sequence[MetricsRow], steps: int) -> float | None:
    """How long the steps that are left will take, by the pace of the last ones."""
    took = [row["seconds_total"] for row in rows[-PACE_STEPS:] if row.get("seconds_total")]
    left = steps - rows[-1]["step"] - 1 if rows else 0
    return fmean(took) * left if took and left > 0 else None


def step_line(row: MetricsRow, steps: int, left_s: float | None, spent: float | None) -> str:
    """A step in a line: `step 36, 37 of 60: reward 0.612, accuracy 61.3%, KL 3.2e-05, 4.1 s; …`"""
    parts = [
        *_part("loss", row.get("response_loss"), "{:.3f}".format),
        *_part("held-out loss", row.get("held_out_loss"), "{:.3f}".format),
        *_part("reward", row.get("reward_mean"), "{:.3f}".format),
        *_part("accuracy", row.get("accuracy"), percent),
        *_part("KL", row.get("kl_sampler_learner"), "{:.1e}".format),
        *_part("", row.get("seconds_total"), "{:.1f} s".format),
    ]
    if not row.get("updated"):
        parts.append("no update, for no group had contrast")
    line = f"step {row['step']}, {row['step'] + 1} of {steps}: {', '.join(parts)}"
    if left_s is not None:
        line += f"; about {duration(left_s)} of training left"
    return line if spent is None else f"{line}; ${spent:,.2f} so far"


def _part(name: str, value: float | None, show: Any) -> list[str]:
    return [] if value is None else [f"{name} {show(value)}".strip()]


class Artifact:
    """One artifact of one flow run: made when it is shown first, changed from then on."""

    def __init__(
        self, sender: Sender, config: RunConfig, kind: str, what: str, flow_run: UUID
    ) -> None:
        self._sender, self._kind, self._what = sender, kind, what
        self._key = artifact_key(config, what)
        self._flow_run = flow_run
        self._ident: UUID | None = None
        self._shown: tuple[Any, str] | None = None

    def show(self, data: Any, description: str) -> None:
        """Show `data` where it is new, as soon as there is time."""
        if self._shown == (data, description):
            return
        self._shown = data, description

        def send(client: SyncPrefectClient) -> None:
            if self._ident is not None:
                new = ArtifactUpdate(data=data, description=description)
                # Not by `update_artifact`: it emits an event each time, with all of the data, and
                # a long run would fill the feed and the database with them.
                client.request(
                    "PATCH",
                    "/artifacts/{id}",
                    json=new.model_dump(mode="json", exclude_unset=True),
                    path_params={"id": self._ident},
                )
                return
            first = ArtifactCreate(
                key=self._key,
                type=self._kind,
                data=data,
                description=description,
                flow_run_id=self._flow_run,
            )
            self._ident = client.create_artifact(first).id

        self._sender.put(f"artifact {self._what}", send)


class Board:
    """Progress and last steps of a run that trains."""

    def __init__(
        self, sender: Sender, config: RunConfig, flow_run: UUID, rows: Sequence[MetricsRow]
    ) -> None:
        self._config = config
        self._rows = {row["step"]: row for row in rows}
        self._done = max(self._rows, default=-1) + 1
        self._spent: float | None = None
        self._let_go()
        self._doing = ""
        self._told_at = -TELL_EVERY_S
        self._progress = Artifact(sender, config, "progress", "progress", flow_run)
        self._steps = Artifact(sender, config, "table", "steps", flow_run)

    def doing(self, what: str, done: int | None = None) -> None:
        """What the run is at, and how many steps are done where that is known better."""
        self._doing = what
        if done is not None:
            self._done = done
            self._let_go()
        self._show()

    def step(self, row: MetricsRow) -> str:
        """A step is done; the line that says so."""
        self._rows[row["step"]] = row
        self._done = row["step"] + 1
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._show()
        spent = usd_in_all([self._spent, *(row.get("cost_usd") for row in self._rows.values())])
        return step_line(row, self._config.train.steps, self._left_s(), spent)

    def _let_go(self) -> None:
        """Keep of the steps that are on record what is shown, and what the others cost."""
        for step in sorted(step for step in self._rows if step < self._done)[:-LAST_STEPS]:
            self._spent = usd_in_all([self._spent, self._rows.pop(step).get("cost_usd")])

    def _newest(self) -> list[MetricsRow]:
        """The last rows of the run as it is, in order."""
        return [self._rows[step] for step in sorted(self._rows) if step < self._done][-LAST_STEPS:]

    def _left_s(self) -> float | None:
        return seconds_left(self._newest(), self._config.train.steps)

    def _show(self) -> None:
        self._told_at = time.monotonic()
        rows, steps = self._newest(), self._config.train.steps
        name = as_markdown(self._config.run_name)
        left_s = self._left_s()
        left = f", about {duration(left_s)} of training left" if left_s is not None else ""
        doing = f": {self._doing}" if self._doing else ""
        self._progress.show(
            round(100 * min(self._done / steps, 1.0), 1),
            f"**{self._done} of {steps} steps** of {name}{doing}{left}",
        )
        if rows:
            self._steps.show(
                json.dumps(steps_table(rows)),
                f"The last {len(rows)} of {self._done} steps of {name}, the newest first.",
            )
