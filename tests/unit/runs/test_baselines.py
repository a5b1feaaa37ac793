"""Baselines that runs share: which, kept how, and what becomes of damage and of two at once."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout
from made_up import predictions, problems, write_evaluation

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.metrics import REPORT_NAME, evaluation_folder, read_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, read_predictions
from visual_r1.runs.baselines import Baselines, keep_baseline
from visual_r1.verify.examination import examine

ASKED = problems(8)


def config(output_dir: Path, **sections: Any) -> RunConfig:
    given = {"preset": "quickstart", "output_dir": output_dir, **sections}
    return RunConfig.model_validate(given)


def dataset(digest: str = "0123abcd") -> Dataset:
    return Dataset(Path("data/made-up"), digest, {"test": 8})


def asked(mine: RunConfig) -> Conditions:
    return conditions_of(mine, mine.model.name, dataset().digest)


def evaluated(mine: RunConfig, seed: int = 0) -> Path:
    """A run's own evaluation of the base model."""
    folder = evaluation_folder(mine.run_dir, "baseline")
    made = predictions(ASKED, 0.5, seed=seed, k=mine.evaluation.samples)
    write_evaluation(folder, ASKED, made, **asdict(asked(mine)))
    Baselines.of(mine, dataset()).claim(folder)
    return folder


DIFFERENT: Mapping[str, dict[str, Any]] = {
    "another prompt": {"prompt": {"template": "scan_think"}},
    "longer answers": {"sampling": {"max_new_tokens": 33}},
    "larger pictures": {"model": {"max_pixels": 4096}},
    "no thought": {"model": {"thinking": "off"}},
    "another grading": {"reward": {"rounding": "rounded"}},
    "a second pass": {"second_pass": {"enabled": True}, "prompt": {"template": "scan_think"}},
    "other threads": {"backend": {"threads": 3}},
}
ALIKE: Mapping[str, dict[str, Any]] = {
    "another learning rate": {"train": {"learning_rate": 0.5}},
    "another adapter": {"model": {"lora_rank": 2}},
    "another reward": {"reward": {"accuracy": 3.0}},
    "other samples": {"evaluation": {"samples": 2, "seed": 9}},
    "another temperature": {"sampling": {"temperature": 0.3}},
}


def test_it_is_shared_by_all_that_ask_the_same_and_by_nobody_else(tmp_path: Path) -> None:
    mine = Baselines.of(config(tmp_path), dataset())
    assert mine.folder.parent == tmp_path / ".visual-r1" / "baselines"
    for name, sections in ALIKE.items():
        assert Baselines.of(config(tmp_path, **sections), dataset()) == mine, name
    folders = {mine.folder, Baselines.of(config(tmp_path), dataset("another")).folder}
    for sections in DIFFERENT.values():
        folders.add(Baselines.of(config(tmp_path, **sections), dataset()).folder)
    assert len(folders) == 2 + len(DIFFERENT)


def test_a_template_is_known_by_what_it_says(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("[user]\n<image>{{ problem }}\nAnswer inside <answer> </answer>.")
    asking = config(tmp_path, prompt={"template": str(mine)})
    before = Baselines.of(asking, dataset())
    mine.write_text("[user]\n<image>{{ problem }}\nThink. Answer inside <answer> </answer>.")
    assert Baselines.of(asking, dataset()).folder != before.folder


def test_no_secret_of_the_address_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-secret")
    monkeypatch.setenv("TINKER_BASE_URL", "http://me:word@tinker.example/")
    what = Baselines.of(config(tmp_path, backend={"server": "auto"}), dataset()).what
    assert "tinker.example" in what["server"]["url"]
    assert "word" not in json.dumps(what)
    assert "secret" not in json.dumps(what)


def test_what_a_run_has_is_there_for_the_next(tmp_path: Path) -> None:
    mine = config(tmp_path)
    own = evaluated(mine)
    keep_baseline(mine, dataset(), own)
    other = config(tmp_path, train={"learning_rate": 0.5})
    [place] = Baselines.of(other, dataset()).evaluations(asked(other), 8)
    assert read_predictions(place) == read_predictions(own)
    assert read_report(place).taken_from == mine.run_name
    assert read_report(own).taken_from is None
    stood = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    keep_baseline(mine, dataset(), own)
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == stood


def test_what_another_server_answered_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may go on with another server, or another torch, than its baseline was asked with."""
    monkeypatch.setenv("TINKER_API_KEY", "tml-made-up")
    then, now = (
        config(tmp_path, backend={"server": "remote", "base_url": url}, run={"name": "mine"})
        for url in ("http://one.example", "http://two.example")
    )
    assert then.identity() == now.identity()
    own = evaluated(then)
    shared = Baselines.of(now, dataset())
    keep_baseline(now, dataset(), own)
    assert not shared.has(read_report(own))
    assert not shared.may_claim(own)
    assert Baselines.of(then, dataset()).may_claim(own)
    assert shared.may_claim(own.with_name("none-yet"))
    keep_baseline(then, dataset(), own)
    assert Baselines.of(then, dataset()).has(read_report(own))


def test_each_way_of_sampling_is_kept_and_the_exact_one_comes_first(tmp_path: Path) -> None:
    eight, two = config(tmp_path), config(tmp_path, evaluation={"samples": 2})
    keep_baseline(eight, dataset(), evaluated(eight))
    keep_baseline(two, dataset(), evaluated(two))
    for mine, k in ((eight, 8), (two, 2)):
        places = Baselines.of(mine, dataset()).evaluations(asked(mine), 8)
        assert [read_report(place).k for place in places] == [k, 10 - k]


@pytest.mark.parametrize("name", [REPORT_NAME, PREDICTIONS_NAME])
def test_a_damaged_one_is_put_aside_for_a_sound_one(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mine = config(tmp_path)
    own = evaluated(mine)
    keep_baseline(mine, dataset(), own)
    shared = Baselines.of(mine, dataset())
    [place] = shared.evaluations(asked(mine), 8)
    content = (place / name).read_bytes()
    (place / name).write_bytes(content.replace(b"1", b"2", 1))
    assert not shared.has(read_report(own))
    keep_baseline(mine, dataset(), own)
    assert (place / name).read_bytes() == content
    assert f"{place} is damaged" in caplog.text
    assert len(list(shared.folder.glob(f".{place.name}.damaged-*"))) == 1
    assert shared.evaluations(asked(mine), 8) == [place]


def test_what_is_half_written_is_no_evaluation(tmp_path: Path) -> None:
    """As a process leaves it that is killed between the two files."""
    mine = config(tmp_path)
    own = evaluated(mine)
    keep_baseline(mine, dataset(), own)
    shared = Baselines.of(mine, dataset())
    [place] = shared.evaluations(asked(mine), 8)
    (place / REPORT_NAME).unlink()
    assert not shared.has(read_report(own))
    keep_baseline(mine, dataset(), own)
    assert shared.has(read_report(own))


HOLD = """
import sys
from pathlib import Path
from visual_r1.runs.baselines import Baselines
with Baselines(Path(sys.argv[1]), {}).alone():
    print("has it", flush=True)
    sys.stdin.read()
"""


def test_of_two_processes_one_asks_and_the_other_waits(tmp_path: Path) -> None:
    mine = config(tmp_path)
    shared, own = Baselines.of(mine, dataset()), evaluated(mine)
    command = [sys.executable, "-c", HOLD, str(shared.folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(Timeout), shared.alone(wait=False):
            pytest.fail("both have it")
        keep_baseline(mine, dataset(), own)  # a finished run does not wait
        assert not shared.has(read_report(own))
        other.kill()  # the lock goes with it
        with shared.alone():
            shared.keep(own, mine.run_name)
    assert shared.has(read_report(own))


def test_verify_looks_at_them(tmp_path: Path) -> None:
    mine = config(tmp_path)
    keep_baseline(mine, dataset(), evaluated(mine))
    shared = Baselines.of(mine, dataset())
    for folder in (shared.folder, shared.folder.parent):
        assert [one.verdict for one in examine(folder)] == ["sound"] * 3
    [predictions_file] = shared.folder.glob(f"*/{PREDICTIONS_NAME}")
    predictions_file.write_bytes(predictions_file.read_bytes()[:-9])
    assert [one.file for one in examine(shared.folder) if one.verdict == "damaged"] == [
        predictions_file
    ]
