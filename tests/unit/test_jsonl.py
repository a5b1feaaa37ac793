"""The one rule for rows in files: which lines count, and what becomes of the others."""

import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from visual_r1.errors import StorageError
from visual_r1.jsonl import JsonLines


@dataclass(frozen=True, slots=True)
class Fruit:
    step: int
    name: str
    weights: tuple[float, float] = (0.0, 1.0)
    price: float | None = None


def fruits(folder: Path) -> JsonLines[Fruit]:
    return JsonLines(folder / "fruits.jsonl", TypeAdapter(Fruit))


@pytest.fixture
def file(tmp_path: Path) -> JsonLines[Fruit]:
    made = fruits(tmp_path)
    made.write([made.line(Fruit(step, "apple")) for step in (1, 2, 3)])
    return made


DAMAGED = [
    b'{"step": 4, "na',
    b'{"step": 4}',
    b'{"step": "4", "name": "pear"}',
    b'{"step": true, "name": "pear"}',
    b'{"step": 4.0, "name": "pear"}',
    b'{"step": 4, "name": "pear", "weights": [1]}',
    b'{"step": 4, "name": "pear", "colour": "of a newer version"}',
    b'{"step": 4, "name": "p\xffar"}',  # a byte that changed is no other letter
    b"[]",
    b"null",
    b"\0\0\0",
]


def test_rows_come_back_as_they_were_written(file: JsonLines[Fruit]) -> None:
    assert file.rows() == [Fruit(step, "apple") for step in (1, 2, 3)]
    file.append(Fruit(4, "pear\u2028", (0.1, 2), 1e-300))
    file.flush()
    assert file.rows()[-1] == Fruit(4, "pear\u2028", (0.1, 2.0), 1e-300)
    assert file.path.read_bytes().count(b"\n") == 4


def test_a_file_that_is_not_there_has_no_rows_and_is_not_made(tmp_path: Path) -> None:
    file = fruits(tmp_path)
    assert file.rows() == []
    file.keep(lambda _: False)
    file.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_field_that_an_earlier_version_did_not_have_has_its_default(tmp_path: Path) -> None:
    file = fruits(tmp_path)
    file.path.write_text('{"name": "apple", "step": 1}\n')
    assert file.rows() == [Fruit(1, "apple")]


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_line_is_never_used_and_never_lost(
    file: JsonLines[Fruit], text: bytes, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    lines = file.path.read_bytes().splitlines()
    lines.insert(place, text)
    before = b"\n".join(lines)  # the last one broke off before its end
    file.path.write_bytes(before)
    assert file.rows() == [Fruit(step, "apple") for step in (1, 2, 3)]
    assert file.read()[1] == {place + 1: text}
    assert file.path.read_bytes() == before  # reading changes nothing
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        file.keep(lambda _: True)
    assert file.path.read_bytes().splitlines() == [line for line in lines if line != text]
    assert file.set_aside_path.read_bytes() == text + b"\n"
    assert "1 damaged row(s) of" in caplog.text
    assert "moved to fruits.set-aside.jsonl" in caplog.text


def test_a_row_that_stays_keeps_its_line_to_the_byte(file: JsonLines[Fruit]) -> None:
    by_hand = b'{ "name":"apple",\t"step":9, "weights": [0, 1], "price": 1 }'
    file.path.write_bytes(by_hand + b"\r\n\n" + b'{"step": 10, "name": "pear"}\n')
    file.append(Fruit(11, "pear"))
    file.keep(lambda row: row.step != 10)
    assert file.path.read_bytes().splitlines()[0] == by_hand
    assert [row.step for row in file.rows()] == [9, 11]


def test_what_no_longer_counts_is_set_aside_once_and_without_a_word(
    file: JsonLines[Fruit], caplog: pytest.LogCaptureFixture
) -> None:
    before = file.path.read_bytes()
    for _ in range(2):
        file.keep(lambda row: row.step == 1)
        aside = file.set_aside_path.read_bytes()
        assert aside.splitlines() == before.splitlines()[1:]
        file.path.write_bytes(before)  # as if it had been killed before the second file
    assert not caplog.records


def test_a_newer_form_of_a_row_takes_its_place(file: JsonLines[Fruit]) -> None:
    second = file.read()[0][1]
    file.replace(second, Fruit(2, "apple", price=3.5))
    assert [row.price for row in file.rows()] == [None, 3.5, None]
    assert not file.set_aside_path.exists()


def test_nothing_is_written_where_nothing_changes(file: JsonLines[Fruit]) -> None:
    stamp = file.path.stat().st_mtime_ns
    file.keep(lambda _: True)
    assert file.path.stat().st_mtime_ns == stamp


def test_a_full_disk_leaves_what_was_there(
    file: JsonLines[Fruit], full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = file.path.read_bytes()
    with full_disk(len(before)):
        with pytest.raises(StorageError, match=r"could not write .*fruits"):
            file.write([*file.read()[0], file.line(Fruit(4, "pear"))])
        with pytest.raises(StorageError, match=r"could not write .*fruits"):
            file.append(Fruit(4, "pear"))
    assert file.path.read_bytes() == before


def changed(file: JsonLines[Fruit], *texts: bytes) -> None:
    file.path.write_bytes(b"".join(text + b"\n" for text in texts))


def test_a_row_that_changed_is_damaged_though_it_can_be_read(file: JsonLines[Fruit]) -> None:
    first, second, third = file.path.read_bytes().splitlines()
    changed(file, first, second.replace(b"apple", b"appla"), third)
    found = file.read()
    assert [line.row.step for line in found.sound] == [1, 3]
    assert list(found.damaged) == [2]
    assert not found.gaps  # one fault is said once


def test_rows_that_are_missing_doubled_or_moved_are_found(
    file: JsonLines[Fruit], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = file.path.read_bytes().splitlines()
    for texts, gaps, doubled in (
        ((first, third), [2], []),
        ((second, third), [1], []),
        ((first, third, second), [2, 3], []),
        ((first, second, second, third), [], [3]),
        ((first, second, third, first), [], [4]),
    ):
        caplog.clear()
        changed(file, *texts)
        found = file.read()
        assert (found.gaps, list(found.doubled), found.damaged) == (gaps, doubled, {})
        file.keep(lambda _: True)
        assert ("do not follow" in caplog.text or "does not follow" in caplog.text) == bool(gaps)
        assert ("stood there twice" in caplog.text) == bool(doubled)
        assert not file.set_aside_path.exists()
        again = file.read()
        assert not (again.gaps or again.doubled)


def test_a_row_of_another_file_or_without_a_link_is_damaged(
    file: JsonLines[Fruit], tmp_path: Path
) -> None:
    lines = file.path.read_bytes().splitlines()
    changed(file, *lines, b'{"step": 4, "name": "pear", "weights": [0.0, 1.0], "price": null}')
    assert list(file.read().damaged) == [4]
    other = JsonLines(tmp_path / "other.jsonl", TypeAdapter(Fruit))
    other.append(Fruit(9, "pear"))
    changed(file, *lines, other.path.read_bytes().strip())
    assert file.read().gaps == [4]


def test_line_ends_of_another_system_change_no_row(file: JsonLines[Fruit]) -> None:
    file.path.write_bytes(file.path.read_bytes().replace(b"\n", b"\r\n"))
    file.append(Fruit(4, "pear"))
    found = file.read()
    assert [line.row.step for line in found.sound] == [1, 2, 3, 4]
    assert not (found.damaged or found.gaps or found.unverified)
    file.keep(lambda _: True)
    assert b"\r" not in file.path.read_bytes()
    assert not file.set_aside_path.exists()


def test_rows_of_a_version_without_a_chain_go_on_and_are_vouched_for(tmp_path: Path) -> None:
    file = fruits(tmp_path)
    old = [b'{"step": 1, "name": "apple"}', b'{"step": 2, "name": "apple"}']
    changed(file, *old)
    assert (file.read().unverified, file.read().gaps) == (2, [])
    file.append(Fruit(3, "apple"))
    file.append(Fruit(4, "apple"))
    assert file.path.read_bytes().splitlines()[:2] == old
    assert (file.read().unverified, file.read().gaps) == (2, [])
    chained = file.path.read_bytes().splitlines()[2:]
    for texts in ((old[0], *chained), (old[1], old[0], *chained)):
        changed(file, *texts)
        assert file.read().gaps  # they changed since
    changed(file, old[0], old[1].replace(b"apple", b"melon"), *chained)
    assert file.read().gaps == [3]


def test_a_row_is_chained_to_the_one_before_however_long_the_file_is(
    tmp_path: Path,
) -> None:
    file = fruits(tmp_path)
    for step in range(30):
        file.append(Fruit(step, 'a", "chain": "' * 400))
    assert file.read()[1:] == ({}, {}, [], 0)
    assert [row.step for row in file.rows()] == list(range(30))


def test_a_line_that_broke_off_spoils_no_line_that_is_added(file: JsonLines[Fruit]) -> None:
    file.path.write_bytes(file.path.read_bytes()[:-9])
    file.append(Fruit(4, "pear"))
    assert [row.step for row in file.rows()] == [1, 2, 4]
    assert list(file.read().damaged) == [3]


@pytest.mark.parametrize("how", ["removed", "moved", "a file in its place"])
def test_a_folder_that_is_removed_meanwhile_is_said_to_be(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    rows = fruits(folder)
    rows.append(Fruit(1, "apple"))
    folder.rename(tmp_path / "elsewhere")
    if how == "removed":
        shutil.rmtree(tmp_path / "elsewhere")
    if how == "a file in its place":
        folder.write_text("")
    with pytest.raises(StorageError, match="mine was removed while its run was going on: put it"):
        rows.append(Fruit(2, "pear"))
