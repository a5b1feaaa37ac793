"""What damages a run, and the same command afterwards: it goes on, and nothing is lost."""

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from prefect_home import Give
from train_command import SMALL, Folder
from warm_command import Ended, WarmCommand

from visual_r1.verify.examination import examine

SHORT = SMALL | {
    "data.test": 8,
    "train.chunk_steps": 1,
    "train.batch_size": 2,
    "train.group_size": 2,
}

Train = Callable[..., Ended]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, give_home: Give) -> Folder:
    return Folder(give_home(tmp_path_factory.mktemp("damaged")))


@pytest.fixture(scope="module")
def train(folder: Folder) -> Generator[Train]:
    """The command to `steps` steps; a first run of one step is there already."""
    flags = [part for name, value in SHORT.items() for part in (f"--{name}", str(value))]
    with WarmCommand(folder.root) as command:

        def run(steps: int, *more: str, **how: object) -> Ended:
            given = ["--output-dir", folder.root, *flags, "--no-logging.wandb"]
            return command.run(*given, "--train.steps", steps, *more, **how)

        first = run(1)
        assert first.status == 0, first.output
        yield run


def contents(folder: Folder) -> dict[Path, bytes]:
    """What a failure must leave as it is."""
    files = [*folder.run.glob("rollouts/*"), *folder.run.glob("export/adapter/*")]
    return {path: path.read_bytes() for path in [folder.run / "ledger.jsonl", *files]}


def test_a_disk_that_fills_up_on_the_way(train: Train, folder: Folder) -> None:
    before = contents(folder)
    for victim in ("engine", "flow"):
        failed = train(2, full_disk=victim)
        assert "could not write" in failed.sentence
        assert "Free some space" in failed.sentence
        assert "request_id" not in failed.sentence  # the server's words, not the SDK's
        assert "Trying again" not in failed.output
        assert contents(folder) == before
    again = train(2)
    assert again.status == 0, again.output
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [0, 1]
    assert [row["step"] for row in folder.rows("ledger.jsonl")] == [1, 2]


def test_a_last_row_that_is_damaged(train: Train, folder: Folder) -> None:
    ledger = folder.run / "ledger.jsonl"
    ledger.write_text(ledger.read_text()[:-30])
    shard = next((folder.root / "data").glob("*/train-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-30])  # is prepared again, to the same dataset
    report = folder.run / "evaluations" / "baseline" / "report.json"
    whole = report.read_bytes()
    report.write_bytes(whole[:-30])
    ended = train(2)
    assert ended.status == 0, ended.output
    # Taken from those that runs share, which it had answered: what it says is the same.
    own = {
        "taken_from",
        "tokens_prefill",
        "tokens_cached",
        "tokens_sampled",
        "cost_usd",
        "checksum",
    }
    then, now = json.loads(whole), json.loads(report.read_bytes())
    assert {k: v for k, v in now.items() if k not in own} == {
        k: v for k, v in then.items() if k not in own
    }
    assert now["taken_from"]
    assert " ".join(ended.output.split()).count("was moved to ledger.set-aside.jsonl; the run") == 1
    assert [row["step"] for row in folder.rows("ledger.jsonl")] == [1, 2]
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [0, 1]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_what_is_damaged_is_made_again_and_said(train: Train, folder: Folder) -> None:
    assert train(2).status == 0  # whatever ran before
    finished = [path for path in contents(folder) if path.name != "ledger.jsonl"]
    before = {path: path.read_bytes() for path in finished}
    summary = folder.run / "summary.json"
    told = summary.read_text()
    summary.write_text(told.replace('"format_rate"', '"format_rat{"'))
    flip(folder.run / "export" / "adapter" / "adapter_model.safetensors")
    flip(folder.run / "evaluations" / "baseline" / "predictions.parquet")
    flip(next((folder.root / "data").glob("[!.]*/test-*.parquet")))
    ledger = folder.run / "ledger.jsonl"
    ledger.write_text("".join(line + line for line in ledger.read_text().splitlines(keepends=True)))
    for result in (folder.root / ".visual-r1" / "results").iterdir():
        result.write_text(result.read_text().replace("wall_seconds", "wall_sec{nds"))
    assert any(one.verdict == "damaged" for one in examine(folder.run))
    ended = train(2)
    assert ended.status == 0, ended.output
    output = " ".join(ended.output.split())
    for said in (
        "It was prepared anew",
        "it is answered again",
        "It is exported again",
        "it is made again",
        "2 row(s) of",
    ):
        assert said in output
    assert {path: path.read_bytes() for path in finished} == before
    assert summary.read_text().partition('"wall_seconds"')[0] == told.partition('"wall_seconds"')[0]
    assert all(one.verdict == "sound" for one in examine(folder.run))


def test_a_cache_that_was_lost(train: Train, folder: Folder) -> None:
    """As with other keys: the files say what is done, and only the page is drawn again."""
    names = ("rollouts/*", "evaluations/*/*", "export/adapter/*", "*.jsonl")
    files = [path for name in names for path in folder.run.glob(name)]
    before = {path: path.stat().st_mtime_ns for path in files}
    summary = (folder.run / "summary.json").read_bytes()
    page = folder.run / "report.html"
    page.write_text("of an earlier summary: a kill came before that of this one was drawn")
    shutil.rmtree(folder.root / ".visual-r1" / "results")
    ended = train(2)
    assert ended.status == 0, ended.output
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert (folder.run / "summary.json").read_bytes() == summary
    assert "</html>" in page.read_text()


def test_the_page_is_of_the_summary_also_where_a_run_goes_back(
    train: Train, folder: Folder
) -> None:
    """What the summary of the first step came to is in the cache; the page is of the second."""
    page = folder.run / "report.html"
    assert "<dt>steps</dt><dd>2</dd>" in page.read_text()
    ended = train(1, "--train.resume_from_step", "1")
    assert ended.status == 0, ended.output
    assert "<dt>steps</dt><dd>1</dd>" in page.read_text()
