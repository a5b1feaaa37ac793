"""A run that is looked at in a notebook: `visual_r1.open_run("runs/quickstart-0a1b2c3d")`.

Everything is read from the run's folder when it is asked for, so the same object shows a run that
trains as far as it has come. Nothing is written there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from PIL import Image

from visual_r1.alarms import Finding
from visual_r1.data.dataset import find_prepared
from visual_r1.errors import RunError
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.metrics import (
    Report,
    Spending,
    evaluation_folder,
    evaluation_names,
    read_report,
)
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, read_predictions, require_predictions
from visual_r1.evaluation.statistics import Comparison
from visual_r1.notebook.frames import (
    as_dictionaries,
    frame_of_records,
    frame_of_rollouts,
    frame_of_rows,
    frame_of_table,
    pictures_of,
    sound_rows,
)
from visual_r1.notebook.shown import Gallery, table
from visual_r1.report.figures import (
    Figure,
    outcome_chart,
    outcome_shares,
    training_figures,
    validation_figure,
)
from visual_r1.report.summary import Summary, as_of, read_summary
from visual_r1.report.timeline import timeline_figure
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.config_file import read_config
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.named import find_run
from visual_r1.runs.result import step_of_final
from visual_r1.runs.state import RunState, state_of
from visual_r1.runs.validations import ValidationRow, Validations
from visual_r1.tables import pq, said_of
from visual_r1.wording import p_value_in_words, percent, percent_range, points, points_range

if TYPE_CHECKING:
    from pandas import DataFrame  # pyright: ignore[reportMissingTypeStubs]

    from visual_r1.config import RunConfig


class OpenedRun:
    """A run, by its folder; every frame is described in docs/notebook.md.

    Raises `RunError` or `DataError`, one sentence, where what is asked for is damaged or not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.absolute().name

    @property
    def state(self) -> RunState:
        """What it is doing: training, waiting, ended, failed, …"""
        return state_of(self.folder)

    @property
    def config(self) -> "RunConfig":
        """Its configuration, as it was resolved."""
        config = read_config(self.folder)
        if config is None:
            raise RunError(f"{self.folder} has no configuration any more: was it moved?")
        return config

    @property
    def summary(self) -> Summary | None:
        """Before against after at the end of the run, of its `steps`; None before that."""
        return read_summary(self.folder)

    def metrics(self) -> "DataFrame":
        """A row a step, see docs/metrics.md."""
        journal = Journal(self.folder)
        rows = self._sound(journal.metrics_path, journal.read())
        by_step = {row["step"]: row for row in rows}
        return frame_of_rows([by_step[step] for step in sorted(by_step)])

    def rollouts(self, columns: Sequence[str] | None = None) -> "DataFrame":
        """A row a sample of training; all columns, or those named, which takes less memory."""
        chunks = Journal(self.folder).chunks()
        if not chunks:
            raise RunError(f"{self.folder} has no rollouts yet: its first chunk is not done.")
        return frame_of_rollouts(chunks, columns)

    def predictions(self, name: str = "final", *, images: bool = False) -> "DataFrame":
        """A row a problem of an evaluation; with `images` their pictures as lists of Pillow's."""
        folder = self._evaluation(name)
        require_predictions(folder)
        path = folder / PREDICTIONS_NAME
        with said_of(path, f"remove the folder {folder} and evaluate again"):
            stored = pq.read_schema(path).names
            wanted = [column for column in stored if images or column != "images"]
            found = pq.read_table(path, columns=wanted, page_checksum_verification=True)
        frame: Any = frame_of_table(found)
        if images:
            frame["images"] = [pictures_of(one, path) for one in frame["images"]]
        return frame

    def validations(self) -> "DataFrame":
        """A row a validated checkpoint, in the order of their steps."""
        kept = Validations(self.folder)
        rows = self._sound(kept.path, kept.read())
        by_step = {row.step: row for row in rows}
        ordered = [by_step[step] for step in sorted(by_step)]
        return frame_of_records(as_dictionaries(ordered), ValidationRow)

    def evaluations(self) -> "DataFrame":
        """A row an evaluation: what was found, under which conditions, and what it took."""
        names = evaluation_names(self.folder)
        reports = [read_report(evaluation_folder(self.folder, name)) for name in names]
        rows = [report.to_json() for report in reports]
        frame: Any = frame_of_records(rows, Report, Conditions, Spending)
        frame.insert(0, "evaluation", names)
        return frame.astype({"evaluation": "str"})

    def families(self, name: str = "final") -> "DataFrame":
        """A row a family of problems of an evaluation."""
        found = read_report(self._evaluation(name)).by_family
        kind = next((type(one) for one in found.values()), None)
        rows = as_dictionaries(found.values())
        frame: Any = frame_of_records(rows, *([kind] if kind else []))
        frame.insert(0, "family", list(found))
        return frame.astype({"family": "category"})

    def ledger(self) -> "DataFrame":
        """A row a checkpoint."""
        kept = Ledger(self.folder)
        return frame_of_records(as_dictionaries(self._sound(kept.path, kept.read())), LedgerRow)

    def alarms(self) -> "DataFrame":
        """A row a finding of an alarm."""
        kept = AlarmLog(self.folder)
        return frame_of_records(as_dictionaries(self._sound(kept.path, kept.read())), Finding)

    @property
    def figures(self) -> Gallery:
        """The figures of the report by name, as far as there are any; each shows itself."""
        metrics = Journal(self.folder).rows()
        names = evaluation_names(self.folder)
        reports = {name: read_report(evaluation_folder(self.folder, name)) for name in names}
        found = training_figures(metrics, reports, step_of_final(self.folder))
        if validation := validation_figure(Validations(self.folder).rows()):
            found.append(Figure("validation", "Accuracy on validation problems", validation.chart))
        if shares := outcome_shares(metrics):
            found.append(
                Figure("outcomes", "Seeing against thinking", outcome_chart(shares, "outcomes"))
            )
        if timeline := timeline_figure(metrics):
            found.append(timeline)
        return Gallery(found)

    def pictures(self, problem_id: str) -> list[Image.Image]:
        """The pictures of a problem, of an evaluation or of training, as Pillow's.

        Raises `RunError` where no problem of the run has that id, or its dataset is gone.
        """
        for name in evaluation_names(self.folder):
            folder = evaluation_folder(self.folder, name)
            for row in read_predictions(folder, ["id", "images"]):
                if row["id"] == problem_id:
                    return pictures_of(row["images"], folder / PREDICTIONS_NAME)
        dataset = find_prepared(self.config.data, self.folder.absolute().parents[1])
        if dataset is None:
            raise RunError(
                f"No evaluation of {self.folder} has a problem {problem_id!r}, and the dataset "
                "that it was trained on is not there: prepare it again."
            )
        problems = dataset.problems("train")
        ids = problems.ids()
        if problem_id not in ids:
            raise RunError(
                f"{self.folder} has no problem {problem_id!r}: not in its evaluations, and not in "
                f"the training split of {dataset.folder}."
            )
        stored = [{"bytes": one} for one in problems[ids.index(problem_id)].images]
        return pictures_of(stored, dataset.folder)

    def _evaluation(self, name: str) -> Path:
        names = evaluation_names(self.folder)
        if name not in names:
            there = ", ".join(names) or "none yet"
            raise RunError(f"{self.folder} has no evaluation {name!r}: there are {there}.")
        return evaluation_folder(self.folder, name)

    def _sound(self, path: Path, reading: Any) -> list[Any]:
        return sound_rows(path, reading, is_at_work=self.state.is_at_work)

    def __repr__(self) -> str:
        state = self.state
        return f"<run {self.name}: {state.name}, step {state.step} of {state.steps}>"

    def _repr_html_(self) -> str:
        state, summary, cost = self.state, self.summary, cost_of_run(self.folder)
        paid = f", {cost}" if cost else ""
        parts = [
            Markup("<h3>{}</h3><p>{}, step {} of {}{}. {}</p>").format(
                self.name, state.name, state.step, state.steps, paid, state.sentence
            )
        ]
        if summary is not None:
            parts.append(
                Markup("<p><b>{}</b></p>").format(as_of(self.folder, summary) + summary.conclusion)
            )
            parts.append(table(["", "before", "after", "difference in points"], _lines(summary)))
        elif names := evaluation_names(self.folder):
            reports = [(one, read_report(evaluation_folder(self.folder, one))) for one in names]
            rows = [[one, percent(found.accuracy), str(found.n)] for one, found in reports]
            parts.append(table(["evaluation", "accuracy", "problems"], rows))
        figures = self.figures
        shown = [figures[one].as_html() for one in ("accuracy", "reward") if one in figures]
        return str(Markup("").join(parts)) + "".join(shown)


def _lines(summary: Summary) -> list[list[str]]:
    measures: Sequence[tuple[str, Comparison | None]] = (
        ("accuracy", summary.accuracy),
        (f"pass@{summary.k}", summary.pass_at_k),
        ("image blanked", summary.blind),
        ("from the description", summary.scan_only),
    )
    return [
        [
            name,
            f"{percent(found.baseline)} ({percent_range(found.baseline_ci95)})",
            f"{percent(found.final)} ({percent_range(found.final_ci95)})",
            f"{points(found.delta)} ({points_range(found.delta_ci95)}), "
            f"{p_value_in_words(found.p_value)}",
        ]
        for name, found in measures
        if found is not None
    ]


def open_folder(folder: str | Path) -> OpenedRun:
    """The run in `folder`, or the one of that name under runs/ of the working directory.

    Raises `RunError` where there is none.
    """
    return OpenedRun(find_run(str(folder)))
