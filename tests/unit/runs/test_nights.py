"""Which run a start means: `{date}`, `{n}`, and so many steps more."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from visual_r1.config import RunConfig
from visual_r1.config.overrides import with_overrides
from visual_r1.errors import RunError
from visual_r1.runs import nights
from visual_r1.runs.budget import BudgetEnd, note_budget_end
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.nights import STARTS, begun, newest_of_its_name
from visual_r1.storage import write_json

EVENING = datetime(2026, 3, 1, 23, 50, tzinfo=UTC)
MORNING = EVENING + timedelta(hours=1)


@pytest.fixture(autouse=True)
def other_processes() -> Iterator[None]:
    """Each start of these tests is a process of its own: nothing is held from one to the next."""
    yield
    leave()


def leave() -> None:
    for lock in nights._claims.values():
        lock.release()
    nights._claims.clear()


def config(folder: Path, name: str | None = None, **changes: object) -> RunConfig:
    named = {"run.name": name, "train.steps": 10, "output_dir": str(folder)}
    return with_overrides(
        "quickstart", named | {key.replace("__", "."): value for key, value in changes.items()}
    )


def ledger_row(step: int) -> dict[str, object]:
    return {
        "step": step, "state_path": "tinker://a", "sampler_path": "tinker://b", "expires_at": None,
        "config_digest": "c", "dataset_digest": "d", "backend": "embedded",
        "created_at": "2026-03-01T12:00:00+00:00", "updates": step,
    }  # fmt: skip


def work(started: RunConfig, until: int | None = None) -> str:
    """Do what a run does, to its end or killed at a step; its name."""
    with open_run_folder(started) as run_dir:
        step = until or started.train.steps
        (run_dir / "ledger.jsonl").write_text(json.dumps(ledger_row(step)) + "\n")
        if until is None:
            write_json(run_dir / "summary.json", {"steps": step})
    leave()
    return run_dir.name


def test_a_run_without_either_is_as_it_was(tmp_path: Path) -> None:
    plain = config(tmp_path, "mine")
    assert begun(plain) is plain
    assert list(tmp_path.iterdir()) == []


def test_a_night_each_day_in_utc(tmp_path: Path) -> None:
    nightly = config(tmp_path, "night-{date}")
    assert work(begun(nightly, when=EVENING)) == "night-2026-03-01"
    assert work(begun(nightly, when=EVENING + timedelta(minutes=5))) == "night-2026-03-01"
    in_berlin = EVENING.astimezone(timezone(timedelta(hours=1)))  # where it is March 2 already
    assert begun(nightly, when=in_berlin).run_name == "night-2026-03-01"
    assert work(begun(nightly, when=MORNING)) == "night-2026-03-02"


def test_a_run_that_its_budget_ended_is_finished_until_the_budget_is_another(
    tmp_path: Path,
) -> None:
    numbered = config(tmp_path, "paid-{n}", limits__budget_tokens=1000)
    first = begun(numbered)
    assert work(first, until=4) == "paid-1"
    write_json(first.run_dir / "summary.json", {"steps": 4})
    assert begun(numbered).run_name == "paid-1"  # nothing says that a budget ended it
    leave()
    note_budget_end(
        first.run_dir, BudgetEnd("limits.budget_tokens", 1000, 4, 10, 900.0, 90.0, 20.0)
    )
    richer = config(tmp_path, "paid-{n}", limits__budget_tokens=5000)
    assert begun(richer).run_name == "paid-1"
    leave()
    assert begun(numbered).run_name == "paid-2"


def test_the_next_number_that_is_free(tmp_path: Path) -> None:
    numbered = config(tmp_path, "seed-{n}")
    assert [work(begun(numbered)) for _ in range(3)] == ["seed-1", "seed-2", "seed-3"]
    (tmp_path / "runs" / "seed-11").mkdir()
    assert work(begun(numbered)) == "seed-12"
    both = config(tmp_path, "{date}.{n}")
    assert [work(begun(both, when=EVENING)) for _ in range(2)] == ["2026-03-01.1", "2026-03-01.2"]
    assert work(begun(both, when=MORNING)) == "2026-03-02.1"


def test_a_night_that_was_killed_goes_on_also_after_midnight(tmp_path: Path) -> None:
    nightly = config(tmp_path, "night-{date}-{n}")
    work(begun(nightly, "first", EVENING), until=4)
    again = begun(nightly, "another", MORNING)
    assert again.run_name == "night-2026-03-01-1"
    work(again)
    assert begun(nightly, "a third", MORNING).run_name == "night-2026-03-02-1"


def test_one_that_never_ends_is_left_as_the_sentence_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nightly = config(tmp_path, "night-{date}")
    work(begun(nightly, "first", EVENING), until=4)
    begun(nightly, "another", MORNING)
    leave()
    folder = tmp_path / "runs/night-2026-03-01"
    assert f"(it has 4 steps). Where it never will be, give its folder {folder}" in caplog.text
    folder.rename(folder.with_name(f"failed-{folder.name}"))
    assert begun(nightly, "a third", MORNING).run_name == "night-2026-03-02"


def test_one_that_was_killed_before_it_wrote_anything_goes_on(tmp_path: Path) -> None:
    numbered = config(tmp_path, "seed-{n}")
    begun(numbered, "first")
    leave()
    assert begun(numbered, "second").run_name == "seed-1"


def test_a_start_that_is_tried_again_finds_its_own_run_though_it_is_finished(
    tmp_path: Path,
) -> None:
    numbered = config(tmp_path, "seed-{n}")
    work(begun(numbered, "first"))
    work(begun(numbered, "second"))
    assert begun(numbered, "first").run_name == "seed-1"


def test_an_unfinished_run_of_another_configuration_is_left_alone(tmp_path: Path) -> None:
    work(begun(config(tmp_path, "seed-{n}"), "first"), until=4)
    other = config(tmp_path, "seed-{n}", train__learning_rate=0.5)
    assert begun(other, "second").run_name == "seed-2"


HOLD = """
import sys
from visual_r1.config.overrides import with_overrides
from visual_r1.runs.nights import begun
values = {"run.name": "seed-{n}", "train.steps": 10, "output_dir": sys.argv[1]}
print(begun(with_overrides("quickstart", values), sys.argv[2]).run_name, flush=True)
sys.stdin.read()
"""


def test_two_at_once_get_two_runs_and_the_one_that_dies_is_gone_on_with(tmp_path: Path) -> None:
    def hold(who: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), who],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    with hold("first") as first, hold("second") as second:
        names = [process.stdout.readline().strip() for process in (first, second) if process.stdout]
        assert sorted(names) == ["seed-1", "seed-2"]
        first.kill()
        first.wait()
        numbered = config(tmp_path, "seed-{n}")
        assert begun(numbered, "third").run_name == names[0]
        second.kill()


def steps_of(started: RunConfig) -> int:
    assert started.train.more_steps is None
    return started.train.steps


def test_so_many_steps_more_each_night(tmp_path: Path) -> None:
    nightly = config(tmp_path, "mine", train__more_steps=20)
    for night, goal in enumerate((20, 40, 60)):
        started = begun(nightly, f"night {night}")
        assert steps_of(started) == goal
        work(started)


@pytest.mark.parametrize("again", ["first", "another", None])
def test_a_night_that_was_killed_is_finished_and_adds_no_steps_twice(
    tmp_path: Path, again: str | None
) -> None:
    nightly = config(tmp_path, "mine", train__more_steps=20)
    work(begun(nightly, "zeroth"))
    work(begun(nightly, "first"), until=25)
    assert steps_of(begun(nightly, again)) == 40


def test_a_start_that_is_tried_again_when_it_is_done_adds_nothing(tmp_path: Path) -> None:
    nightly = config(tmp_path, "mine", train__more_steps=20)
    work(begun(nightly, "first"))
    assert steps_of(begun(nightly, "first")) == 20
    work(begun(nightly, "second"))
    assert steps_of(begun(nightly, "first")) == 40  # what the run has: nothing is left to do


def test_a_night_whose_last_evaluation_is_missing_is_finished_first(tmp_path: Path) -> None:
    nightly = config(tmp_path, "mine", train__more_steps=20)
    work(begun(nightly, "first"), until=20)
    assert steps_of(begun(nightly, "second")) == 20


def test_another_number_of_steps_counts_from_where_the_run_is(tmp_path: Path) -> None:
    work(begun(config(tmp_path, "mine", train__more_steps=20), "first"), until=5)
    assert steps_of(begun(config(tmp_path, "mine", train__more_steps=3), "second")) == 8


def test_a_run_that_was_there_before_is_gone_on_with(tmp_path: Path) -> None:
    work(config(tmp_path, "mine"))
    assert steps_of(begun(config(tmp_path, "mine", train__more_steps=5))) == 15


def test_how_many_more_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    assert config(tmp_path, train__more_steps=5).digest() == config(tmp_path).digest()


def test_what_is_damaged_is_said_and_nothing_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nightly = config(tmp_path, "mine", train__more_steps=20)
    work(begun(nightly, "first"))
    starts = tmp_path / "runs" / "mine" / STARTS
    starts.write_text(starts.read_text().replace("first", "worst"))
    assert steps_of(begun(nightly, "second")) == 40
    assert "is damaged" in caplog.text


def test_looking_at_a_run_means_the_newest_of_that_name(tmp_path: Path) -> None:
    numbered = config(tmp_path, "seed-{n}")
    with pytest.raises(RunError, match=r"no run named seed-\{n\} in .* yet"):
        newest_of_its_name(numbered)
    for _ in range(10):
        work(begun(numbered))
    assert newest_of_its_name(numbered).run_name == "seed-10"
    assert newest_of_its_name(config(tmp_path, "mine")).run_name == "mine"
