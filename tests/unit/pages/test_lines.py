"""The narrow columns that are kept in memory: of the files as they are, in bounded room."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from starlette.testclient import TestClient
from written import rollout_row, stored_problem, write_home, write_rollouts

from visual_r1.pages.app import pages
from visual_r1.pages.lines import SEARCHES, KeptLines, Table
from visual_r1.pages.queries import Vanished, names_of, queries
from visual_r1.pages.rollouts import Asked, Rollouts
from visual_r1.pages.sound import Files, SoundFiles

_COUNT = TypeAdapter(dict[str, int])
_NAMES = TypeAdapter(dict[str, str])


def written(home: Path, steps: Sequence[int], says: str = "seen") -> Files:
    """A run with a rollout a step, in a file."""
    run_dir = home / "runs" / "made-up"
    if not run_dir.exists():
        write_home(home, [stored_problem(0)])
    rows = [rollout_row(step, 0, 0, response=f"{says} {step}") for step in steps]
    write_rollouts(run_dir, 0, rows)
    return SoundFiles().rollouts(run_dir)


def count(table: Table) -> int:
    with queries().session() as session:
        [row] = session.rows(_COUNT, f"SELECT count(*) AS n FROM {table.name}", {})
    return row["n"]


def tables() -> set[str]:
    with queries().session() as session:
        rows = session.rows(_NAMES, "SELECT table_name FROM duckdb_tables()", {})
    return {row["table_name"] for row in rows}


def test_a_state_of_the_files_is_read_once_and_another_one_anew(tmp_path: Path):
    kept = KeptLines()
    with kept.lent(written(tmp_path, range(3))) as first:
        assert first is not None and count(first) == 3
    with kept.lent(SoundFiles().rollouts(tmp_path / "runs" / "made-up")) as again:
        assert again is first
    with kept.lent(written(tmp_path, range(5))) as grown:
        assert grown is not None and count(grown) == 5


def test_who_only_asks_gets_a_table_that_is_there(tmp_path: Path):
    kept, files = KeptLines(), written(tmp_path, range(3))
    with kept.lent(files, makes=False) as first:
        assert first is None
    kept.make_ready(files)
    with kept.lent(files, makes=False) as second:
        assert second is not None and count(second) == 3
    before = tables()
    written(tmp_path, range(4))
    KeptLines().make_ready(files)  # they are gone: whoever asks next is told
    assert tables() == before


def test_the_first_page_is_answered_from_the_files_and_the_next_in_memory(tmp_path: Path):
    written(tmp_path, range(3))
    made = tables()
    with TestClient(pages(tmp_path, "token"), base_url="http://127.0.0.1:4280") as client:
        client.get("/?token=token")
        first, second = (client.get("/runs/made-up/rollouts?sort=reward") for _ in range(2))
    assert first.text == second.text and "seen 2" in first.text
    assert len(tables() - made) == 1


def test_what_was_written_anew_meanwhile_is_no_state_that_was_looked_at(tmp_path: Path):
    kept, before = KeptLines(), tables()
    files = written(tmp_path, range(3))
    written(tmp_path, range(4))
    with pytest.raises(Vanished, match="written anew"), kept.lent(files):
        pass
    assert tables() == before


def test_a_row_that_is_another_one_by_now_is_not_shown_under_its_name(tmp_path: Path):
    files = written(tmp_path, range(3))
    with KeptLines().lent(files) as table, queries().session() as session:
        found = Rollouts(session, files, Asked.of({}), table)
        written(tmp_path, range(3, 9), "unseen")
        with pytest.raises(Vanished, match="written anew"):
            found.page()


def test_the_room_is_bounded_and_who_holds_a_table_keeps_it(tmp_path: Path):
    kept = KeptLines(most=10)
    held, other = (written(tmp_path / name, range(6)) for name in ("a", "b"))
    with kept.lent(held) as first, kept.lent(other) as second:
        assert first is not None and second is not None
        assert count(first) == count(second) == 6
    with kept.lent(written(tmp_path / "c", range(6))):
        assert {first.name, second.name}.isdisjoint(tables())
    with kept.lent(written(tmp_path / "d", range(11))) as too_many:
        assert too_many is None


def test_a_text_is_looked_for_once_and_so_many_searches_are_kept(tmp_path: Path):
    files = written(tmp_path, range(3))
    values = {"files": names_of(files.paths)}
    kept = KeptLines()
    with kept.lent(files) as table, queries().session() as session:
        assert table is not None
        first = table.found(session, "seen 1", values | {"pattern": "seen 1"})
        assert table.found(session, "seen 1", values | {"pattern": "seen 1"}) == first
        [row] = session.rows(_COUNT, f"SELECT place FROM {first}", {})
        assert row["place"] == 1
        with kept.lent(files):  # by whom the first one may be read
            names = [table.found(session, str(at), values | {"pattern": ""}) for at in range(20)]
            assert {first, *names} <= tables()
        last = table.found(session, "last", values | {"pattern": ""})
        assert len({first, *names, last} & tables()) == SEARCHES
