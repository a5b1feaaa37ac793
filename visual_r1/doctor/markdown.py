"""What the doctor found, as a page of Markdown: for who started it from a browser."""

import os
from collections.abc import Iterable

from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.doctor.checks import SEVERITIES
from visual_r1.doctor.examination import Examination
from visual_r1.doctor.proposal import Proposal
from visual_r1.prices import prices_of
from visual_r1.wording import as_markdown, duration


def report(examination: Examination, config: RunConfig) -> str:
    """The verdict, the diagnoses with the worst first, and what the run will take."""
    worst_first = sorted(
        examination.diagnoses, key=lambda one: SEVERITIES.index(one.severity), reverse=True
    )
    found = [(one.severity, one.subject, f"{one.says} {one.advice}".strip()) for one in worst_first]
    return "\n\n".join(
        [
            f"## {as_markdown(config.run_name)}: {verdict(examination)}",
            _table(("", "what", "found"), found),
            *_prediction(examination, config),
            *_proposal(examination.proposal),
        ]
    )


def verdict(examination: Examination) -> str:
    """`nothing is wrong`, or `1 error, 2 warnings`."""
    counts = [
        (sum(one.severity == severity for one in examination.diagnoses), severity)
        for severity in ("error", "warning")
    ]
    told = [f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count]
    return ", ".join(told) or "nothing is wrong"


def _prediction(examination: Examination, config: RunConfig) -> list[str]:
    work = examination.work
    if work is None:
        return []
    prices = prices_of(config, kind := choose_kind(config, os.environ))
    most = "at most " if work.at_most else ""
    rows = [
        (name, f"{most}{count / 1e6:.2f}", "" if price is None else f"{count * price / 1e6:.2f}")
        for name, count, price in prices.parts(work.tokens)
    ]
    took = "not known: nothing was timed" if work.hours is None else duration(3600 * work.hours)
    cost = prices.cost(work.tokens)
    money = "the embedded engine costs nothing" if kind == "embedded" else "set prices for the cost"
    money = money if cost is None else f"{most}{cost:.2f} US dollars in all"
    return [
        "### What the run will take",
        _table(("", "million tokens", "US dollars"), rows),
        f"Time: {took}; {money}.",
    ]


def _proposal(proposal: Proposal | None) -> list[str]:
    if proposal is None:
        return []
    title = f"### What {proposal.budget:,.2f} US dollars buy"
    return [title, _table(("", ""), proposal.lines())]


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(header), *([as_markdown(cell) for cell in row] for row in rows)]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(cells[0]), *lines[1:]])
