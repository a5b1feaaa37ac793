"""The pages in a real browser: keys, theme, a filter, a run that grows, names that are hostile."""

import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from looked_at import Row, evaluated, looking, run_config, trained
from made_up import checkpoint, predictions, problems, write_evaluation

from trials.browser import Page, program
from visual_r1.alarms import Finding
from visual_r1.report.page import write_html
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger

pytestmark = pytest.mark.skipif(
    program() is None, reason="chromium is not installed: apt-get install chromium"
)

HOSTILE = "<img src=x onerror=document.title='taken'>&\u202egnp.exe \"'"
AT = "document.querySelector('[data-row].at')?.dataset.row ?? ''"


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str, Path]]:
    folder = tmp_path_factory.mktemp("looked")
    for name, rate in (("run-a", 1e-3), ("run-b", 3e-4), ("run-c", 1e-3)):
        run_dir = trained(folder, name, learning_rate=rate)
        evaluated(run_dir, "baseline", 0.6)
    trained(folder, HOSTILE, model=HOSTILE, learning_rate=1e-3)
    with ExitStack() as stack:
        page, address = stack.enter_context(looking(folder, folder / "browser"))
        yield page, address, folder


def test_the_address_is_clean_and_the_keyboard_goes_through_the_runs(
    looked: tuple[Page, str, Path],
) -> None:
    page, address, _ = looked
    page.open(f"{address}/?sort=run&up=true")
    assert "token" not in page.value("location.href")
    page.press("g", "g", "j")
    assert page.value(AT) == "run-a"  # behind the hostile one, which begins with <
    page.press("k", "k", "k")
    assert page.value(AT) == HOSTILE
    page.press("G")
    assert page.value(AT) == "run-c"
    page.press("k", "Enter")
    page.wait("location.pathname === '/runs/run-b' && document.readyState === 'complete'")
    assert "Killed, after 20 of 40 steps." in page.text("h1")
    # Back at the row that one left.
    page.press("g", "h")
    page.wait("location.pathname === '/' && document.readyState === 'complete'")
    page.value("history.replaceState(null, '', '/')")
    page.wait(f"{AT} === 'run-b'")


def test_a_filter_as_one_types_and_an_address_that_keeps_it(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(address + "/")
    page.press("/")
    page.write("0.0003")  # a value of a setting
    page.wait("document.querySelectorAll('[data-row]').length === 1")
    assert "1 of 4 runs" in page.text("form")
    assert page.value("location.search").startswith("?q=0.0003")
    page.press("Escape", "j")
    assert page.value(AT) == "run-b"
    page.open(page.value("location.href"))
    assert page.value("document.querySelectorAll('[data-row]').length") == 1
    page.open(f"{address}/?q=no-such-run")
    assert "No run has all of these words" in page.text("main")


def test_runs_are_chosen_by_keys_and_shown_over_each_other(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(f"{address}/?sort=run&up=true")
    assert page.value("document.querySelector('[data-chosen]').disabled") is True
    page.press("g", "g", "j", "x", "j", "x", "c")
    page.wait("location.pathname === '/beside' && document.readyState === 'complete'")
    assert page.value("document.querySelectorAll('.chart').length") >= 2
    assert (
        page.value("document.querySelectorAll('.chart')[0].querySelectorAll('.line').length") == 2
    )
    settings = page.text("table.settings")
    assert "train.learning_rate" in settings
    assert "0.0003" in settings
    assert "train.steps" not in settings


def test_the_overlay_lists_the_keys_of_the_page(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(address + "/")
    page.press("?")
    listed = page.text("dialog")
    for words in ("next row", "the chosen runs beside each other", "light, dark", "search"):
        assert words in listed
    page.press("Escape")
    page.wait("!document.querySelector('dialog')")


def test_the_theme_is_the_system_s_until_one_chooses_and_is_remembered(
    looked: tuple[Page, str, Path],
) -> None:
    page, address, _ = looked
    paper = "getComputedStyle(document.body).backgroundColor"
    page.prefers("dark")
    page.open(address + "/")
    dark = page.value(paper)
    page.prefers("light")
    light = page.value(paper)
    assert dark != light
    page.press("t", "t")  # from the system's to light to dark
    assert page.value(paper) == dark
    page.open(f"{address}/runs/run-a")
    assert page.value(paper) == dark
    page.press("t")
    assert page.value(paper) == light


def test_names_of_others_are_text_and_no_page_refuses_its_own(
    looked: tuple[Page, str, Path],
) -> None:
    page, address, folder = looked
    run_dir = folder / "runs" / HOSTILE
    found = Finding(
        "entropy", 3, 10, "warn", HOSTILE, "<script>document.title='taken'</script>", ""
    )
    AlarmLog(run_dir).add([found])
    page.said.clear()
    page.open(address + "/")
    page.press("g", "g", "Enter")  # it begins with <
    page.wait("location.pathname.startsWith('/runs/%3C')")
    page.wait("document.readyState === 'complete' && document.querySelector('.flag')")
    assert "\\u202e" in page.text("header.run"), "a mark that turns the text shows as what it is"
    assert "\u202e" not in page.text()
    assert "<script>" in page.text(".alarms")
    assert "<img src=x" in page.text("dl.facts"), "the name of a model"
    assert page.value("document.title") != "taken"
    assert page.value("document.images.length") == 0
    assert page.value("document.querySelectorAll('script:not([src])').length") == 0
    page.open(f"{address}/beside?run=run-a&run={quote(HOSTILE)}")
    assert "<img src=x" in page.text("table.settings"), "a value of a setting"
    assert page.value("document.images.length") == 0
    assert not page.said, "the policy refused nothing that a page needs"


def test_curves_grow_while_a_run_trains_and_say_when_it_was_killed(
    looked: tuple[Page, str, Path],
) -> None:
    page, address, folder = looked
    run_dir = trained(folder, "at-work", steps=10)
    journal, dots = (
        Journal(run_dir),
        "document.querySelectorAll('[data-grows=accuracy] .dot').length",
    )
    try:
        with at_work(run_dir):
            page.open(f"{address}/runs/at-work")
            assert "Training: 10 of 40 steps." in page.text("h1")
            assert page.value(dots) == 10
            page.value("window.same = document.querySelector('[data-grows=accuracy]')")
            journal.append(Row(10))
            journal.append(Row(11))
            page.wait(f"{dots} === 12")
            assert page.value("window.same.isConnected"), "points are added, the chart is the same"
            line = "document.querySelector('[data-grows=accuracy] .curve').getAttribute('points')"
            grown = page.value(line)
            assert page.text("[data-steps]") == "12"
            # What does not fit the axes, and a checkpoint: then the parts are drawn anew.
            journal.append(Row(12, accuracy=0.9, reward_mean=9.0))
            Ledger(run_dir).append(checkpoint(13, run_config(folder, "at-work").digest()))
            page.wait("document.querySelector('[data-row=\"checkpoint 13\"]')")
            page.wait(f"{dots} === 13")
            # The server's own drawing goes through the same places.
            drawn = page.value(line).split()[:8]
            for ours, theirs in zip(grown.split()[:8], drawn, strict=True):
                assert [float(x) for x in ours.split(",")] == pytest.approx(
                    [float(x) for x in theirs.split(",")], abs=0.11
                )
        page.wait("document.querySelector('.state.killed')")
        assert "Killed, after 13 of 40 steps." in page.text("h1")
    finally:
        shutil.rmtree(run_dir)


def test_a_step_is_drawn_once_whenever_it_came_and_a_page_that_failed_is_asked_for_again(
    looked: tuple[Page, str, Path],
) -> None:
    page, address, folder = looked
    run_dir = trained(folder, "busy", steps=10)
    journal, ledger = Journal(run_dir), Ledger(run_dir)
    digest = run_config(folder, "busy").digest()
    points = "JSON.parse(document.querySelector('[data-grows=accuracy]').dataset.points)"
    try:
        page.open(f"{address}/runs/busy")
        # A busy machine: the page comes when it is let go, and the first time not at all.
        page.value(
            "(() => { const real = window.fetch; window.held = 0; window.fetch = async (to, how) =>"
            " { if (how?.headers) { window.held += 1; await new Promise((go) => { window.go = go; "
            "}); if (window.held === 1) throw new Error('away'); } return real(to, how); } })()"
        )
        journal.append(Row(10))
        ledger.append(checkpoint(11, digest))
        page.wait("window.held === 1")
        page.value("window.go()")
        page.wait("window.held === 2")
        journal.append(Row(11))
        page.value("window.go()")
        page.wait("document.querySelector('[data-row=\"checkpoint 11\"]')")
        page.wait(f"{points}.some(([step]) => step === 11)")
        journal.append(Row(12))
        page.wait(f"{points}.some(([step]) => step === 12)")
        assert page.value(f"{points}.map(([step]) => step)") == list(range(13))
        assert page.value("window.held") == 2, "nothing else has changed since"
    finally:
        shutil.rmtree(run_dir)


def test_the_report_filters_its_gallery_in_these_pages_too_and_is_of_no_origin(
    looked: tuple[Page, str, Path],
) -> None:
    page, address, folder = looked
    run_dir = trained(folder, "reported")
    asked = problems(20)
    for name, accuracy in (("baseline", 0.3), ("final", 0.7)):
        write_evaluation(run_dir / "evaluations" / name, asked, predictions(asked, accuracy, 1))
    write_html(run_dir)
    try:
        page.said.clear()
        page.open(f"{address}/runs/reported/report.html")
        shown = "document.querySelectorAll('.exhibit:not([hidden])').length"
        everything = page.value(shown)
        page.click("#filters button[data-show]:not([data-show=all])")
        page.wait(f"{shown} < {everything}")
        assert page.value("location.hash").startswith("#show=")
        assert page.value("self.origin") == "null"
        assert not [one for one in page.said if "policy" in one.lower()]
    finally:
        shutil.rmtree(run_dir)


@contextmanager
def at_work(run_dir: Path) -> Generator[None]:
    """A process has the run for the block, and is then killed."""
    script = (
        "import sys; from pathlib import Path; from visual_r1.runs.folder import only_process\n"
        "with only_process(Path(sys.argv[1])): print('has it', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        try:
            yield
        finally:
            process.kill()
