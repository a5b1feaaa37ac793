"""The report in Markdown: what the summary says, pictures in it, nobody's markup but ours."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_up import (
    answer,
    picture,
    predictions,
    problems,
    spend,
    write_evaluation,
    write_metrics,
    write_validation,
)
from PIL import Image
from validated import checkpoint

from visual_r1.config import DataSection, RunConfig
from visual_r1.data.dataset import open_dataset, prepare
from visual_r1.report.markdown import (
    PICTURE_SIDE,
    dataset_card,
    evaluation_report,
    markdown_report,
    smaller,
    verdict,
)
from visual_r1.report.pictures import data_uri
from visual_r1.report.summary import Summary, read_summary, summarize
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.ledger import Ledger
from visual_r1.wording import percent

PICTURE = re.compile(r"!\[[^]]*\]\((data:image/([a-z+]+);base64,([A-Za-z0-9+/=]+))\)")
HOSTILE = (
    "<script>alert(1)</script> | **bold** ![x](http://evil/p.png) [go](http://evil) `code`\n# top"
)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate(
        {"preset": "quickstart", "run": {"name": "small"}, "output_dir": tmp_path}
    )


def finish(config: RunConfig, before: float = 0.6, after: float = 0.9, n: int = 80) -> Summary:
    """A finished run: the files that the report is made from."""
    folder, asked = config.run_dir, problems(n)
    write_evaluation(folder / "evaluations/baseline", asked, predictions(asked, before, seed=0))
    write_evaluation(folder / "evaluations/final", asked, predictions(asked, after, seed=1))
    write_metrics(folder, steps=30)
    return summarize(folder, steps=30, wall_seconds=400)


def test_a_card_that_somebody_edited_is_shown_as_it_is(tmp_path: Path) -> None:
    """It belongs to its readers: what they did to it ends no run."""
    dataset = prepare(DataSection(source="procedural", train=4, validation=1, test=1), tmp_path)
    card, sheet = (dataset.folder / name for name in ("README.md", "contact_sheet.png"))
    whole, picture = card.read_bytes(), sheet.read_bytes()
    assert len(PICTURE.findall(dataset_card(dataset))) == 1
    for damaged in (picture[:-400], b"", b"no picture", None):
        sheet.unlink(missing_ok=True)
        if damaged is not None:
            sheet.write_bytes(damaged)
        assert "(contact_sheet.png)" in dataset_card(dataset)
        assert open_dataset(dataset.folder) == dataset
    card.write_bytes(whole.replace(b"problems", b"\xff\xfe"))
    assert "\ufffd" in dataset_card(dataset)
    card.unlink()
    assert "No such file" in dataset_card(dataset)
    card.mkdir()
    assert "it is a folder" in dataset_card(dataset)


def test_the_verdict_is_one_sentence_with_all_that_counts(config: RunConfig) -> None:
    summary = finish(config)
    found = summary.accuracy
    assert summary.distinguishable
    said = verdict(summary, cost_of_run(config.run_dir))
    assert said.startswith(f"{100 * found.baseline:.1f} → {percent(found.final)} of 80 problems: +")
    assert "exact McNemar p < 0.0001)" in said
    assert said.endswith(", after 30 steps in 6 min 40 s.")
    spend(config.run_dir, [0.5, 0.25])
    assert verdict(summary, cost_of_run(config.run_dir)).endswith(", cost at least $0.75.")


def test_a_verdict_of_nothing_says_so(config: RunConfig) -> None:
    assert "not distinguishable, after 30" in verdict(finish(config, 0.6, 0.62), None)
    write_metrics(config.run_dir, steps=30, updated=False)
    nothing = summarize(config.run_dir, steps=30, wall_seconds=400)
    assert verdict(nothing, None).startswith("Nothing was trained")


def test_the_report_has_measures_curves_problems_and_places(config: RunConfig) -> None:
    summary = finish(config)
    for step in (0, 10):
        write_validation(config.run_dir, step, 0.5)
    text = markdown_report(config)
    assert f"| accuracy | {percent(summary.accuracy.baseline)} (" in text
    titles = ("Accuracy of the samples", "Mean reward", "Accuracy on validation problems")
    assert all(f"![{title}](data:image/svg+xml;base64," in text for title in titles)
    assert f"### Gained: {summary.accuracy.gained} (wrong before, right after)" in text
    assert f"- run folder: `{config.run_dir.absolute()}`" in text
    assert "tinker.thinkingmachines.ai" not in text, "the embedded engine has no console"


def test_a_chart_is_a_picture_by_itself(config: RunConfig) -> None:
    finish(config)
    charts = [
        base64.b64decode(data).decode()
        for _, kind, data in PICTURE.findall(markdown_report(config))
        if kind == "svg+xml"
    ]
    assert len(charts) == 2
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert svg.find("{http://www.w3.org/2000/svg}polyline") is not None
        style = svg.find("{http://www.w3.org/2000/svg}style")
        assert style is not None
        assert style.text is not None
        # Every variable that a rule names is given.
        named = set(re.findall(r"var\((--[a-z-]+)\)", chart))
        assert named <= set(re.findall(r"(--[a-z-]+):", style.text))


def test_what_a_model_or_a_dataset_wrote_means_nothing(config: RunConfig) -> None:
    folder = config.run_dir
    asked = [
        replace(problem, problem=f"<image>{HOSTILE}", answer=HOSTILE) for problem in problems(4)
    ]
    made = [replace(one, greedy=answer(False, HOSTILE)) for one in predictions(asked, 0.5, seed=0)]
    write_evaluation(folder / "evaluations/base", asked, made)
    text = PICTURE.sub("", markdown_report(config))
    assert "alert(1)" in text
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)!?\[[^]]*\]\(", text)
    assert "\n# top" not in text
    assert "<script>" not in text


def test_links_are_there_where_there_is_something_to_open(config: RunConfig) -> None:
    finish(config)
    folder = config.run_dir
    url = "https://wandb.ai/me/visual-r1/runs/small-0a1b"
    (folder / "wandb").mkdir()
    (folder / "wandb/tracked.json").write_text(json.dumps({"ident": "small-0a1b", "url": url}))
    Ledger(folder).append(replace(checkpoint(30), backend="hosted"))
    text = markdown_report(config)
    assert f"]({url})" in text
    assert "](https://tinker.thinkingmachines.ai/training_runs/m:train:0)" in text
    assert "cost: not known; the settings `prices`" in text


def test_an_evaluation_by_itself_has_its_own_report(config: RunConfig) -> None:
    finish(config)
    asked = problems(10)
    folder = config.run_dir / "evaluations/step-40"
    write_evaluation(folder, asked, predictions(asked, 0.7, seed=3))
    text = evaluation_report(config, "step-40")
    assert text.startswith("# small: step-40\n\n**accuracy ")
    assert text.count("| baseline |") == text.count("| step-40 |") == 1
    assert "### Right: " in text
    assert f"- report and predictions: `{folder}`" in text


def test_a_report_of_a_run_that_has_just_begun(config: RunConfig) -> None:
    config.run_dir.mkdir(parents=True)
    assert markdown_report(config).startswith("# small\n")
    assert read_summary(config.run_dir) is None


def test_pictures_are_small_enough_for_a_page() -> None:
    assert smaller(data_uri(picture(1))) == data_uri(picture(1))
    large = smaller(data_uri(picture(1, size=900)))
    with Image.open(io.BytesIO(base64.b64decode(large.partition(",")[2]))) as shown:
        assert shown.size == (PICTURE_SIDE, PICTURE_SIDE)
        assert shown.format == "PNG"
