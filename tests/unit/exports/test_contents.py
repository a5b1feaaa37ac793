"""How an export takes the place of another, whoever writes beside it and whenever it is killed."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from visual_r1.errors import RunError, StorageError
from visual_r1.exports import complete
from visual_r1.exports.contents import FRESH, LOCK, alone_in, put_in_place, require_room_for
from visual_r1.exports.record import (
    CARD_NAME,
    REFERENCE_NAME,
    Export,
    ExportedFile,
    Merged,
    damage_of_merged,
    described,
    inspect_export,
    read_export,
    write_record,
)
from visual_r1.progress import Silent
from visual_r1.runs import export as exporting
from visual_r1.runs.export import copy_adapter
from visual_r1.verify.examination import examine

FIRST, SECOND = "exports/step-1", "exports/step-2"


def described_in(folder: Path) -> tuple[ExportedFile, ...]:
    return tuple(filter(None, (described(folder, one.name) for one in sorted(folder.iterdir()))))


def write_export(run: Path, step: int, *, whole: bool) -> None:
    """An export of that step; `whole` with a merged model, a reference and a card."""
    place = run / f"exports/step-{step}"
    adapter = place / "adapter"
    adapter.mkdir(parents=True)
    config = f'{{"base_model_name_or_path": "tiny", "r": {step}}}'
    (adapter / "adapter_config.json").write_text(config)
    (adapter / "adapter_model.safetensors").write_text(f"weights {step}")
    made = Export(
        step, step, True, "tiny", "adapter", "", f"tinker://m/weights/{step}",
        described_in(adapter), "2026-05-01T10:00:00+00:00",
    )  # fmt: skip
    if whole:
        (place / "merged").mkdir()
        for name in ("config.json", "model.safetensors"):
            (place / "merged" / name).write_text(f"{name} {step}")
        (place / REFERENCE_NAME).write_text(f"reference {step}")
        (place / CARD_NAME).write_text(f"card {step}")
        reference = described(place, REFERENCE_NAME)
        made = replace(made, merged=Merged(described_in(place / "merged"), 3), reference=reference)
    write_record(place, made)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with an export of each kind."""
    write_export(tmp_path / "run", 1, whole=True)
    write_export(tmp_path / "run", 2, whole=False)
    return tmp_path / "run"


def there_in(folder: Path) -> set[str]:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {LOCK}


def require_true(folder: Path) -> Export | None:
    """What the record says, where there is one; all that it says is there, and nothing else is."""
    made, wrong = inspect_export(folder.parent, folder.name)
    assert not wrong
    if made is not None:
        merged = made.merged.files if made.merged else ()
        assert not (made.merged and damage_of_merged(folder, made.merged))
        said = {one.name for one in made.files} | {f"merged/{one.name}" for one in merged}
        said |= {"export.json"} | ({REFERENCE_NAME} if made.reference else set())
        said |= {CARD_NAME} if made.step == 1 else set()
        left = {one for one in there_in(folder) if one.startswith(".") and one.endswith(".tmp")}
        assert {one for one in there_in(folder) - left if not one.startswith(FRESH)} == said
    return made


def test_nothing_of_another_step_stays_in_a_copy(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    for into in (FIRST, SECOND, FIRST):
        copy_adapter(run, into, folder)
        made = require_true(folder)
        assert made is not None
        assert made == replace(read_export(run, into), adapter=".")  # pyright: ignore[reportArgumentType]
    files = {one.removeprefix("adapter/") for one in there_in(run / FIRST)}
    assert there_in(folder) == files


_KILLED = """
import os, sys
from pathlib import Path
from visual_r1.runs.export import copy_adapter
from visual_r1.verify.examination import examine

run, into, folder, last = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
seen = 0

def watch(event, arguments):
    global seen
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if not writes and event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        return
    seen += 1
    if seen == number:
        os._exit(9)

for number in range(1, last):
    child = os.fork()
    if not child:
        sys.addaudithook(watch)
        copy_adapter(run, into, folder / str(number))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize(("before", "after"), [(FIRST, SECOND), (SECOND, FIRST)])
def test_a_kill_at_any_moment_leaves_no_folder_that_says_what_it_does_not_hold(
    run: Path, tmp_path: Path, before: str, after: str
) -> None:
    folders, last = tmp_path / "copies", 32
    copy_adapter(run, before, tmp_path / "copy")
    for number in range(1, last):
        shutil.copytree(tmp_path / "copy", folders / str(number))
    asked = [sys.executable, "-c", _KILLED, str(run), after, str(folders), str(last)]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    ends = list(map(int, done.stdout.split()))
    assert set(ends) == {0, 9}  # the last ones came to their end before they were killed
    steps = [require_true(folders / str(number)) for number in range(1, last)]
    assert {None if one is None else one.state_path for one in steps} >= {
        None,
        f"tinker://m/weights/{before[-1]}",
        f"tinker://m/weights/{after[-1]}",
    }
    for number in range(1, last):
        # The same command goes on, and clears what was left.
        folder = copy_adapter(run, after, folders / str(number))
        made = require_true(folder)
        assert made is not None
        assert made.state_path == f"tinker://m/weights/{after[-1]}"
        assert not [one for one in folder.iterdir() if one.name.endswith(".tmp")]


def test_what_an_older_version_left_when_it_was_killed_is_cleared(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / ".adapter_model.safetensors.28978.tmp").touch()
    (folder / ".merged.tmp").mkdir()
    copy_adapter(run, SECOND, folder)
    assert require_true(folder) is not None
    assert not [one for one in folder.iterdir() if one.name.endswith(".tmp")]
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / ".thesis.tex.28978.tmp").touch()
    with pytest.raises(StorageError, match=r"holds \.thesis\.tex\.28978\.tmp"):
        copy_adapter(run, SECOND, foreign)
    assert [one.name for one in foreign.iterdir()] == [".thesis.tex.28978.tmp"]


def test_files_of_the_export_that_is_there_are_no_reason_to_refuse(tmp_path: Path) -> None:
    write_export(tmp_path / "run", 1, whole=False)
    more = tmp_path / "run" / FIRST / "adapter" / "vocabulary.json"
    more.touch()
    made = read_export(tmp_path / "run", FIRST)
    assert made is not None
    write_record(tmp_path / "run" / FIRST, replace(made, files=described_in(more.parent)))
    write_export(tmp_path / "run", 2, whole=False)
    folder = copy_adapter(tmp_path / "run", FIRST, tmp_path / "copy")
    assert (folder / "vocabulary.json").is_file()
    copy_adapter(tmp_path / "run", SECOND, folder)
    assert require_true(folder) is not None


def test_a_full_disk_leaves_the_copy_that_was_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_adapter(run, SECOND, tmp_path / "copy")

    def full(source: Path, target: Path) -> None:
        if target.name == REFERENCE_NAME:
            raise OSError(28, "No space left on device")
        target.write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(exporting.shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"No space left on device.*is there still"):
        copy_adapter(run, FIRST, folder)
    made = require_true(folder)
    assert made is not None
    assert made.step == 2
    assert not (folder / FRESH).exists()


def test_one_process_at_a_time_writes_to_a_folder(run: Path, tmp_path: Path) -> None:
    folder = copy_adapter(run, SECOND, tmp_path / "copy")
    with alone_in(folder):
        with pytest.raises(RunError, match="is being written by another process"):
            copy_adapter(run, FIRST, folder)
        made = require_true(folder)
    assert made is not None
    assert made.step == 2


def test_while_a_model_is_merged_again_the_record_names_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is damaged is removed before another is there."""
    place, made = run / FIRST, read_export(run, FIRST)
    assert made is not None
    seen: list[Export | None] = []

    def killed(*_: object) -> None:
        seen.append(read_export(run, FIRST))
        raise KeyboardInterrupt

    for name in ("load_base_index", "scaled_loras"):
        monkeypatch.setattr(complete, name, lambda *_: None)
    monkeypatch.setattr(complete, "merge", killed)
    with pytest.raises(KeyboardInterrupt):
        complete.with_merged(place, made, Silent())
    assert seen == [replace(made, merged=None)]


def test_an_export_in_a_run_takes_the_place_of_a_damaged_one(run: Path) -> None:
    place = run / FIRST
    (place / "adapter" / "adapter_model.safetensors").write_text("other")
    fresh = place / FRESH
    shutil.copytree(run / SECOND / "adapter", fresh / "adapter")
    made = read_export(run, SECOND)
    assert made is not None
    put_in_place(fresh, place, made, damaged=True)
    assert read_export(run, FIRST) == made
    names = {".export.json.damaged-1", ".adapter.damaged-1", "adapter", "export.json"}
    assert {one.name for one in place.iterdir()} == names
    with pytest.raises(StorageError, match=r"holds \.adapter\.damaged-1, which is no part"):
        require_room_for("tiny", place)


def test_a_copy_is_verified_as_an_export_in_its_run_is(run: Path, tmp_path: Path) -> None:
    folder = copy_adapter(run, FIRST, tmp_path / "copy")

    def found(place: Path) -> dict[str, str]:
        return {one.file.name: one.verdict for one in examine(place)}

    names = ["export.json", "adapter_config.json", "adapter_model.safetensors", REFERENCE_NAME]
    sound = dict.fromkeys([*names, "merged"], "sound")
    assert found(folder) == found(run / FIRST) == found(run / FIRST / "adapter") == sound
    for file in (one for one in folder.rglob("*") if one.is_file()):
        if file.name in (LOCK, CARD_NAME):
            continue
        whole = file.read_bytes()
        file.write_bytes(whole[:8] + bytes([whole[8] ^ 1]) + whole[9:])
        assert "damaged" in found(folder).values(), file
        file.write_bytes(whole)
    (folder / "export.json").unlink()
    assert set(found(folder).values()) == {"unverified"}
