"""The examination: what costs nothing first, and as far as each answer allows."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from visual_r1.backend.backend import open_backend
from visual_r1.backend.endpoint import choose_kind, probe, remote_endpoint, unused_key_note
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, find_prepared
from visual_r1.doctor import checks
from visual_r1.doctor.checks import Diagnosis
from visual_r1.doctor.estimates import Workload, room_for, workload
from visual_r1.doctor.evidence import Evidence, earlier_evidence, measured_step
from visual_r1.doctor.preflight import require_sound
from visual_r1.doctor.prompts import FirstRows, PromptSizes, first_rows, measure_prompts
from visual_r1.doctor.proposal import Proposal, propose
from visual_r1.doctor.settings import tool_settings
from visual_r1.errors import VisualR1Error
from visual_r1.prices import prices_of
from visual_r1.report.page import PAGE_NAME
from visual_r1.report.summary import has_gone_on, read_summary
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.folder import require_same_config
from visual_r1.runs.goal import require_goal
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.left_out import fits_of
from visual_r1.runs.start import require_start
from visual_r1.wording import duration

T = TypeVar("T")


@dataclass
class Examination:
    """The diagnoses so far, and the prediction where one could be made."""

    diagnoses: list[Diagnosis] = field(default_factory=list[Diagnosis])
    work: Workload | None = None
    proposal: Proposal | None = None

    def add(self, *found: Diagnosis | None) -> None:
        """Keep what was found; None is nothing."""
        self.diagnoses += [one for one in found if one is not None]

    def attempt(self, subject: str, look: Callable[[], T]) -> T | None:
        """The result of `look`; where it fails, its sentence becomes an error of `subject`."""
        try:
            return look()
        except VisualR1Error as error:
            self.add(Diagnosis("error", subject, str(error)))
            return None


def examine(config: RunConfig, *, measure: bool | None, budget: float | None = None) -> Examination:
    """Look at a run before it is started, and with a `budget` in US dollars at what that buys.

    `measure` runs one real step where no earlier run says how the model does; None does so on the
    embedded engine alone, where it costs nothing. All else asks a server only for what is free.
    """
    seen = Examination()
    sound = seen.attempt("configuration", lambda: _sound(config))
    if sound is not None and (ended := seen.attempt("result", lambda: _ended(config))):
        seen.add(sound, *ended)
        return seen
    seen.add(sound, checks.learning_rate(config), checks.disk(config))
    seen.add(checks.schedule(config), checks.gradient_clip(config))
    if not _is_supervised(config):
        seen.add(checks.loss(config), checks.streaming(config), checks.staleness(config))
    seen.add(*tool_settings(config, os.environ))
    if choose_kind(config, os.environ) == "embedded":
        room = seen.attempt("engine's disk", lambda: room_for(config, os.environ))
        seen.add(room and checks.checkpoint_room(config, room))
    first = seen.attempt("dataset", lambda: first_rows(config)) if sound else None
    prompts: PromptSizes | None = None
    if first is not None:
        seen.add(*checks.rows(config, first))
        problems = first.problems
        if problems:
            prompts = seen.attempt("prompts", lambda: measure_prompts(config, problems))
    dataset = seen.attempt("dataset", lambda: find_prepared(config.data, config.output_dir))
    evidence = _at_the_server(seen, config, first, prompts, dataset, measure)
    if evidence is not None and not _is_supervised(config):
        seen.add(checks.contrast(config, evidence))
    thinks = prompts is not None and prompts.thinks
    seen.add(checks.truncation(config, evidence, thinks=thinks))
    if first is not None and prompts is not None:
        seen.work = workload(
            config,
            prompts,
            evidence,
            first.test_rows,
            first.validation_rows,
            0 if dataset else first.rows,
        )
        seen.add(checks.checkpoint_lifetime(config, seen.work))
        seen.add(checks.chunk_length(config, seen.work, evidence))
        seen.add(*checks.budgets(config, seen.work))
        if budget is not None:
            _plan_for(seen, config, budget, first, prompts, evidence)
    return seen


def _plan_for(
    seen: Examination,
    config: RunConfig,
    budget: float,
    first: FirstRows,
    prompts: PromptSizes,
    evidence: Evidence | None,
) -> None:
    kind = choose_kind(config, os.environ)
    if kind == "embedded":
        says = f"${budget:,.2f} buy nothing on the embedded engine, which costs nothing"
        seen.add(Diagnosis("note", "budget", says, "Set --backend.server remote to plan for it."))
        return
    prices = prices_of(config, kind)
    seen.proposal = seen.attempt(
        "budget", lambda: propose(config, budget, prices, prompts, evidence, first)
    )


def _sound(config: RunConfig) -> Diagnosis:
    require_sound(config)
    if config.run_dir.is_dir():
        require_same_config(config.run_dir, config)
        rows = Ledger(config.run_dir).rows()
        if rows:
            goes_on = f"goes on from step {rows[-1].step}"
            finished = f"has all its {rows[-1].step} steps: nothing is left to train"
            return Diagnosis("note", "configuration", goes_on if require_goal(config) else finished)
    return Diagnosis("ok", "configuration", f"preset {config.preset}, run {config.run_name}")


def _ended(config: RunConfig) -> Sequence[Diagnosis]:
    """What a finished run came to: nothing of it is left to be foretold. Empty where it goes on."""
    summary = read_summary(config.run_dir)
    if (
        summary is None
        or summary.steps < config.train.steps
        or has_gone_on(config.run_dir, summary)
        or require_goal(config)
    ):
        return []
    took = f"{summary.steps} steps, {summary.updated_steps} of them with an update"
    cost = cost_of_run(config.run_dir)
    spent = f"; it cost {cost}" if cost else ""
    return [
        Diagnosis("ok", "result", summary.conclusion),
        Diagnosis("ok", "took", f"{took}, in {duration(summary.wall_seconds)}{spent}"),
        Diagnosis("ok", "report", f"{config.run_dir / PAGE_NAME}"),
    ]


def _at_the_server(
    seen: Examination,
    config: RunConfig,
    first: FirstRows | None,
    prompts: PromptSizes | None,
    dataset: Dataset | None,
    measure: bool | None,
) -> Evidence | None:
    """Key, address, model and context; then what is known of how the model does."""
    kind = choose_kind(config, os.environ)
    earlier = earlier_evidence(config)
    if kind == "embedded":
        seen.add(checks.threads(config, os.cpu_count() or 1))
        if note := unused_key_note(config, os.environ):
            seen.add(Diagnosis("note", "server", note))

    def look() -> Evidence | None:
        if kind != "embedded":
            probe(remote_endpoint(config, os.environ))
        with open_backend(config) as backend:
            backend.begin()
            context = backend.context_length()
            seen.add(Diagnosis("ok", "server", f"{kind}, offers {config.model.name}"))
            if (path := config.model.start_from) is not None and not Ledger(config.run_dir).rows():
                seen.attempt("start", lambda: require_start(backend, config, path))
            if prompts is not None:
                seen.add(checks.context(config, prompts, context))
                seen.add(*_rows_that_fit(seen, config, dataset, context))
            wanted = kind == "embedded" if measure is None else measure
            wanted = wanted and not _is_supervised(config)  # which has another step than that one
            if first is None or prompts is None or not wanted or (earlier and measure is None):
                return earlier
            return measured_step(config, backend, first.problems)

    return seen.attempt("server", look) or earlier


def _is_supervised(config: RunConfig) -> bool:
    """Whether the run learns responses that are there: it has no groups, and a loss of its own."""
    return config.sft.responses is not None


def _rows_that_fit(
    seen: Examination, config: RunConfig, dataset: Dataset | None, context: int | None
) -> Sequence[Diagnosis]:
    """Every row at the run's settings, where the dataset is prepared."""
    if dataset is None:
        says = "the dataset is not prepared: every row is looked at when the run starts"
        return [Diagnosis("note", "rows", says)]
    found = seen.attempt("rows", lambda: fits_of(config, dataset, context))
    return [] if found is None else checks.rows_that_fit(config, found)
