"""Rollouts asked by an address: filters, counts, pages, and files that come, go and are damaged."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from written import RUN, damage, rollout_row, stored_problem, write_home, write_rollouts

from visual_r1.errors import DataError
from visual_r1.pages.lines import KeptLines
from visual_r1.pages.queries import Session, queries
from visual_r1.pages.rollouts import PAGE, Asked, Rollouts
from visual_r1.pages.samples import GroupPlace, group_samples, neighbours, problem_samples
from visual_r1.pages.sound import SoundFiles
from visual_r1.runs.folder import only_process
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger
from visual_r1.tables import pa, pq

STEPS, GROUPS, SAMPLES = 12, 3, 4


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = write_home(tmp_path, [stored_problem(0)])
    for chunk in range(3):
        steps = range(4 * chunk, 4 * chunk + 4)
        write_rollouts(
            run_dir,
            chunk,
            [
                rollout_row(
                    step,
                    group,
                    sample,
                    stop_reason="length" if sample == 3 else "stop",
                    outcome="both" if sample % 2 == 0 else "neither",
                    reward=None if (step, sample) == (11, 3) else 1.5 if sample % 2 == 0 else 0.5,
                )
                for step in steps
                for group in range(GROUPS)
                for sample in range(SAMPLES)
            ],
        )
    return run_dir


@pytest.fixture
def session() -> Iterator[Session]:
    with queries().session() as one:
        yield one


def asked(run_dir: Path, **query: str) -> tuple[list[tuple[int, int, int]], Any]:
    """What is found, by the lines in memory: the files say the same."""
    files, answers = SoundFiles().rollouts(run_dir), []
    for kept in (KeptLines(), KeptLines(most=0)):
        with kept.lent(files) as table, queries().session() as session:
            found = Rollouts(session, files, Asked.of(query), table)
            lines = [replace(line, place=0) for line in found.page().lines]
            answers.append((lines, found.counts()))
    assert answers[0] == answers[1]
    lines, counts = answers[0]
    return [(one.step, one.group, one.sample) for one in lines], counts


class Place(NamedTuple):
    step: int
    group: int
    sample: int


ALL = [Place(s, g, n) for s in range(STEPS) for g in range(GROUPS) for n in range(SAMPLES)]


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ({}, lambda _: True),
        ({"step_from": "3", "step_to": "5"}, lambda at: 3 <= at.step <= 5),
        ({"step": "7"}, lambda at: at.step == 7),
        ({"verdict": "wrong"}, lambda at: at.sample % 2 == 1),
        ({"outcome": "both"}, lambda at: at.sample % 2 == 0),
        ({"cut": "yes"}, lambda at: at.sample == 3),
        ({"cut": "no"}, lambda at: at.sample != 3),
        ({"problem": "set/2"}, lambda at: at.group == 2),
        ({"reward_to": "1"}, lambda at: at.sample % 2 == 1 and (at.step, at.sample) != (11, 3)),
        ({"component": "accuracy", "component_from": "0.5"}, lambda at: at.sample % 2 == 0),
        ({"text": "180-118=63"}, lambda at: at.sample == 3),
        ({"text": "<ANSWER>63"}, lambda at: at.sample == 3),
        ({"text": "=6[13]\\.", "how": "regex"}, lambda at: at.sample in (1, 3)),
        ({"text": "=6[13]\\."}, lambda _: False),
        ({"text": "' OR true --"}, lambda _: False),
        ({"verdict": "right", "step": "2", "problem": "set/1"},
         lambda at: (at.step, at.group) == (2, 1) and at.sample % 2 == 0),
    ],
)  # fmt: skip
def test_a_filter_finds_what_it_says_and_counts_it(run_dir: Path, query: Any, holds: Any):
    expected = [one for one in ALL if holds(one)]
    found, counts = asked(run_dir, **query)
    newest_first = sorted(expected, key=lambda at: (-at.step, at.group, at.sample))
    assert found == newest_first[:PAGE]
    assert counts.n == len(expected)


def test_the_counts_of_a_field_are_of_what_the_others_ask_for(run_dir: Path):
    _, counts = asked(run_dir, verdict="wrong", cut="no")
    assert counts.n == STEPS * GROUPS
    assert counts.verdict == {"right": 2 * STEPS * GROUPS, "wrong": STEPS * GROUPS}
    assert counts.cut == {"yes": STEPS * GROUPS, "no": STEPS * GROUPS}
    assert [one.n for one in counts.steps] == [GROUPS] * STEPS
    assert counts.means == {"accuracy": 0.0, "format": 1.0}


@pytest.mark.parametrize(
    "sort",
    ["newest", "oldest", "reward", "-reward", "advantage", "-advantage", "tokens", "-tokens"],
)
def test_pages_hold_each_rollout_once_there_and_back(run_dir: Path, sort: str):
    files = SoundFiles().rollouts(run_dir)
    kept = KeptLines()

    def page(**at: str) -> Any:
        with kept.lent(files) as table, queries().session() as session:
            return Rollouts(session, files, Asked.of({"sort": sort, **at}), table).page()

    pages = [page()]
    assert pages[0].before is None
    while pages[-1].after is not None:
        pages.append(page(after=pages[-1].after))
    seen = [(one.step, one.group, one.sample) for found in pages for one in found.lines]
    assert sorted(seen) == ALL
    for before, after in pairwise(pages):
        assert page(before=after.before).lines == before.lines


def test_what_has_no_reward_stands_last(run_dir: Path):
    for sort in ("reward", "-reward"):
        files = SoundFiles().rollouts(run_dir)
        with queries().session() as session:
            found = Rollouts(session, files, Asked.of({"sort": sort, "step": "11"})).page()
        assert [one.reward for one in found.lines][-GROUPS:] == [None] * GROUPS


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"verdict": "maybe"}, "verdict"),
        ({"step_from": "-1"}, "step_from"),
        ({"sort": "step; DROP TABLE"}, "sort"),
        ({"text": "x" * 201}, "text"),
        ({"text": "(", "how": "regex"}, "no regular expression"),
        ({"text": "(?<=a)b", "how": "regex"}, "no regular expression"),
        ({"component": "beauty", "component_from": "1"}, "no component 'beauty'.*: there"),
        ({"after": "1,2"}, "take after and before out"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_a_sentence(run_dir: Path, query: Any, says: str):
    with pytest.raises(DataError, match=says):
        asked(run_dir, **query)


def test_a_costly_expression_ends(run_dir: Path):
    """RE2 is linear: what hangs a backtracking engine is answered at once."""
    write_rollouts(run_dir, 3, [rollout_row(12, 0, 0, response="a" * 100_000)])
    found, _ = asked(run_dir, text="(a+)+(a+)+$b", how="regex")
    assert found == []


def test_a_group_has_its_neighbours_across_steps(run_dir: Path, session: Session):
    files = SoundFiles().rollouts(run_dir)
    samples = group_samples(session, files, GroupPlace(3, 2))
    assert [(one.step, one.group, one.sample) for one in samples] == [(3, 2, n) for n in range(4)]
    assert samples[0].components == {"accuracy": 1.0, "format": 1.0}
    assert neighbours(session, files, GroupPlace(3, 2)) == (GroupPlace(3, 1), GroupPlace(4, 0))
    assert neighbours(session, files, GroupPlace(0, 0))[0] is None
    assert neighbours(session, files, GroupPlace(11, 2))[1] is None
    assert len(problem_samples(session, files, "set/1")) == STEPS * SAMPLES


def test_a_damaged_file_is_named_and_left_out_and_a_new_one_seen(run_dir: Path):
    sound = SoundFiles()
    assert len(sound.rollouts(run_dir).paths) == 3
    damage(run_dir / "rollouts" / "chunk-00001.parquet")
    files = sound.rollouts(run_dir)
    assert [path.name for path in files.paths] == ["chunk-00000.parquet", "chunk-00002.parquet"]
    [fault] = files.faults
    assert "chunk-00001.parquet" in fault and "left out" in fault
    write_rollouts(run_dir, 3, [rollout_row(12, 0, 0)])
    write_rollouts(run_dir, 1, [rollout_row(4, 0, 0)])
    files = sound.rollouts(run_dir)
    assert len(files.paths) == 4 and not files.faults
    shutil.rmtree(run_dir / "rollouts")
    assert sound.rollouts(run_dir).paths == ()


def test_a_file_that_the_ledger_vouches_for_is_held_against_it(run_dir: Path):
    """Rows that can be read and are others than those that were written."""
    path = run_dir / "rollouts" / "chunk-00000.parquet"
    ledger = Ledger(run_dir)
    row = ledger.rows()[-1]
    digests = Journal(run_dir).rollouts_digest(path)
    ledger.append(type(row)(**{**_fields(row), "step": 4, "digests": digests}))
    assert not SoundFiles().rollouts(run_dir).faults
    table = pq.read_table(path)
    others = table.set_column(5, "reward", pa.array([9.0] * table.num_rows))
    pq.write_table(others, path)
    after = ledger.path.stat().st_mtime_ns
    # As a disk that lost bits would leave it: not written since.
    os.utime(path, ns=(after - 10**9, after - 10**9))
    [fault] = SoundFiles().rollouts(run_dir).faults
    assert "its rows have the digest" in fault
    # As somebody who wrote it since; while the run is at work it may be a chunk whose row is still
    # to come, and that row says.
    os.utime(path, ns=(after + 10**9, after + 10**9))
    sound = SoundFiles()
    with only_process(run_dir):
        assert not sound.rollouts(run_dir).faults
    assert "its rows have the digest" in sound.rollouts(run_dir).faults[0]
    with only_process(run_dir):
        assert not sound.rollouts(run_dir).faults
        digests = Journal(run_dir).rollouts_digest(path)
        ledger.append(type(row)(**{**_fields(row), "step": 5, "digests": digests}))
        os.utime(path, ns=(after, after))
    assert not sound.rollouts(run_dir).faults
    # A chunk that was broken off has rows behind the newest checkpoint.
    more = pa.Table.from_pylist([{**others.to_pylist()[0], "step": 6}], schema=others.schema)
    pq.write_table(pa.concat_tables([others, more]), path)
    assert not sound.rollouts(run_dir).faults


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def test_another_file_of_parquet_is_no_rollouts(run_dir: Path):
    path = run_dir / "rollouts" / "chunk-00003.parquet"
    pq.write_table(pa.table({"step": ["one"], "problem_id": ["x"]}), path)
    [fault] = SoundFiles().rollouts(run_dir).faults
    assert "has no column 'group'" in fault
    rows = [{**rollout_row(0, 0, 0), "step": "first"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    [fault] = SoundFiles().rollouts(run_dir).faults
    assert "where whole numbers belong" in fault


def test_files_of_older_versions_have_fewer_columns(run_dir: Path, session: Session):
    old = {"step": 20, "problem_id": "set/0", "group": 0, "sample": 0, "response": "5"}
    shutil.rmtree(run_dir / "rollouts")
    (run_dir / "rollouts").mkdir()
    pq.write_table(pa.Table.from_pylist([old]), run_dir / "rollouts" / "chunk-00000.parquet")
    found, counts = asked(run_dir)
    assert found == [(20, 0, 0)] and counts.n == 1 and counts.verdict == {}
    [sample] = group_samples(session, SoundFiles().rollouts(run_dir), GroupPlace(20, 0))
    assert sample.reward is None and sample.components == {}
    write_rollouts(run_dir, 1, [rollout_row(21, 0, 0)])
    assert asked(run_dir, verdict="right")[0] == [(21, 0, 0)]


def test_a_folder_whose_name_is_a_pattern_is_itself(tmp_path: Path):
    first = write_home(tmp_path / "run[1]", [stored_problem(0)])
    other = write_home(tmp_path / "run1", [stored_problem(0)])
    write_rollouts(first, 0, [rollout_row(1, 0, 0)])
    write_rollouts(other, 0, [rollout_row(2, 0, 0)])
    assert asked(first)[0] == [(1, 0, 0)]
    assert first.name == RUN
