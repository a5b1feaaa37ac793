"""Runs and a run, as the server writes their pages."""

import base64
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from looked_at import TOKEN, Row, ended, evaluated, run_config, trained, wanting
from made_up import checkpoint
from starlette.testclient import TestClient

from visual_r1.errors import DataError
from visual_r1.pages import reading
from visual_r1.pages import run as run_module
from visual_r1.pages.app import pages
from visual_r1.pages.reading import facts_of
from visual_r1.pages.runs import differences
from visual_r1.report.page import write_html
from visual_r1.report.phases import seconds_of_step
from visual_r1.report.spending import spending_rows
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.listing import runs_in


def client(folder: Path, *named: Path) -> TestClient:
    found = TestClient(pages(folder, TOKEN, named), base_url="http://127.0.0.1:4280")
    found.get(f"/?token={TOKEN}")
    return found


def test_what_is_imported_to_start_is_light():
    heavy = {"torch", "transformers", "tinker", "prefect", "datasets", "scipy", "httpx"}
    modules = "visual_r1.pages.command, visual_r1.pages.app"
    script = f"import sys, {modules}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_empty_folder_says_how_to_begin(tmp_path: Path):
    page = client(tmp_path).get("/").text
    assert "No run is here yet" in page
    assert "make train" in page


def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path):
    run_dir = trained(tmp_path, "damaged")
    evaluated(run_dir, "baseline", 0.6)
    (run_dir / "evaluations/baseline/report.json").write_text('{"n": 5')
    (run_dir / "config.json").write_text("{")
    browser = client(tmp_path)
    listed = browser.get("/").text
    assert "damaged: " in listed and "of 0" not in listed
    page = browser.get("/runs/damaged")
    assert page.status_code == 200
    assert "report.json is damaged" in page.text
    assert "config.json is damaged" in page.text and "of 0" not in page.text
    assert 'data-grows="accuracy"' in page.text


def test_only_the_runs_that_are_named_are_there_and_two_of_one_name_too(tmp_path: Path):
    first, second = (trained(tmp_path / place, "run") for place in ("a", "b"))
    trained(tmp_path, "unnamed")
    browser = client(tmp_path, first, second)
    page = browser.get("/").text
    assert 'href="/runs/run"' in page
    assert 'href="/runs/run~2"' in page
    assert "unnamed" not in page
    assert browser.get("/runs/unnamed").status_code == 404


def test_a_name_that_is_no_text_has_an_address(tmp_path: Path):
    trained(tmp_path, "odd").rename(tmp_path / "runs" / "odd\udcff")
    browser = client(tmp_path)
    page = browser.get("/").text
    address = page.partition('data-href="')[2].partition('"')[0]
    assert address == "/runs/odd%EF%BF%BD"
    assert browser.get(address).status_code == 200


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a/../a", "no-such", "a%2f..%2fa"])
def test_no_other_folder_is_reached_by_a_name(tmp_path: Path, name: str):
    (tmp_path / "config.json").write_text("{}")
    trained(tmp_path, "a")
    browser = client(tmp_path)
    for page in ("", "/report.html", "/log", "/live", "/tokens"):
        assert browser.get(f"/runs/{name}{page}").status_code in (200, 404)
    answer = browser.get("/runs/no-such/report.html")
    assert answer.status_code == 404
    assert "There is no run" in answer.text


def test_a_report_is_shown_under_its_own_policy_and_a_link_in_its_place_is_not(tmp_path: Path):
    run_dir = trained(tmp_path, "a")
    (run_dir / "report.html").write_text("<style>b{}</style>the report")
    browser = client(tmp_path)
    answer = browser.get("/runs/a/report.html")
    assert answer.text.endswith("the report")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    digest = base64.b64encode(bytes(32)).decode("ascii")
    (run_dir / "report.html").write_text(
        f"<meta content=\"default-src 'none'; script-src 'sha256-{digest}'\">the report"
    )
    policy = browser.get("/runs/a/report.html").headers["content-security-policy"]
    assert policy.endswith(f"; script-src 'sha256-{digest}'")
    # Nothing else of a file gets into the header.
    (run_dir / "report.html").write_text("<meta content=\"script-src 'unsafe-inline' *\">")
    policy = browser.get("/runs/a/report.html").headers["content-security-policy"]
    assert "script-src" not in policy
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    (run_dir / "report.html").unlink()
    (run_dir / "report.html").symlink_to(secret)
    assert browser.get("/runs/a/report.html").status_code == 404


def test_only_new_rows_are_sent_and_a_mark_of_all_else(tmp_path: Path):
    run_dir = trained(tmp_path, "a", steps=10)
    browser = client(tmp_path)
    found = browser.get("/runs/a/live?after=7").json()
    assert [row["step"] for row in found["rows"]] == [8, 9]
    assert found["rows"][0]["accuracy"] == pytest.approx(0.54)
    evaluated(run_dir, "baseline", 0.6)
    again = browser.get("/runs/a/live?after=9").json()
    assert again["rows"] == []
    assert again["mark"] != found["mark"]


@pytest.mark.parametrize("content", ["[]", '"x"', "5", "null", "[{}]", '{"data": [], "train": 5}'])
def test_a_configuration_of_another_type_is_damaged_and_the_other_runs_are_listed(
    tmp_path: Path, content: str
):
    for name in ("sound", "odd"):
        trained(tmp_path, name)
    (tmp_path / "runs/odd/config.json").write_text(content)
    browser = client(tmp_path)
    listed = said(browser, "/")
    assert "sound" in listed and "damaged: " in listed
    for page in ("/runs/odd", "/runs/odd/live", "/beside?run=odd&run=sound"):
        assert browser.get(page).status_code == 200
    with suppress(DataError):
        write_html(tmp_path / "runs/odd")


def test_metrics_are_read_once_whatever_the_number_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[Path] = []
    monkeypatch.setattr(reading, "read_metrics", lambda folder: read.append(folder) or [{}] * 10)
    folders = [tmp_path / str(number) for number in range(100)]
    kept = reading.KeptMetrics(most=1000)
    for _ in range(3):
        assert all(len(kept.of(folder, (1, 1))) == 10 for folder in folders)
    assert read == folders
    kept.of(folders[3], (2, 2))
    assert read[100:] == [folders[3]], "another state of its file"
    # With more than there is room for, those that have some keep it.
    read.clear()
    kept = reading.KeptMetrics(most=500)
    for _ in range(4):
        for folder in folders:
            kept.of(folder, (1, 1))
    assert len(read) <= 100 + 3 * 51
    kept.of(tmp_path, (1, 1))
    assert read[-1] == tmp_path
    kept.of(tmp_path, (1, 1))
    assert read.count(tmp_path) == 1


def said(browser: TestClient, address: str) -> str:
    """What a reader sees of a page, with the titles of marks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", browser.get(address).text))


def of_result(page: str) -> tuple[bool, bool]:
    return "Accuracy rose by 21.0 points" in page, "the evidence" in page


def test_a_run_that_was_made_longer_has_no_result_until_it_is_evaluated_again(tmp_path: Path):
    run_dir = trained(tmp_path, "a", 20)
    ended(run_dir, 20)
    browser = client(tmp_path)
    page = said(browser, "/runs/a")
    assert of_result(page) == (True, True)
    assert "evaluation after, greedy" in page
    assert "+21.0" in said(browser, "/")
    mark = run_module.evaluation_marks(facts_of("a", run_dir))
    assert [one.x for one in mark] == [0.0, 20.0]
    wanting(run_dir, 40)
    for step in range(20, 33):  # beyond the next checkpoint too
        Journal(run_dir).append(Row(step))
        if step == 25:
            Ledger(run_dir).append(checkpoint(25, run_config(tmp_path, "a").digest()))
        page = said(browser, "/runs/a")
        assert of_result(page) == (False, False)
        assert "after, step 20" in page and "evaluation after, step 20, greedy" in page
        mark = run_module.evaluation_marks(facts_of("a", run_dir))
        assert [one.x for one in mark] == [0.0, 20.0]
    assert "Killed, after 33 of 40 steps." in page
    (run_dir / ".ending.json").write_text('{"kind": "stopped", "sentence": "", "at": ""}')
    assert "Stopped, after 33 of 40 steps." in said(browser, "/runs/a")
    table = said(browser, "/")
    assert "of step 20" in table and "+21.0" not in table
    assert "of step 20" in said(browser, "/beside?run=a")
    [row] = runs_in(tmp_path)
    assert (row.after, row.after_step) == (0.86, 20)


def test_a_run_that_went_back_has_no_result_though_it_has_as_many_steps_again(tmp_path: Path):
    run_dir = trained(tmp_path, "a", 20)
    ended(run_dir, 20)
    ledger = Ledger(run_dir)
    ledger.go_back_to(10)
    browser = client(tmp_path)
    assert of_result(said(browser, "/runs/a")) == (False, False)
    again = checkpoint(20, run_config(tmp_path, "a").digest())
    ledger.append(replace(again, sampler_path="tinker://b:train:0/sampler_weights/20"))
    page = said(browser, "/runs/a")
    assert of_result(page) == (False, False)
    assert "after, a checkpoint that was set aside" in page
    assert "evaluation after" not in page, "there is no step where it stands"
    [row] = runs_in(tmp_path)
    assert row.state is not None and row.state.name == "killed"
    assert row.after_step == 0
    evaluated(run_dir, "final", 0.8, "tinker://b:train:0/sampler_weights/20")
    assert of_result(said(browser, "/runs/a")) == (True, True)


def test_settings_that_differ_are_those_and_no_others(tmp_path: Path):
    facts = [
        facts_of("a", trained(tmp_path, "a", learning_rate=1e-3)),
        facts_of("b", trained(tmp_path, "b", learning_rate=1e-4)),
    ]
    found = dict(differences(facts))
    assert found.pop("train.learning_rate") == [1e-3, 1e-4]
    assert set(found) == {"run.name"}
    assert differences(facts[:1]) == []


def test_a_run_costs_the_same_wherever_it_is_asked(tmp_path: Path):
    run_dir = trained(tmp_path, "a", 10)
    for step, cost in ((10, 0.1), (11, None), (12, 0.2)):
        Journal(run_dir).append(Row(step, tokens_prefill=100, tokens_trained=50, cost_usd=cost))
    facts, whole = facts_of("a", run_dir), cost_of_run(run_dir)
    assert facts.cost == pytest.approx(0.3) and not facts.cost_is_whole
    assert whole is not None and (whole.usd, whole.whole) == (facts.cost, False)
    rows = spending_rows(facts.metrics, facts.evaluations, facts.validations)
    assert [(row.name, row.tokens.count, row.usd) for row in rows] == [
        ("training", 450, facts.cost)
    ]
    assert [row.cost_usd for row in runs_in(tmp_path)] == [facts.cost]


def test_the_phases_of_a_step_add_up_to_it():
    row = {"step": 0, "seconds_sampler": 0.1, "seconds_first_pass": 1.0, "seconds_train": 0.5}
    parts = seconds_of_step(row | {"seconds_total": 2.0})
    assert sum(parts) == pytest.approx(2.0)
    assert parts[-1] == pytest.approx(0.4)
    assert sum(seconds_of_step({"step": 0})) == 0.0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_cannot_be_entered_is_left_out(tmp_path: Path):
    trained(tmp_path, "seen")
    closed = trained(tmp_path, "closed")
    closed.chmod(0)
    try:
        page = client(tmp_path).get("/")
    finally:
        closed.chmod(0o700)
    assert page.status_code == 200
    assert "seen" in page.text
