"""`visual-r1 verify`: what is sound, what is not, and what nobody can say."""

import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_up import predictions, problems, write_evaluation, write_metrics, write_validation
from pydantic import TypeAdapter
from safetensors.numpy import save_file

from visual_r1.alarms import Finding
from visual_r1.config import DataSection, RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.exports.record import ADAPTER_FILES, Export, ExportedFile
from visual_r1.hashing import file_digest
from visual_r1.jsonl import JsonLines
from visual_r1.jsonl_chain import CHAIN
from visual_r1.report.summary import SUMMARY_NAME, read_summary, summarize
from visual_r1.rl.curriculum import Measured
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.curriculum_state import save_measured
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.lost import say_what_is_lost
from visual_r1.runs.made_with import MADE_WITH
from visual_r1.runs.training_rows import LEFT_OUT_FILE
from visual_r1.stopwatch import Stopwatch
from visual_r1.storage import write_json
from visual_r1.tables import write_table
from visual_r1.verify.command import main
from visual_r1.verify.examination import examine

STEPS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with all files that one can have, its dataset beside it."""
    root = tmp_path_factory.mktemp("made")
    data = DataSection(source="procedural", train=8, validation=2, test=2)
    dataset = prepare(data, root)
    config = RunConfig(preset="quickstart", output_dir=root, data=data)
    with open_run_folder(config) as run_dir:
        Stopwatch(run_dir).lap()
    journal, ledger = Journal(run_dir), Ledger(run_dir)
    write_metrics(run_dir, STEPS)
    rows = journal.rows()
    journal.metrics_path.unlink()
    (run_dir / "custom_reward.py").write_text("def reward(sample):\n    return 1.0\n")
    (run_dir / "rollouts").mkdir()
    for chunk in range(2):
        for row in rows[2 * chunk : 2 * chunk + 2]:
            journal._metrics.append(row)  # pyright: ignore[reportPrivateUsage]
        last = journal.digest_of(2 * chunk + 1)
        assert last is not None
        measured = Measured(np.arange(8.0) + 2 * chunk, np.zeros(8))
        carry = save_measured(run_dir, 2 * chunk + 2, measured)
        kept = {name: file_digest(run_dir / name) for name in (*carry.values(), "custom_reward.py")}
        table = pa.table({"step": [2 * chunk, 2 * chunk + 1], "response": ["a", "b"]})
        place = f"rollouts/chunk-{chunk:05d}.parquet"
        write_table(run_dir / place, table)
        step = 2 * chunk + 2
        alarms = AlarmLog(run_dir)
        before = {"alarms.jsonl": found} if (found := alarms.digest_of(chunk)) else {}
        where = (config.digest(), dataset.digest, "hosted", "2026-05-01T10:00:00+00:00")
        ledger.append(
            LedgerRow(
                step,
                f"tinker://m/weights/{step}",
                f"tinker://session:train:0/sampler_weights/step-{step:06d}",
                None,
                *where,
                updates=step,
                carry=carry,
                digests=journal.rollouts_digest(run_dir / place)
                | kept
                | before
                | {"metrics.jsonl": last},
                lines={"validation.jsonl": chunk, "alarms.jsonl": chunk},
            )
        )
        alarms.add([Finding("length", step - 1, step, "warn", f"seen at {step}.", "", "")])
        write_validation(run_dir, step, 0.5)
    asked = problems(12)
    for name, accuracy in (("baseline", 0.5), ("final", 0.9)):
        of = f"tinker://session:train:0/sampler_weights/step-{step:06d}"
        folder = run_dir / "evaluations" / name
        write_evaluation(folder, asked, predictions(asked, accuracy, seed=0), sampler_path=of)
    write_export(run_dir, step)
    left_out = {"dataset_digest": dataset.digest, "context": 1024, "rows": 8, "left_out": []}
    write_json(run_dir / LEFT_OUT_FILE, left_out)
    summarize(run_dir, steps=STEPS, wall_seconds=9)
    return run_dir


def write_export(run_dir: Path, step: int) -> None:
    adapter = run_dir / "export" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / ADAPTER_FILES[0]).write_text('{"peft_type": "LORA"}')
    save_file({"q.lora_A.weight": np.zeros((4, 8), np.float32)}, adapter / ADAPTER_FILES[1])
    files = tuple(
        ExportedFile(
            name,
            (adapter / name).stat().st_size,
            hashlib.sha256((adapter / name).read_bytes()).hexdigest(),
        )
        for name in ADAPTER_FILES
    )
    paths = ("tinker://m/sampler_weights", f"tinker://m/weights/{step}")
    made = Export(step, step, True, "tiny", "adapter", *paths, files, "2026-05-01T10:00:00+00:00")
    write_json(run_dir / "export" / "export.json", asdict(made))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / made.name


def files_of(run: Path) -> list[Path]:
    """What a run reads again."""
    shown = {"README.md", "contact_sheet.png"}
    return sorted(
        path
        for top in (run, run.parents[1] / "data")
        for path in top.rglob("*")
        if path.is_file()
        and (not path.name.startswith(".") or path.name == MADE_WITH)
        and path.name not in shown
    )


def test_a_run_is_named_as_in_other_commands(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    assert main([run.name]) == 0
    assert capsys.readouterr().out.startswith("sound: ")


def test_a_run_that_nobody_touched_is_sound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.parents[1].rglob("*")}
    assert main([str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sound: ")
    assert f"{len(files_of(run))} files as they were written." in said
    assert "unverified" not in said
    assert {path: path.stat().st_mtime_ns for path in run.parents[1].rglob("*")} == before
    dataset = next((run.parents[1] / "data").glob("[!.]*"))
    assert main([str(dataset)]) == 0
    there = [path for path in files_of(run) if path.parent == dataset]
    assert f"{len(there)} files as they were written." in capsys.readouterr().out


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    # In a line of JSON: what is between two lines, or a page's statistics, changes nothing.
    bit = draw.randrange(8 * (len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def overwrite(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(max(1, len(content) - 20))
    content[start : start + 20] = draw.randbytes(20)
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content) - 1)])


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, overwrite, cut, remove])
def test_every_damage_to_every_file_is_found_and_names_the_file(
    run: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    draw = random.Random(5)
    for path in files_of(run):
        if path.name in ("summary.json", LEFT_OUT_FILE, MADE_WITH) and damage is remove:
            continue  # a run that is not finished has none, nor one of an older version
        whole = path.read_bytes()
        damage(path, draw)
        findings = list(examine(run))
        found = [one for one in findings if one.verdict == "damaged"]
        if path.parent == Journal(run).rollouts_dir and damage in (flip, overwrite) and not found:
            # Where no value is stored.
            (found,) = [one for one in findings if one.verdict == "unverified"]
            assert found.file == path
            assert "and its bytes are not" in found.found
        else:
            assert found, path
            names = {one.file.name for one in found}
            assert path.name in names or path.name in str(found), (path, found)
            assert all(one.expected and one.found and one.way_out for one in found)
        path.write_bytes(whole)
    assert all(one.verdict == "sound" for one in examine(run))


@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_no_pipe_and_no_device_is_opened_in_the_place_of_a_file(
    run: Path, target: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in files_of(run):
        whole = path.read_bytes()
        path.unlink()
        if target is None:
            os.mkfifo(path)
        else:
            path.symlink_to(target)
        asked = threading.Thread(target=main, args=([str(run)],), daemon=True)
        asked.start()
        asked.join(20)
        assert not asked.is_alive(), path
        said = capsys.readouterr()
        # A long path goes on in the next line, wherever the folder of the tests makes it break.
        assert path.name in "".join((said.out + said.err).split())
        path.unlink()
        path.write_bytes(whole)


def test_what_is_not_sound_is_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "evaluations/final/predictions.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-30])
    assert main([str(run)]) == 1
    said = capsys.readouterr().out
    for label, text in (
        ("expected", "rows as they were written"),
        ("found", "row 4 is damaged"),
        ("found", "has no row for steps 3"),
        ("way out", "the next start answers it again"),
    ):
        assert f"  {label:8}  {text}" in said
    assert said.splitlines()[0].endswith("metrics.jsonl")
    assert said.splitlines()[-1].startswith("not sound: 3 damaged; ")


def test_a_copy_that_was_removed_is_missing_and_need_not_be_removed(run: Path) -> None:
    """A start makes it again of the user's own file; one of a run that is done makes none."""
    (run / "custom_reward.py").unlink()
    [found] = [one for one in examine(run) if one.file.name == "custom_reward.py"]
    assert (found.verdict, found.found) == ("damaged", "is missing")
    assert found.way_out == "put back the file that the run began with"


def test_sound_files_of_another_run_are_named(run: Path) -> None:
    for name, change in (
        ("config.json", lambda read: read["train"].update(learning_rate=0.5)),
        ("export/export.json", lambda read: read.update(state_path="tinker://another/weights")),
    ):
        whole = (run / name).read_bytes()
        read = json.loads(whole)
        change(read)
        write_json(run / name, read)
        (found,) = [one for one in examine(run) if one.verdict == "damaged"]
        assert found.file == run / name
        (run / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("metrics.jsonl", {"reward_mean": 0.25}, "its digest is "),
        ("alarms.jsonl", {"seen": "elsewhere."}, "its digest is "),
        ("validation.jsonl", {"sampler_path": "tinker://a/b"}, "that of step 2 is of tinker://a/b"),
    ],
)
def test_rows_of_another_run_with_the_same_steps_are_named(
    run: Path, name: str, change: dict[str, object], said: str
) -> None:
    rows: list[dict[str, object]] = [
        {key: value for key, value in json.loads(line).items() if key != CHAIN}
        for line in (run / name).read_text().splitlines()
    ]
    (run / name).unlink()
    another = JsonLines(run / name, TypeAdapter(dict[str, object]))
    for row in rows:
        another.append(row | change)
    named = [one for one in examine(run) if one.verdict == "damaged" and one.file == run / name]
    assert named[0].found.startswith(said)


def test_rows_that_stand_there_twice_or_in_another_order_are_named(run: Path) -> None:
    for name in ("ledger.jsonl", "metrics.jsonl", "validation.jsonl"):
        path = run / name
        whole = path.read_bytes()
        first, *rest = whole.splitlines(keepends=True)
        for lines in ([first, first, *rest], [*rest, first], rest):
            path.write_bytes(b"".join(lines))
            assert [one for one in examine(run) if one.verdict == "damaged"], (name, lines)
        path.write_bytes(whole)


def test_a_ledger_whose_end_was_cut_is_found_by_what_came_after(run: Path) -> None:
    path = run / "ledger.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    (found,) = [one for one in examine(run) if one.file == path]
    assert found.found == "ends at step 2"
    assert "row of step 4" in found.expected


@pytest.mark.parametrize("left", [0, 1])
def test_a_run_that_goes_on_with_a_ledger_that_was_cut_says_so(
    run: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    say_what_is_lost(run)
    assert caplog.messages == []
    path = run / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    say_what_is_lost(run)
    [said] = caplog.messages
    assert f"{path} ends at step {2 * left}, and there was a row of step 4" in said
    assert "what follows is trained again" in said


def test_what_a_run_that_went_back_has_left_is_no_sign_of_a_ledger_that_was_cut(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its export stays until there is another, and a kill may leave validations and findings."""
    Ledger(run).go_back_to(2)
    say_what_is_lost(run)
    assert caplog.messages == []
    assert [one.verdict for one in examine(run) if one.file == run / "ledger.jsonl"] == ["sound"]


def test_files_of_an_older_version_are_unverified_and_no_fault(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in run.parents[1].rglob("*.json"):
        content = json.loads(path.read_text())
        content.pop("checksum", None)
        content.pop("predictions_digest", None)
        for stored in content["files"].values() if path.name == "manifest.json" else ():
            del stored["digest"]
        path.write_text(json.dumps(content))
    for path in run.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row.pop("digests", None)
            row.pop("lines", None)
            del row["chain"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    # What has had digests always: the exported files, and what the curriculum measured.
    others = len(files_of(run)) - 4
    assert f"4 files as they were written; {others} files unverified (" in said
    assert "no digest is known" in said


def test_a_summary_by_other_statistics_is_sound_and_one_of_other_counts_is_not(run: Path) -> None:
    """Another version may have computed intervals otherwise; what was counted stays."""
    there = read_summary(run)
    assert there is not None
    accuracy = replace(there.accuracy, smallest_detectable=0.5, delta_ci95=(-0.5, 0.9))
    write_json(run / SUMMARY_NAME, replace(there, accuracy=accuracy, conclusion="Rose.").to_json())
    assert not [one for one in examine(run) if one.verdict == "damaged"]
    accuracy = replace(there.accuracy, gained=there.accuracy.gained + 1)
    write_json(run / SUMMARY_NAME, replace(there, accuracy=accuracy).to_json())
    assert [one.file.name for one in examine(run) if one.verdict == "damaged"] == [SUMMARY_NAME]


def test_a_run_of_another_name_is_sound_and_so_is_one_that_went_on_or_back(run: Path) -> None:
    moved = run.rename(run.with_name("renamed"))
    assert not [one for one in examine(moved) if one.verdict == "damaged"]
    journal = Journal(moved)
    journal._metrics.append({**journal.rows()[-1], "step": STEPS})  # pyright: ignore[reportPrivateUsage]
    assert not [one for one in examine(moved) if one.verdict == "damaged"]
    Ledger(moved).go_back_to(2)
    wrong = [one.file.name for one in examine(moved) if one.verdict == "damaged"]
    assert SUMMARY_NAME not in wrong
    there = read_summary(moved)
    assert there is not None
    accuracy = replace(there.accuracy, gained=there.accuracy.gained + 1)
    write_json(moved / SUMMARY_NAME, replace(there, accuracy=accuracy).to_json())
    assert SUMMARY_NAME in [one.file.name for one in examine(moved) if one.verdict == "damaged"]


def test_what_is_none_of_them_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([str(folder)]) == 1
    said = capsys.readouterr().err
    assert "is no run's folder, no dataset and no engine's home" in said
    assert "is no folder" in said


def test_a_dataset_that_is_damaged_is_named(run: Path) -> None:
    (folder,) = (run.parents[1] / "data").glob("[!.]*")
    shard = next(folder.glob("train-*.parquet"))
    digest = file_digest(shard)
    overwrite(shard, random.Random(1))
    (found,) = [one for one in examine(folder) if one.verdict == "damaged"]
    assert found.file == shard
    assert digest in found.expected
    assert "prepare it again" in found.way_out
    shutil.rmtree(folder)
    (found,) = [one for one in examine(run) if one.verdict == "damaged"]
    assert found.expected == "the dataset of the run"
