"""Files are there whole or not at all, and hashes are stable."""

import errno
import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from visual_r1.errors import StorageError
from visual_r1.hashing import content_digest, digest, file_digest, stable_seed
from visual_r1.storage import (
    flat_in_the_file,
    put_aside,
    read_json,
    read_sealed,
    replaced_whole,
    require_room,
    write_json,
    write_text,
)


def test_json_is_written_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"angle": "∠A"})
    written = json.loads((tmp_path / "deep" / "a.json").read_text())
    assert list(written) == ["angle", "checksum"]  # last, where it disturbs nobody
    assert written["angle"] == "∠A"


@dataclass(frozen=True)
class Size:
    width: int
    height: int = 1


@dataclass(frozen=True)
class Picture:
    name: str
    size: Size


PICTURE = TypeAdapter(Annotated[Picture, flat_in_the_file("size")])


def test_json_is_read_as_a_type_and_what_a_newer_version_adds_is_kept_out(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "a", "width": 3, "later": {"x": 1}})
    assert read_json(tmp_path / "a.json", PICTURE) == Picture("a", Size(3))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"width": 3}', "name: Field required"),
        ('{"name": "a"}', "size.width: Field required"),
        ("[]", "Input should be"),
        ("{", "Invalid JSON"),
    ],
)
def test_what_is_wrong_with_a_json_file_is_a_line(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=fault) as found:
        read_json(tmp_path / "a.json", PICTURE)
    assert "\n" not in str(found.value)


SEALED = {"name": "a∠", "width": 3, "rates": [0.1, 1e-300, None, float("nan")], "1": {"b": True}}


def test_a_json_file_is_held_against_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {**SEALED, "pair": (1, 2)})
    written = json.loads(path.read_text())
    assert read_sealed(path).is_sealed
    # Formatted anew, with its keys in another order, it holds the same.
    path.write_text(json.dumps(dict(reversed(written.items()))))
    assert read_json(path, PICTURE) == Picture("a∠", Size(3))
    assert set(read_sealed(path).content) == {*SEALED, "pair"}
    for name in written.keys() - {"checksum"}:
        path.write_text(json.dumps({key: value for key, value in written.items() if key != name}))
        with pytest.raises(ValueError, match="its checksum is"):
            read_json(path, PICTURE)


def test_no_bit_of_a_sealed_file_changes_what_is_read_from_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, SEALED)
    whole = path.read_bytes()
    right = json.dumps(read_sealed(path).content)
    used = 0
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with suppress(ValueError):
            assert json.dumps(read_sealed(path).content) == right
            used += 1
    assert used < 60  # a space for a newline; a digit that no float can tell from another


def test_a_key_that_stands_there_twice_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, SEALED)
    path.write_text(path.read_text().replace('"width": 3,', '"width": 3, "width": 3,'))
    with pytest.raises(ValueError, match="'width' stands there twice"):
        read_sealed(path)


def test_a_json_file_of_an_older_version_goes_on_unverified(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"name": "a", "width": 3, "digest": "99aa06d3014798d86001c324468d497f"}')
    assert read_json(path, PICTURE) == Picture("a", Size(3))
    assert not read_sealed(path).is_sealed


def test_what_is_damaged_is_put_aside_each_time(tmp_path: Path) -> None:
    for number, text in enumerate("ab", start=1):
        (tmp_path / "a.json").write_text(text)
        aside = put_aside(tmp_path / "a.json", tmp_path / "set-aside")
        assert aside == tmp_path / "set-aside" / f"a.json.damaged-{number}"
        assert aside.read_text() == text
    (tmp_path / "a.json").write_text("c")
    assert put_aside(tmp_path / "a.json").name == ".a.json.damaged-1"
    assert not (tmp_path / "a.json").exists()
    with pytest.raises(StorageError, match=r"could not put .*, which is damaged, aside"):
        put_aside(tmp_path / "a.json")


def test_a_failure_in_the_middle_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replaced_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"could not write .*--output-dir"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_folder_that_refuses_is_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\): allow it or"):
        require_room(tmp_path)


def test_hashes_do_not_change_between_versions() -> None:
    assert stable_seed("rollout", 0, 1, "∠") == 227945973
    assert digest({"b": 1, "a": [1, 2]}) == digest({"a": [1, 2], "b": 1})
    assert stable_seed(1, 2) != stable_seed(12) != stable_seed("1", 2)


def test_a_file_has_the_digest_of_its_bytes_in_whatever_pieces_they_come(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == content_digest(content)
    assert content_digest(content[:7], memoryview(content)[7:]) == content_digest(content)
    flipped = bytes([content[0] ^ 1]) + content[1:]
    assert content_digest(flipped) != content_digest(content)
    assert (
        content_digest() == "99aa06d3014798d86001c324468d497f"
    )  # of no bytes, by XXH3's own tests
