"""What a run came to in Markdown, for where a page of its own cannot be shown: Prefect's UI.

Made from the run folder's files alone, as report.html is, and shorter: the verdict, the measures,
the curves, a problem of each kind with its picture, what it cost, and where the rest is. Pictures
are data URIs, so that it needs nothing but itself; text of models and datasets means nothing in it.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from visual_r1.backend.endpoint import console_page
from visual_r1.config import RunConfig
from visual_r1.data.card import CARD_FILE, SHEET_FILE
from visual_r1.data.dataset import Dataset
from visual_r1.data.images import BadImage, whole_image
from visual_r1.evaluation.conditions import in_a_line
from visual_r1.evaluation.metrics import Report, evaluation_folder, read_reports
from visual_r1.evaluation.statistics import Comparison
from visual_r1.opening import read_file
from visual_r1.report.charts import chart_uri
from visual_r1.report.figures import training_figures, validation_figure
from visual_r1.report.gallery import (
    Exhibit,
    Fate,
    before_and_after,
    one_evaluation,
)
from visual_r1.report.page import PAGE_NAME, health
from visual_r1.report.pictures import data_uri
from visual_r1.report.summary import (
    BASELINE,
    FINAL,
    Summary,
    as_of,
    read_summary,
)
from visual_r1.report.wandb import page_at_wandb
from visual_r1.runs.costs import Cost, cost_of_run
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.origin import origin_of
from visual_r1.runs.result import step_of_final
from visual_r1.runs.stored import read_stored
from visual_r1.runs.validations import Validations
from visual_r1.wording import (
    as_markdown,
    duration,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
)

PER_FATE = 2
PICTURE_SIDE = 224
"""Pixels of the longer side of a sample problem's picture."""

SHEET_SIDE = 900
LONGEST_ANSWER = 600
_KEY = (
    "Points with a bar are evaluations with their 95% intervals: full ones greedy, hollow ones "
    "sampled, or with the image blanked where the problems are those of validation."
)
CURVES = 2
"""Of the training's figures: accuracy and reward."""


def verdict(summary: Summary, cost: Cost | None) -> str:
    """What a run came to, in a sentence: `65.6 → 86.5% of 512 problems: +20.9 points (…) …`."""
    ended = f" {summary.budget.sentence}" if summary.budget else ""
    if summary.updated_steps == 0:
        return summary.conclusion + ended
    found = summary.accuracy
    what = "" if summary.distinguishable else ", which is not distinguishable"
    paid = f", cost {cost}" if cost else ""
    return (
        f"{100 * found.baseline:.1f} → {percent(found.final)} of {found.n} problems: "
        f"{points(found.delta)} points (95% interval {points_range(found.delta_ci95)}, exact "
        f"McNemar {p_value_in_words(found.p_value)}){what}, after {summary.steps} steps in "
        f"{duration(summary.wall_seconds)}{paid}.{ended}"
    )


def markdown_report(config: RunConfig) -> str:
    """The report of the run of `config`, as far as it has come.

    Raises `DataError` where a file that it is made from is damaged.
    """
    run_dir = config.run_dir
    summary, reports = read_summary(run_dir), read_reports(run_dir)
    cost = cost_of_run(run_dir)
    parts = [f"# {as_markdown(config.run_name)}"]
    if summary is not None:
        parts += [f"**{_text(as_of(run_dir, summary) + summary.conclusion)}**", _measures(summary)]
    elif reports:
        parts.append(_evaluations(reports))
    if (origin := origin_of(run_dir)) is not None:
        parts.append(f"It began with {as_markdown(str(origin))}.")
    parts += [_curves(run_dir, reports), _health(run_dir), _problems(run_dir, reports)]
    parts += [_cost(config, summary, cost), _places(config)]
    return "\n\n".join(part for part in parts if part) + "\n"


def evaluation_report(config: RunConfig, name: str) -> str:
    """The report of one evaluation, beside the others of its run.

    Raises `DataError` where a file that it is made from is damaged.
    """
    folder = evaluation_folder(config.run_dir, name)
    reports = read_reports(config.run_dir)
    parts = [
        f"# {as_markdown(config.run_name)}: {as_markdown(name)}",
        f"**{_text(in_a_line(reports[name]))}**",
        _evaluations(reports),
        "In brackets 95% intervals.",
        _sample_problems(one_evaluation(folder, name, PER_FATE)),
        _places(config, folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def dataset_card(dataset: Dataset) -> str:
    """The card of a dataset, with its contact sheet in it; its front matter is for the hub.

    Both are for readers, who may edit or remove them: a dataset is none the worse for it.
    """
    try:
        card = read_file(dataset.folder / CARD_FILE).decode("utf-8", "replace")
    except OSError as error:
        return as_markdown(f"{dataset.folder / CARD_FILE} cannot be read: {error.strerror}.")
    text = card.partition("\n---\n")[2].lstrip() or card
    if f"({SHEET_FILE})" in text:
        with suppress(OSError, BadImage):
            sheet = read_file(dataset.folder / SHEET_FILE)
            whole_image(sheet)
            text = text.replace(f"({SHEET_FILE})", f"({smaller(data_uri(sheet), SHEET_SIDE)})")
    return text


def _measures(summary: Summary) -> str:
    measures: Sequence[tuple[str, Comparison | None]] = (
        ("accuracy", summary.accuracy),
        (f"pass@{summary.k}", summary.pass_at_k),
        ("image blanked", summary.blind),
        ("from the description", summary.scan_only),
    )
    rows = [
        [
            name,
            f"{percent(found.baseline)} ({percent_range(found.baseline_ci95)})",
            f"{percent(found.final)} ({percent_range(found.final_ci95)})",
            f"{points(found.delta)} ({points_range(found.delta_ci95)}), "
            f"{p_value_in_words(found.p_value)}",
            str(found.n),
        ]
        for name, found in measures
        if found is not None
    ]
    headings = ["", "before", "after", "difference in points", "problems"]
    note = "In brackets 95% intervals; p is the exact McNemar test's."
    return f"{_table(headings, rows)}\n\n{note}"


def _evaluations(reports: Mapping[str, Report]) -> str:
    rows = [
        [
            as_markdown(name),
            f"{percent(found.accuracy)} ({percent_range(found.accuracy_ci95)})",
            percent(found.pass_at_k) if found.k else "",
            "" if found.blind_accuracy is None else percent(found.blind_accuracy),
            str(found.n),
        ]
        for name, found in reports.items()
    ]
    return _table(["evaluation", "accuracy", "pass@k", "image blanked", "problems"], rows)


def _curves(run_dir: Path, reports: Mapping[str, Report]) -> str:
    figures = training_figures(read_metrics(run_dir), reports, step_of_final(run_dir))[:CURVES]
    charts = [(figure.title, figure.chart) for figure in figures]
    if validation := validation_figure(Validations(run_dir).rows()):
        charts.append(("Accuracy on validation problems", validation.chart))
    if not charts:
        return ""
    shown = [f"**{title}**\n\n![{title}]({chart_uri(chart)})" for title, chart in charts]
    return "\n\n".join(["## Learning", *shown, _KEY])


def _health(run_dir: Path) -> str:
    facts = health(read_metrics(run_dir))
    rows = [[as_markdown(name), as_markdown(value)] for name, value in facts]
    return f"## Health\n\n{_table(['', ''], rows)}" if facts else ""


def _problems(run_dir: Path, reports: Mapping[str, Report]) -> str:
    if BASELINE in reports and FINAL in reports:
        before, after = (evaluation_folder(run_dir, name) for name in (BASELINE, FINAL))
        fates = before_and_after(before, after, PER_FATE)
    elif reports:
        name = max(reports)
        fates = one_evaluation(evaluation_folder(run_dir, name), name, PER_FATE)
    else:
        return ""
    return _sample_problems(fates)


def _sample_problems(fates: Sequence[Fate]) -> str:
    shown = [_fate(fate) for fate in fates if fate.exhibits]
    return "\n\n".join(["## Sample problems", *shown]) if shown else ""


def _fate(fate: Fate) -> str:
    heading = f"### {fate.name}: {fate.count} ({fate.explanation})"
    return "\n\n".join([heading, *map(_exhibit, fate.exhibits)])


def _exhibit(shown: Exhibit) -> str:
    pictures = " ".join(f"![the problem's picture]({smaller(uri)})" for uri in shown.pictures)
    given = [
        f"- {one.name}, **{one.label}**: {_text(one.response, LONGEST_ANSWER)}"
        for one in shown.given
    ]
    question = f"{_text(shown.question)} Right is **{_text(shown.answer)}**."
    return "\n\n".join([pictures, question, "\n".join(given)])


def smaller(uri: str, side: int = PICTURE_SIDE) -> str:
    """The picture of a data URI, as a PNG of at most `side` pixels a side."""
    encoded = base64.b64decode(uri.partition(",")[2])
    with Image.open(io.BytesIO(encoded)) as picture:
        if max(picture.size) <= side and picture.format == "PNG":
            return uri
        small = picture.convert("RGB")
    small.thumbnail((side, side))
    # Drawings have few colours, and photographs need no more to be recognised.
    out = io.BytesIO()
    small.quantize(64).save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _cost(config: RunConfig, summary: Summary | None, cost: Cost | None) -> str:
    rows = Ledger(config.run_dir).rows()
    if cost:
        paid = f"{cost}, an estimate of the tokens' cost"
    elif rows and rows[-1].backend == "embedded":
        paid = "nothing, on the embedded engine"
    else:
        paid = "not known; the settings `prices` say what tokens cost"
    facts = [f"cost: {paid}"]
    if (stored := read_stored(config.run_dir)) is not None:
        facts.append(f"stored on the server: {stored}")
    if summary is not None and summary.budget is not None:
        facts.append(summary.budget.sentence)
    if summary is not None:
        facts.insert(0, f"wall time: {duration(summary.wall_seconds)}")
        facts.append(f"steps: {summary.steps}, of which {summary.updated_steps} with an update")
    return "## Cost\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _places(config: RunConfig, evaluation: Path | None = None) -> str:
    """Where the rest is; a browser opens no file by a link of another page, so paths are code."""
    folder = config.run_dir.absolute()
    places = [f"- run folder: {_code(folder)}"]
    if evaluation is not None:
        places.append(f"- report and predictions: {_code(evaluation.absolute())}")
    if (folder / PAGE_NAME).exists():
        places.append(f"- the whole report: {_code(folder / PAGE_NAME)}")
    if url := page_at_wandb(folder):
        places.append(f"- W&B: [{as_markdown(url)}]({url})")
    if rows := Ledger(folder).rows():
        places.append(f"- newest checkpoint: {_code(rows[-1].sampler_path)}")
        if rows[-1].backend == "hosted" and (url := console_page(rows[-1].sampler_path)):
            places.append(f"- Tinker's console: [{as_markdown(url)}]({url})")
    return "## Where it is\n\n" + "\n".join(places)


def _code(text: object) -> str:
    shown = str(text).replace("`", "'")
    return f"`{shown}`"


def _text(text: str, most: int = 2000) -> str:
    """Text of others within a paragraph; its lines are joined."""
    joined = " ".join(text.split())
    return as_markdown(joined if len(joined) <= most else f"{joined[:most]} …")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
