"""report.html: self-contained, escaped, true to the files, and readable at every stage."""

import base64
import hashlib
import io
import json
import random
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest
from made_up import (
    answer,
    picture,
    predictions,
    problems,
    spend,
    with_scans,
    write_evaluation,
    write_metrics,
    write_validation,
)
from PIL import Image

from visual_r1.config.command_line import load_config
from visual_r1.config.overrides import with_overrides
from visual_r1.errors import DataError, RunError
from visual_r1.report.gallery import before_and_after, within
from visual_r1.report.page import write_html
from visual_r1.report.pictures import data_uri
from visual_r1.report.repeat import command_of
from visual_r1.report.summary import summarize
from visual_r1.runs.made_with import note_made_with
from visual_r1.storage import write_json
from visual_r1.wording import printable

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "img", "link", "br", "hr", "input", "source"}
HOSTILE = '</pre><script>document.title="ran"</script><img src=x onerror=alert(1)>&amp;'


class Page(HTMLParser):
    """The page's elements, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["script"]:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run."""
    folder = tmp_path / "runs" / "quickstart-0a1b2c3d"
    asked = problems(80)
    write_evaluation(folder / "evaluations/baseline", asked, predictions(asked, 0.6, seed=0))
    write_evaluation(folder / "evaluations/final", asked, predictions(asked, 0.9, seed=1))
    write_metrics(folder, steps=30)
    (folder / "config.json").write_text(json.dumps({"data": {"source": "procedural"}}))
    summarize(folder, steps=30, wall_seconds=400)
    return folder


def page(run_dir: Path) -> Page:
    return Page(write_html(run_dir).read_text(encoding="utf-8"))


def test_the_page_says_what_the_summary_says(run_dir: Path):
    summary = json.loads((run_dir / "summary.json").read_text())
    words = page(run_dir).words
    assert f"{100 * summary['baseline']:.1f}%" in words
    assert f"{100 * summary['final']:.1f}%" in words
    assert f"{summary['gained']} gained, {summary['lost']} lost of 80" in words
    assert summary["evidence"].replace("-", "−") in words
    for family in summary["by_family"]:
        assert family.replace("_", " ") in words


def test_a_validated_run_shows_the_curve_with_its_intervals(run_dir: Path):
    assert "validation problems" not in page(run_dir).words
    for step, accuracy in ((0, 0.5), (10, 0.75), (20, 0.75), (30, 0.625)):
        write_validation(run_dir, step, accuracy)
    made = page(run_dir)
    [chart] = [one for one in made.all("svg") if "curve-validation" in one["aria-labelledby"]]
    assert chart["role"] == "img"
    assert "The highest is step 20 with 75.0%" in made.words
    assert "step 10: 75% (95% interval 51% to 90%)" in made.words
    assert "step 30, blanked: 6%" in made.words
    assert "on 16 problems that neither training nor" in made.words


def test_a_base_model_alone_is_no_curve(run_dir: Path):
    write_validation(run_dir, 0, 0.5)
    assert "validation problems" not in page(run_dir).words


def test_a_run_with_second_passes_shows_outcomes_and_what_descriptions_are_worth(run_dir: Path):
    asked = problems(80)
    for name, accuracy in (("baseline", 0.5), ("final", 0.8)):
        made = with_scans(predictions(asked, accuracy, seed=2), accuracy, seed=3)
        write_evaluation(run_dir / "evaluations" / name, asked, made)
    shares = {"both": 0.5, "scan_only": 0.2, "image_only": 0.2, "neither": 0.1}
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    more = {f"outcome_{name}": share for name, share in shares.items()} | {"leaks": 0.0625}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(r | more) + "\n" for r in rows))
    summary = summarize(run_dir, steps=30, wall_seconds=1).to_json()
    found = page(run_dir)
    assert len(found.all("svg")) == 4  # where it fails, by the two passes, is one of them
    bands = found.all("polygon")
    assert [band["class"].split()[1] for band in bands] == list(shares)  # from the bottom up
    tops = [min(float(y) for y in re.findall(r",([\d.]+)", band["points"])) for band in bands]
    assert tops == sorted(tops, reverse=True)
    assert tops[-1] == 14, "the four shares fill the picture"
    assert "both 50.0%, then 50.0%" in found.words
    assert f"{100 * summary['scan_only']['final']:.1f}%" in found.words
    assert "From the description" in found.words
    assert "Descriptions that leaked all the same, mean share 6.2%" in found.words
    # A run without second passes says nothing of them.
    shutil.rmtree(run_dir / "evaluations")
    write_metrics(run_dir, steps=3)
    (run_dir / "summary.json").unlink()
    assert "escription" not in page(run_dir).words


def test_nothing_is_loaded_from_elsewhere_and_no_script_but_the_pages_may_run(run_dir: Path):
    found = page(run_dir)
    for tag, attributes in found.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has an event handler {name}"
            if name in {"src", "href", "srcset", "data", "action", "xlink:href"}:
                inside = value.startswith("#") and tag == "a"
                assert inside or value.startswith("data:image/"), f"{tag} loads {value[:60]}"
    text = (run_dir / "report.html").read_text()
    assert not re.search(r"@import|url\(", text)
    policies = [a["content"] for a in found.all("meta") if "http-equiv" in a]
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'"
    )
    assert policies == [policy]


def test_pictures_have_texts_tables_have_headers_and_charts_have_descriptions(run_dir: Path):
    found = page(run_dir)
    assert found.all("img")
    assert all(image["alt"].startswith("Figure ") for image in found.all("img"))
    assert all("scope" in header for header in found.all("th"))
    assert len(found.all("caption")) >= 3
    charts = found.all("svg")
    assert len(charts) == 2
    ids = {attributes.get("id") for _, attributes in found.elements}
    assert all(set(chart["aria-labelledby"].split()) <= ids for chart in charts)
    assert found.all("html") == [{"lang": "en"}]


def hostile_run(run_dir: Path) -> None:
    """Put the same hostile text wherever a model or a dataset can write."""
    asked = [
        replace(
            problem, id=f"{i}{HOSTILE}", problem=HOSTILE, answer=HOSTILE, meta={"family": HOSTILE}
        )
        for i, problem in enumerate(problems(12))
    ]
    for name, right in (("baseline", False), ("final", True)):
        made = [
            replace(
                prediction,
                greedy=answer(right, HOSTILE, extracted=HOSTILE),
            )
            for prediction in predictions(asked, 0.5, seed=0)
        ]
        write_evaluation(run_dir / "evaluations" / name, asked, made, sampler_path=HOSTILE)
    (run_dir / "config.json").write_text(json.dumps({"prompt": {"template": HOSTILE}}))
    summarize(run_dir, steps=30, wall_seconds=1)


def test_whatever_a_model_or_a_dataset_wrote_stays_text(run_dir: Path):
    hostile_run(run_dir)
    found = page(run_dir)
    assert HOSTILE in " ".join(found.text), "shown, character for character"
    assert found.all("script") == [{}]
    assert not [a for _, a in found.elements if "onerror" in a]


def test_what_does_not_show_is_shown_in_the_page_as_well(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    hidden = "6\u200b2 \u202egnorw\u202c \x1b[2J\x9b \u3164\U000e0041"
    monkeypatch.setitem(globals(), "HOSTILE", hidden)
    hostile_run(run_dir)
    text = write_html(run_dir).read_text(encoding="utf-8")
    assert "6\\u200b2 \\u202egnorw\\u202c \\x1b[2J\\x9b \\u3164\\U000e0041" in text
    assert not set(hidden) & set(text) - set(printable(hidden))


def test_the_page_works_when_no_step_trained_and_says_so(run_dir: Path):
    write_metrics(run_dir, steps=4, updated=False)
    summarize(run_dir, steps=4, wall_seconds=1)
    found = page(run_dir)
    assert "Nothing was trained" in found.words
    assert "0 of 4" in found.words


def test_the_page_works_before_a_run_is_finished(run_dir: Path):
    (run_dir / "summary.json").unlink()
    assert "in the evaluation “final”" in page(run_dir).words
    shutil.rmtree(run_dir / "evaluations/final")
    assert "in the evaluation “baseline”" in page(run_dir).words
    (run_dir / "metrics.jsonl").unlink()
    assert "No step was trained in this run." in page(run_dir).words
    write_metrics(run_dir, steps=1)
    shutil.rmtree(run_dir / "evaluations")
    assert "nothing has been evaluated yet" in page(run_dir).words


def test_a_step_without_samples_leaves_a_gap_and_not_a_crash(run_dir: Path):
    with (run_dir / "metrics.jsonl").open("a") as out:
        out.write('{"step": 30, "updated": false, "accuracy": null, "reward_mean": null}\n{"st')
    assert len(page(run_dir).all("svg")) == 2


def test_what_is_watched_has_a_curve_where_the_rows_have_it(run_dir: Path):
    path = run_dir / "metrics.jsonl"
    older, *newer = [json.loads(line) for line in path.read_text().splitlines()]
    for row in newer:
        row |= {"entropy": 0.5, "response_tokens_mean": 40.0, "kl_sampler_learner": 1e-20}
        row |= {"reward_kl": -3.0, "off_policy_kl": None, "off_policy_clip_share": 0.25}
    path.write_text("".join(json.dumps(row) + "\n" for row in [older, *newer]))
    found = page(run_dir)
    # Accuracy, reward; entropy, length, KL to the learner and to the base: not the off-policy one.
    assert len(found.all("svg")) == 6
    count = len(newer)
    assert f"Entropy of the sampled tokens, {count} steps: 0.50 on average" in found.words
    assert f"Mean KL to the base model, {count} steps: 3 on average" in found.words
    assert "Tokens clipped in later minibatches, mean share 25.0%" in found.words


def test_what_a_run_has_cost_is_a_fact_of_it(run_dir: Path):
    assert "$" not in page(run_dir).words
    spend(run_dir, steps=[0.5] * 30, baseline=1.0, final=2.25)
    assert "cost about $18.25" in page(run_dir).words


def test_a_folder_with_nothing_in_it_is_one_sentence(tmp_path: Path):
    with pytest.raises(RunError, match="nothing to report"):
        write_html(tmp_path)


def test_a_damaged_summary_is_one_sentence_and_the_old_page_stays(run_dir: Path):
    before = write_html(run_dir).read_text()
    (run_dir / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        write_html(run_dir)
    assert (run_dir / "report.html").read_text() == before


def test_the_gallery_holds_each_fate_by_a_rule_that_does_not_look(run_dir: Path):
    folders = run_dir / "evaluations/baseline", run_dir / "evaluations/final"
    fates = {fate.name: fate for fate in before_and_after(*folders)}
    assert list(fates) == ["Gained", "Lost", "Still wrong", "Still right"]
    assert sum(fate.count for fate in fates.values()) == 80
    for name, right in (("Gained", (False, True)), ("Lost", (True, False))):
        for exhibit in fates[name].exhibits:
            assert tuple(given.right for given in exhibit.given) == right
    more = {fate.name: fate for fate in before_and_after(*folders, per_fate=9)}
    assert more["Gained"].exhibits[:4] == fates["Gained"].exhibits
    shown = [exhibit.id for exhibit in more["Still right"].exhibits]
    assert shown != sorted(shown), "not simply the first of the file"


def test_pictures_are_shown_as_they_are():
    assert data_uri(picture(1)).startswith("data:image/png;base64,iVBOR")
    assert data_uri(b"\xff\xd8\xff\xe0").startswith("data:image/jpeg;base64,")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_browser_shows_the_page_and_runs_nothing_of_others(run_dir: Path, tmp_path: Path):
    hostile_run(run_dir)
    shown = browsed(write_html(run_dir).as_uri(), tmp_path)
    assert "<title>quickstart-0a1b2c3d · Visual R1</title>" in shown, "no script changed the title"
    assert shown.count("<svg") == 2
    assert shown.count('class="exhibit"') == 12
    assert shown.count("<script") == 1


def browsed(address: str, profile: Path, *flags: str) -> str:
    """The page's elements, as they are when its script has run."""
    assert CHROMIUM is not None
    always = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --window-size=400,1200"
    )
    return subprocess.run(
        [CHROMIUM, *always.split(), f"--user-data-dir={profile / 'profile'}",
         *(flags or ["--dump-dom"]), address],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_filters_stand_in_the_address(run_dir: Path, tmp_path: Path):
    address = write_html(run_dir).as_uri()
    folders = run_dir / "evaluations/baseline", run_dir / "evaluations/final"
    fates = {fate.key: fate for fate in before_and_after(*folders, per_fate=80)}
    there = sum(min(fate.count, 40) for fate in fates.values())
    families = [shown.family for shown in fates["gained"].exhibits]
    wanted = families[0]
    all_of_it = browsed(address, tmp_path)
    assert f"{there} of {there} shown" in all_of_it
    assert not re.search(r"<article[^>]* hidden", all_of_it)
    filtered = browsed(f"{address}#show=gained&family={wanted}", tmp_path)
    assert f"{families.count(wanted)} of {there} shown" in filtered
    assert '<button type="button" data-show="gained" aria-pressed="true">' in filtered
    visible = re.findall(r'<article class="exhibit"(?![^>]* hidden)[^>]*>', filtered)
    assert len(visible) == families.count(wanted)
    assert all('data-fate="gained"' in one and f'"{wanted}"' in one for one in visible)
    after = browsed(f"{address}#show=after-wrong", tmp_path)
    wrong = fates["lost"].count + fates["still-wrong"].count
    assert f"{wrong} of {there} shown" in after
    assert f"{there} of {there} shown" in browsed(
        f"{address}#show=%22%3E%3Cscript%3E&family=x", tmp_path
    )


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_on_paper_all_is_open_and_the_filters_are_gone(run_dir: Path, tmp_path: Path):
    address = write_html(run_dir).as_uri()
    browsed(address, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'r.pdf'}")
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "r.pdf").read_bytes()))
    assert 5 <= pages <= 14, "24 of the 80 problems, a few a page"


def test_a_large_run_has_a_page_of_bounded_size(run_dir: Path):
    """Thousands of steps, hundreds of families, photographs and endless responses."""
    noise = random.Random(1).randbytes(700 * 500 * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", (700, 500), noise).save(out, "PNG")
    asked = [
        replace(problem, images=(out.getvalue(),), meta={"family": f"family {i}"})
        for i, problem in enumerate(problems(150))
    ]
    for name, accuracy in (("baseline", 0.4), ("final", 0.6)):
        made = [
            replace(one, greedy=answer(one.greedy.right, "<b>&" * 5000))
            for one in predictions(asked, accuracy, seed=4)
            if one.greedy is not None
        ]
        write_evaluation(run_dir / "evaluations" / name, asked, made)
    write_metrics(run_dir, steps=5000)
    summarize(run_dir, steps=5000, wall_seconds=1)
    path = write_html(run_dir)
    assert path.stat().st_size < 5_000_000
    found = page(run_dir)
    assert len(found.all("circle")) < 1000
    assert "means over 13 steps" in found.words
    assert "50 smaller ones are in report.json" in found.words
    shown = [image["src"] for image in found.all("img")]
    assert 20 < len(shown) <= 150
    assert max(map(len, shown)) < 200_000
    # All of them would not fit.
    folders = run_dir / "evaluations/baseline", run_dir / "evaluations/final"
    less = within(before_and_after(*folders, per_fate=40), 5_000_000)
    assert 0 < sum(len(fate.exhibits) for fate in less) < 8
    assert all(fate.exhibits for fate in less if fate.count)


def test_the_time_the_cost_and_how_to_repeat_it_are_told(run_dir: Path):
    config = with_overrides(
        "quickstart", {"train.steps": 30, "data.seed": 7, "model.max_pixels": 90000}
    )
    write_json(run_dir / "config.json", config.model_dump(mode="json"))
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"seconds_total": 3.0, "seconds_first_pass": 2.0, "seconds_train": 1.0}
        row |= {"tokens_prefill": 1000, "tokens_sampled": 2000, "cost_usd": 0.5}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    note_made_with(run_dir)
    words = page(run_dir).words
    assert "sampling, the first pass 1 min 0 s 15.0%" in words
    assert "all else: start, evaluations, export 5 min 10 s 77.5%" in words
    assert "training 30,000 0 60,000 0 15.00" in words
    command = command_of(config)
    assert command in words
    flags = {"--train.steps=30", "--data.seed=7", "--model.max_pixels=90000"}
    assert set(shlex.split(command)[4:]) == flags
    assert f"tinker {version('tinker')}" in words
    again = load_config(shlex.split(command_of(config))[2:])
    assert again.identity() == config.identity()
