"""A file that a process writes alone is not read again and again; whatever is done to it shows."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from visual_r1 import jsonl
from visual_r1.jsonl import JsonLines


@dataclass(frozen=True, slots=True)
class Fruit:
    step: int
    name: str


@pytest.fixture(params=[False, True], ids=["not kept", "kept"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> JsonLines[Fruit]:
    """A file of 2,000 rows, more than are read at once, that this process has written and knows."""
    made = JsonLines(tmp_path / "fruits.jsonl", TypeAdapter(Fruit), kept=request.param)
    made.append(*(Fruit(step, f"apple {step}") for step in range(2000)))
    assert made.path.stat().st_size > 2**17
    return made


@pytest.fixture
def whole_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read whole."""
    read: list[Path] = []
    with_links = jsonl.with_links

    def noted(path: Path) -> object:
        read.append(path)
        return with_links(path)

    monkeypatch.setattr(jsonl, "with_links", noted)
    return read


def newest(file: JsonLines[Fruit], step: int) -> list[Fruit]:
    return [line.row for line in file.since(lambda row: row.step < step)]


def test_what_a_checkpoint_does_reads_no_file_whole(
    file: JsonLines[Fruit], whole_reads: list[Path]
) -> None:
    generation = file.generation()
    for step in range(2000, 2003):
        file.append(Fruit(step, "pear"))
        assert newest(file, step) == [Fruit(step, "pear")]
        file.replace_last(lambda row: Fruit(row.step, "a pear that is ripe"))
        assert newest(file, step - 1)[-1] == Fruit(step, "a pear that is ripe")
    assert file.generation() == generation
    assert not whole_reads
    # Another object, as every task makes one, and whoever does not write the file.
    again = JsonLines(file.path, TypeAdapter(Fruit))
    assert newest(again, 1998) == newest(file, 1998)
    found = again._read_whole()
    assert (len(found.sound), found.is_whole) == (2003, True)


def test_all_of_it_is_the_same_as_read_whole(file: JsonLines[Fruit]) -> None:
    file.append(Fruit(2000, "pear\r\u2028"))
    assert newest(file, -1) == [line.row for line in file._read_whole().sound]
    assert newest(file, 5000) == []


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def kept_times(path: Path, change: Callable[[], None]) -> None:
    """As a tool does that copies times along."""
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit at the beginning": lambda path: flip(path, 20),
    "a bit at the end": lambda path: flip(path, path.stat().st_size - 60),
    "a bit, and the time of before": lambda path: kept_times(path, lambda: flip(path, 20)),
    "cut off": lambda path: os.truncate(path, path.stat().st_size - 30),
    "another file in its place": lambda path: path.write_bytes(path.read_bytes()[:-2000] + b"x\n"),
    "a row of another process": lambda path: (
        JsonLines(path.with_name("other.jsonl"), TypeAdapter(Fruit)).append(Fruit(2500, "plum"))
        or path.write_bytes(path.read_bytes() + path.with_name("other.jsonl").read_bytes())
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_what_somebody_else_did_to_it_is_seen(
    file: JsonLines[Fruit], how: str, whole_reads: list[Path]
) -> None:
    generation = file.generation()
    assert newest(file, 1999) == [Fruit(1999, "apple 1999")]
    DAMAGES[how](file.path)
    assert not file.read().is_whole
    assert file.generation() != generation
    assert whole_reads
    assert newest(file, 1000)[:1] == [Fruit(1000, "apple 1000")]
    # What comes after it is chained to what is there, and no row is lost by it.
    file.keep(lambda _: True)
    file.append(Fruit(3000, "pear"))
    assert file.read().is_whole
    assert newest(file, 3000) == [Fruit(3000, "pear")]


def test_a_file_that_was_put_back_is_read_anew(file: JsonLines[Fruit], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(file.path.read_bytes())
    file.append(Fruit(2000, "pear"))
    copy.replace(file.path)
    assert file.read().sound[-1].row == Fruit(1999, "apple 1999")
    file.append(Fruit(2000, "plum"))
    assert newest(file, 1999) == [Fruit(1999, "apple 1999"), Fruit(2000, "plum")]
    file.path.unlink()
    assert file.rows() == []
    file.append(Fruit(0, "plum"))
    assert file.rows() == [Fruit(0, "plum")]


@pytest.mark.parametrize("written", [28, 40, 70])
def test_a_kill_while_the_last_row_is_replaced_harms_no_other(
    file: JsonLines[Fruit], written: int
) -> None:
    before = file.path.read_bytes()
    file.replace_last(lambda row: Fruit(row.step, "a name that is longer than before"))
    after = file.path.read_bytes()
    start = before[:-1].rindex(b"\n") + 1
    # Of the new line so much was written over the old one.
    file.path.write_bytes(after[: start + written] + before[start + written :])
    found = file.read()
    assert [line.row.step for line in found.sound] == list(range(1999))
    assert list(found.damaged) == [2000]
    file.keep(lambda row: row.step < 1999)
    assert newest(file, 1998) == [Fruit(1998, "apple 1998")]
