import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visual_r1.config import RunConfig
from visual_r1.errors import DataError, RunError, StorageError
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.evaluations import evaluate_checkpoint
from visual_r1.runs.folder import (
    asks_alike,
    config_of_run,
    config_without_secrets,
    keep_files,
    open_run_folder,
    require_same_files,
)
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.storage import write_json

PROMPT = "[user]\n{{ problem }}\nThink inside <think> </think>, answer inside <answer> </answer>."
SCAN = "[user]\n{{ question }}\n{{ scan }}\nAnswer inside <answer> </answer>."


def config(tmp_path: Path, name: str = "mine", **sections: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate({"output_dir": tmp_path, "run": {"name": name}, **sections})


def test_the_folder_holds_the_resolved_configuration(tmp_path: Path) -> None:
    mine = config(tmp_path, train={"steps": 7})
    with open_run_folder(mine) as run_dir:
        assert run_dir == tmp_path / "runs" / "mine"
        assert read_config(run_dir) == mine


def test_opened_again_with_more_steps_and_other_logging_it_is_the_same_run(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path, train={"steps": 7})):
        pass
    longer = config(tmp_path, train={"steps": 9}, logging={"wandb": False})
    with open_run_folder(longer) as run_dir:
        assert read_config(run_dir) == longer


def test_another_configuration_is_refused_with_its_keys_and_both_ways_out(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path)) as run_dir:
        before = (run_dir / "config.json").read_bytes()
        (run_dir / "metrics.jsonl").write_text("")
    other = config(tmp_path, train={"learning_rate": 0.5}, sampling={"temperature": 0.7})
    with pytest.raises(RunError) as caught, open_run_folder(other):
        pytest.fail("it was opened")
    message = str(caught.value)
    assert "train.learning_rate (there 1e-06, here 0.5)" in message
    assert "sampling.temperature (there 0.9, here 0.7)" in message
    assert "Set them back" in message
    assert "--run.name" in message
    assert (run_dir / "config.json").read_bytes() == before


def test_a_name_under_which_nothing_was_done_is_free(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path)):
        pass
    mended = config(tmp_path, train={"learning_rate": 0.5})
    with open_run_folder(mended) as run_dir:
        assert read_config(run_dir) == mended


def test_a_run_that_nobody_refused_at_its_time_can_still_be_read(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path)) as run_dir:
        stored = json.loads((run_dir / "config.json").read_text())
    stored["algorithm"]["clip_higher"] = 0.3  # without the loss that uses it
    del stored["checksum"]
    (run_dir / "config.json").write_text(json.dumps(stored))
    read = config_of_run(run_dir)
    assert read.algorithm.clip_higher == 0.3
    with open_run_folder(read):
        pass


def test_a_field_that_an_older_version_did_not_have_counts_as_its_default(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path)) as run_dir:
        stored = json.loads((run_dir / "config.json").read_text())
    del stored["model"]["max_pixels"], stored["checksum"]
    (run_dir / "config.json").write_text(json.dumps(stored))
    with open_run_folder(config(tmp_path)):
        assert read_config(run_dir) == config(tmp_path)


def test_a_start_that_failed_leaves_no_folder(tmp_path: Path) -> None:
    mine = config(tmp_path)
    with pytest.raises(DataError), open_run_folder(mine):
        raise DataError("no column")
    assert list(tmp_path.iterdir()) == []
    with open_run_folder(config(tmp_path, name="other")):
        pass
    with pytest.raises(DataError), open_run_folder(mine):
        raise DataError("no column")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_an_error_after_something_was_done_takes_nothing_away(tmp_path: Path) -> None:
    with pytest.raises(DataError), open_run_folder(config(tmp_path)) as run_dir:
        (run_dir / "metrics.jsonl").write_text("")
        raise DataError("later")
    assert (run_dir / CONFIG_FILE).exists()


@pytest.mark.parametrize("text", ["{", '{"trian": {}}', "\xff"])
def test_a_damaged_configuration_is_one_sentence_and_stays(tmp_path: Path, text: str) -> None:
    with open_run_folder(config(tmp_path)) as run_dir:
        pass
    (run_dir / "config.json").write_text(text, encoding="latin-1")
    with (
        pytest.raises(RunError, match=r"config\.json is damaged"),
        open_run_folder(config(tmp_path)),
    ):
        pytest.fail("it was opened")
    assert (run_dir / "config.json").read_text(encoding="latin-1") == text


@pytest.fixture
def with_a_row(tmp_path: Path) -> RunConfig:
    """The configuration of a run whose ledger has a row."""
    mine = config(tmp_path)
    with open_run_folder(mine) as run_dir:
        where = (mine.digest(), "da7a", "embedded", "2026-05-01T10:00:00+00:00")
        Ledger(run_dir).append(LedgerRow(5, "tinker://m", "tinker://m", None, *where, updates=5))
    return mine


def test_a_configuration_that_the_ledger_knows_is_written_again(
    with_a_row: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = with_a_row.run_dir
    text = (run_dir / CONFIG_FILE).read_text()
    other = config(with_a_row.output_dir, train={"learning_rate": 0.5})
    for damaged in ("{", text.replace('"group_size": 4', '"group_size": 5')):
        assert damaged != text
        (run_dir / CONFIG_FILE).write_text(damaged)
        with pytest.raises(RunError, match=r"config\.json is damaged"), open_run_folder(other):
            pytest.fail("it was opened")
        with open_run_folder(with_a_row):
            assert (run_dir / CONFIG_FILE).read_text() == text
    kept = [path.read_text() for path in sorted(run_dir.glob(".config.json.damaged-*"))]
    assert kept == ["{", damaged]
    assert caplog.text.count("by the ledger its run had this configuration") == 2


def test_the_configuration_of_another_run_is_not_gone_on_with(
    with_a_row: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = with_a_row.run_dir
    text = (run_dir / CONFIG_FILE).read_text()
    assert config_of_run(run_dir).digest() == with_a_row.digest()
    other = config(with_a_row.output_dir, train={"learning_rate": 0.5})
    write_json(run_dir / CONFIG_FILE, config_without_secrets(other))
    with pytest.raises(RunError, match="not what the run was made with"):
        config_of_run(run_dir)
    with open_run_folder(with_a_row):
        assert (run_dir / CONFIG_FILE).read_text() == text
    assert "was moved to" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\x1b[2J" * 400, None])
def test_whose_it_is_may_be_damaged(tmp_path: Path, content: bytes | None) -> None:
    with open_run_folder(config(tmp_path)) as run_dir:
        owner = run_dir / ".owner"
        owner.unlink()
        if content is None:
            os.mkfifo(owner)
        else:
            owner.write_bytes(content)
        with (
            pytest.raises(RunError, match=r"another process \(pid unknown\)"),
            open_run_folder(config(tmp_path)),
        ):
            pass


def test_a_second_process_is_refused_and_names_the_first(tmp_path: Path) -> None:
    mine = config(tmp_path)
    program = (
        "import sys; from visual_r1.config import RunConfig\n"
        "from visual_r1.errors import RunError\n"
        "from visual_r1.runs.folder import open_run_folder\n"
        "mine = RunConfig.model_validate_json(sys.argv[1])\n"
        "try:\n"
        "    with open_run_folder(mine): print('opened')\n"
        "except RunError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, mine.model_dump_json()]
    with open_run_folder(mine) as run_dir:
        owner = (run_dir / ".owner").read_text().strip()
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"in use by another process (pid {owner})" in inside
    assert "--run.name" in inside
    assert after == "opened\n"


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    mine = config(tmp_path)
    program = (
        "import os, signal, sys; from visual_r1.config import RunConfig\n"
        "from visual_r1.runs.folder import open_run_folder\n"
        "with open_run_folder(RunConfig.model_validate_json(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, mine.model_dump_json()], check=False)
    assert killed.returncode == -9
    with open_run_folder(mine) as run_dir:
        assert run_dir.is_dir()


def test_what_a_killed_process_left_half_written_is_cleared_and_nothing_else(
    tmp_path: Path,
) -> None:
    mine = config(tmp_path)
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from visual_r1.storage import replaced_whole\n"
        "with replaced_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for place in ("metrics.jsonl", "evaluations/final/report.json"):
        target = str(mine.run_dir / place)
        subprocess.run([sys.executable, "-c", program, target], check=False)
    kept = ["notes.tmp", ".notes.tmp", ".plan.v2.tmp", "plan.12.tmp", ".12.tmp.txt", "a/.b.12.tmp~"]
    for name in kept:
        (mine.run_dir / name).parent.mkdir(exist_ok=True)
        (mine.run_dir / name).write_text("a user's")
    assert len(list(mine.run_dir.rglob(".*.tmp"))) == 4
    with open_run_folder(mine) as run_dir:
        left = {str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.is_file()}
    assert left == {*kept, "config.json", ".made_with.json", ".lock", ".owner"}


def test_a_password_in_the_servers_url_does_not_reach_the_file(tmp_path: Path) -> None:
    url = "https://user:hunter2@tinker.example:8443/v2?token=hunter3"
    with open_run_folder(config(tmp_path, backend={"base_url": url})) as run_dir:
        text = (run_dir / "config.json").read_text()
    assert "hunter" not in text
    assert "https://tinker.example:8443/v2" in text


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(StorageError, match="--output-dir"), open_run_folder(config(tmp_path)):
        pytest.fail("it was opened")


@pytest.mark.parametrize("changed", ["prompt.txt", "scan.txt"])
def test_a_run_keeps_the_prompts_it_began_with(tmp_path: Path, changed: str) -> None:
    prompt, scan = tmp_path / "prompt.txt", tmp_path / "scan.txt"
    prompt.write_text(PROMPT)
    scan.write_text(SCAN)
    config = RunConfig.model_validate(
        {
            "preset": "vision_sr1",
            "output_dir": tmp_path,
            "prompt": {"template": str(prompt)},
            "second_pass": {"template": str(scan)},
        }
    )
    config.run_dir.mkdir(parents=True)
    keep_files(config, config.run_dir, anew=True)
    require_same_files(config)
    file = tmp_path / changed
    file.write_text(file.read_text() + " Be brief.")
    with pytest.raises(RunError, match=rf"{changed} has changed since .*another run"):
        require_same_files(config)
    asking: Any = SimpleNamespace(config=config, dataset=None)
    with pytest.raises(RunError, match=f"{changed} has changed"):  # before anything is asked
        evaluate_checkpoint(asking, "final", "tinker://made-up")
    keep_files(config, config.run_dir, anew=False)  # no quiet change in the middle
    with pytest.raises(RunError):
        require_same_files(config)


def test_two_runs_ask_alike_by_their_pixels_and_by_what_their_template_says(
    tmp_path: Path,
) -> None:
    template = tmp_path / "prompt.txt"
    template.write_text(PROMPT)

    def asking(name: str, pixels: int = 4096) -> RunConfig:
        return RunConfig.model_validate(
            {
                "preset": "vision_sr1",
                "output_dir": tmp_path,
                "run": {"name": name},
                "model": {"max_pixels": pixels},
                "prompt": {"template": str(template)},
            }
        )

    first = asking("first")
    with open_run_folder(first) as run_dir:
        keep_files(first, run_dir, anew=True)
    assert asks_alike(run_dir, asking("second"))
    assert not asks_alike(run_dir, asking("second", pixels=8192))
    template.write_text(PROMPT + " Be brief.")
    assert not asks_alike(run_dir, asking("second"))
    assert not asks_alike(tmp_path / "runs/none", asking("second"))


def test_what_ships_with_the_package_is_not_copied(tmp_path: Path) -> None:
    config = RunConfig(preset="vision_sr1", output_dir=tmp_path)
    config.run_dir.mkdir(parents=True)
    keep_files(config, config.run_dir, anew=True)
    assert list(config.run_dir.iterdir()) == []
