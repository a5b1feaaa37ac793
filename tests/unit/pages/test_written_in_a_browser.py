"""What a policy wrote, in a real browser: filter, group, keys, a decision, hostile responses."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from looked_at import looking, run_config
from made_up import predictions, problems, write_evaluation
from written import (
    HOSTILE,
    RUN,
    as_text,
    damage,
    rollout_row,
    stored_problem,
    write_home,
    write_rollouts,
)

from trials.browser import Page, program
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.runs.decisions import read_decisions
from visual_r1.runs.folder import config_without_secrets

pytestmark = pytest.mark.skipif(
    program() is None, reason="chromium is not installed: apt-get install chromium"
)

AT = "document.querySelector('[data-row].at')?.dataset.row ?? ''"
READY = "document.readyState === 'complete'"
SCAN = "<scan>angle A reads 74, angle B reads 44, 74 + 44 = 118.</scan>"
READ = "angle A reads 74, angle B reads 44, 74 + 44 = [masked]."


def rows() -> list[dict[str, Any]]:
    """Six steps of four groups; of each, set/0 to set/3. set/3 is answered against its label."""
    found: list[dict[str, Any]] = []
    for step in range(6):
        for group in range(4):
            for sample in range(4):
                changes: dict[str, Any] = {}
                if group == 3:
                    changes = {
                        "response": "<think>180-118=60.</think><answer>60</answer>",
                        "verdict": "wrong",
                    }
                if group == 2:
                    changes = {
                        "response": f"{SCAN}<think>180-118=62</think><answer>62</answer>",
                        "verdict": "right",
                        "outcome": "both",
                        "second_verdict": "right",
                        "scan_read": READ,
                        "second_response": "<answer>62</answer>",
                    }
                found.append(rollout_row(step, group, sample, **changes))
    found += [
        rollout_row(6, 0, sample, response=text, verdict="wrong", scan_read=text,
                    second_verdict="wrong", second_response=text, reason=text)
        for sample, text in enumerate(HOSTILE.values())
    ]  # fmt: skip
    return found


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str, Path]]:
    home = tmp_path_factory.mktemp("written")
    hostile = stored_problem(0, problem=f"<image>{HOSTILE['a script']}{HOSTILE['marks'][:20]}")
    problems_of_run = [hostile, *(stored_problem(index) for index in range(1, 24))]
    config = run_config(home, RUN)
    run_dir = write_home(home, problems_of_run, config_without_secrets(config), config.digest())
    write_rollouts(run_dir, 0, rows())
    of = problems(60)
    for name, accuracy, seed in (("baseline", 0.3, 1), ("final", 0.8, 2)):
        made = predictions(of, accuracy, seed)
        write_evaluation(evaluation_folder(run_dir, name), of, made)
    with ExitStack() as stack:
        page, address = stack.enter_context(looking(home, home / "browser"))
        yield page, f"{address}/runs/{RUN}", home


def at(page: Page, path: str) -> None:
    page.wait(f"(location.pathname + location.search).includes({as_text(path)}) && {READY}")


def test_a_filter_is_written_sent_and_kept_in_the_address(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(f"{address}/rollouts")
    assert "102 rollouts" in page.text(".found")
    page.press("/")
    page.write("180-118=63")
    page.press("Enter")
    at(page, "?text=180-118%3D63")
    assert "12 rollouts" in page.text(".found")
    assert page.value("document.querySelector('mark').textContent") == "180-118=63"
    assert page.value("location.search") == "?text=180-118%3D63", "no empty field is sent"
    page.click(".facet a")  # the verdict
    at(page, "verdict=wrong")
    assert page.value("location.search") == "?verdict=wrong&text=180-118%3D63"
    page.press("c")
    page.wait(f"location.search === '' && {READY}")
    page.open(f"{address}/rollouts?how=regex&text=(")
    assert "no regular expression" in page.text("main")


def test_rows_by_key_into_a_group_through_groups_and_back(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(f"{address}/rollouts?step=2")
    page.press("g", "g", "j", "j")
    assert page.value(AT) == "2-0-2"
    page.press("Enter")
    at(page, "/group?step=2&group=0")
    assert page.value(AT) == "2-0-2", "at the sample that was opened"
    assert "2 of 4 right" in page.text(".summed")
    page.wait("document.images.length && [...document.images].every(one => one.naturalWidth > 0)")
    page.press("k")
    assert page.value("location.hash") == "#sample-1"
    page.press("l")
    at(page, "step=2&group=1")
    page.press("h")
    at(page, "step=2&group=0")
    page.press("h")
    at(page, "step=1&group=3")
    page.press("p")
    at(page, "/problem?id=set%2F3")
    assert "0 of 24 samples right" in page.text("h1")
    assert "60" in page.text(".answers") and page.value("document.querySelector('.chart') !== null")
    page.press("u")
    at(page, "/rollouts")


def test_a_group_says_what_was_masked_and_why(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(f"{address}/group?step=2&group=2")
    assert page.value("document.querySelectorAll('.second').length") == 4
    assert page.text("del.masked") == "118"
    assert page.text("small.why") == "a result and unstated"
    answer = page.value("document.querySelector('.second .answer:not(.at)').textContent")
    assert answer == "62", "what the second pass answered"
    assert page.text(".response .boxed") == ""


@pytest.mark.parametrize("where", ["group", "rollouts", "problem"])
def test_what_models_wrote_stays_text(looked: tuple[Page, str, Path], where: str) -> None:
    page, address, _ = looked
    page.said.clear()
    paths = {
        "group": "group?step=6&group=0",
        "rollouts": "rollouts?step=6",
        "problem": "problem?id=set/0",
    }
    page.open(f"{address}/{paths[where]}")
    assert "taken" not in page.value("document.title")
    inside = (
        "document.querySelectorAll('main script, main style, main img:not(.figure img)').length"
    )
    assert page.value(inside) == 0
    assert page.value(
        "[...document.querySelectorAll('bdi')].every(one => !one.querySelector('h1'))"
    )
    shown = page.value("document.querySelector('main').textContent")
    for text in ("onerror=", "<script>", "{{ 7 * 7 }}"):
        assert text in shown
    assert not any(sign in shown for sign in "\u202e\u2066\u200b\ufeff\u2028\x00")
    assert page.said == [], "nothing was tried that the policy of the page refuses"
    if where == "group":
        assert "U+202E" in shown and "U+200B" in shown
        # The long one is folded, and unfolds.
        folded = "#sample-5 details.rest"
        hidden = page.value(f"document.querySelector('{folded} bdi').checkVisibility()")
        assert hidden is False
        page.value(f"document.querySelector('{folded} summary').click()")
        assert page.value(f"document.querySelector('{folded} bdi').checkVisibility()")


def test_won_and_lost_as_a_gallery_with_both_answers(looked: tuple[Page, str, Path]) -> None:
    page, address, _ = looked
    page.open(f"{address}/evaluations")
    page.press("c")
    at(page, f"/compare?a={RUN}%2Fbaseline&b={RUN}%2Ffinal")
    assert "points better" in page.text("h1")
    won = int(page.text(".choice [aria-current] .soft"))
    assert page.value("document.querySelectorAll('.duel').length") == min(won, 24)
    assert page.value("document.querySelectorAll('.duel .side').length") == 2 * min(won, 24)
    wrong_then_right = (
        "[...document.querySelectorAll('.duel')].every(one => "
        "one.querySelectorAll('.side')[0].matches('.wrong') && "
        "one.querySelectorAll('.side')[1].matches('.right'))"
    )
    assert page.value(wrong_then_right)
    page.press("2")
    at(page, "fate=lost")
    page.value("document.querySelector('select[name=family]').value = 'pythagoras'")
    page.value("document.querySelector('select[name=family]').dispatchEvent(new Event('change'))")
    at(page, "family=pythagoras")
    assert "pythagoras alone" in page.text(".kicker")
    page.open(f"{address}/evaluations/final?kind=wrong")
    page.press("j", "Enter")
    at(page, "/problem?id=test-")
    assert "Never trained on" in page.text("h1")


def test_a_label_is_decided_and_undone_by_key(looked: tuple[Page, str, Path]) -> None:
    page, address, home = looked
    page.open(f"{address}/disputes")
    page.wait(f"!document.querySelector('[data-searching]') && {READY}")
    first = page.value("document.querySelector('.dispute').dataset.row")
    page.press("j")
    assert page.value(AT) == first
    told = page.text(".dispute.at")
    page.press("o")
    page.wait(f"document.querySelector('.dispute.decided') && {READY}")
    [made] = read_decisions(home).rows
    assert (made.content, made.decision, made.problem_id) == (first, "other", "set/3")
    assert made.answer == "60" and "24 of 24" in told
    page.wait(f"{AT} !== ''")
    while page.value(AT) != first:
        page.press("k")
    page.press("u")
    page.wait(f"!document.querySelector('.dispute.decided') && {READY}")
    assert [one.decision for one in read_decisions(home).rows] == ["other", "withdrawn"]
    page.press("d")
    page.wait(f"document.querySelector('.dispute.decided') && {READY}")
    assert read_decisions(home).rows[-1].decision == "drop"


def test_a_damaged_file_is_said_and_the_rest_is_shown(looked: tuple[Page, str, Path]) -> None:
    page, address, home = looked
    path = write_rollouts(home / "runs" / RUN, 1, [rollout_row(7, 0, 0), rollout_row(7, 0, 1)])
    page.open(f"{address}/rollouts")
    assert "104 rollouts" in page.text(".found")
    damage(path)
    page.open(f"{address}/rollouts")
    assert "chunk-00001.parquet" in page.text(".faults") and "102 rollouts" in page.text(".found")
    path.unlink()
