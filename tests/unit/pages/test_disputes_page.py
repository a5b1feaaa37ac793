"""What the page of disputes keeps of a search, and when it searches again."""

import json
import os
from pathlib import Path

import pytest
from looked_at import evaluated, trained

from trials.browser import wait_for
from visual_r1.pages import disputes
from visual_r1.pages.disputes import Disputes, Search
from visual_r1.pages.place import Place

SOUND = {"disputes": [], "problems": {"test": 3}, "trouble": []}


class Searched:
    """In place of the command: prints what it is told, and counts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says, self.count = folder / "says.json", folder / "count"
        self.count.touch()
        script = f"cat {self.says}; echo x >> {self.count}"
        monkeypatch.setattr(disputes, "_COMMAND", ["sh", "-c", script])

    def say(self, *trouble: str) -> None:
        self.says.write_text(json.dumps([SOUND | {"trouble": list(trouble)}]))

    @property
    def times(self) -> int:
        return len(self.count.read_text().splitlines())


def found(search: Search, place: Place, run_dir: Path) -> Disputes:
    one = wait_for(lambda: search.found(place, run_dir), "what was found")
    assert isinstance(one, Disputes)
    return one


def test_a_file_that_is_put_back_is_looked_at_and_trouble_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = trained(tmp_path, "a")
    evaluated(run_dir, "final", 0.8)
    predictions = run_dir / "evaluations/final/predictions.parquet"
    predictions.write_bytes(b"good")
    there = predictions.stat()
    place, search = Place(tmp_path, ()), Search()
    searched = Searched(tmp_path, monkeypatch)
    predictions.write_bytes(b"bad")
    searched.say("remove the folder evaluations/final and evaluate again")
    assert found(search, place, run_dir).trouble
    assert found(search, place, run_dir).trouble and searched.times == 1
    predictions.write_bytes(b"good")
    os.utime(predictions, ns=(there.st_atime_ns, there.st_mtime_ns))
    searched.say()
    assert not found(search, place, run_dir).trouble
    assert not found(search, place, run_dir).trouble and searched.times == 2
    # Nor by another process, nor where something else than an answer was mended.
    assert not found(Search(), place, run_dir).trouble and searched.times == 2
    predictions.write_bytes(b"grown")
    searched.say("The dataset is not in data")
    assert found(search, place, run_dir).trouble
    searched.say()
    monkeypatch.setattr(disputes, "_AGAIN_AFTER_S", 0.0)
    wait_for(lambda: not found(search, place, run_dir).trouble, "the dataset")
    predictions.unlink()
    assert not found(search, place, run_dir).trouble


def test_trouble_that_an_older_version_kept_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = trained(tmp_path, "a")
    place, search = Place(tmp_path, ()), Search()
    searched = Searched(tmp_path, monkeypatch)
    searched.say()
    assert not found(search, place, run_dir).trouble
    [kept] = (place.state_dir / "disputes").glob("*.json")
    kept.write_text(json.dumps([SOUND | {"trouble": ["remove the folder"]}]))
    assert not found(search, place, run_dir).trouble
    assert searched.times == 2
