"""A source with too many bad rows stops the run and says why; a few bad rows do not."""

from pathlib import Path

import pytest
from drawn import hub_row, read_rejected, write_parquet

from visual_r1.config import DataSection
from visual_r1.data.dataset import prepare
from visual_r1.data.preparation import without_values
from visual_r1.errors import DataError


def source(folder: Path, good: int, bad: int, **fault: object) -> Path:
    rows = [hub_row(n) for n in range(good)]
    rows += [hub_row(100 + n, **(fault or {"answer": ""})) for n in range(bad)]
    write_parquet(folder / "train.parquet", rows)
    write_parquet(folder / "test.parquet", [hub_row(500)])
    return folder


def test_more_bad_rows_than_allowed_stop_the_run(tmp_path: Path) -> None:
    data = DataSection(source=str(source(tmp_path / "set", 14, 5)), max_rejected_share=0.2)
    with pytest.raises(DataError) as raised:
        prepare(data, tmp_path)
    sentence = str(raised.value)
    assert "5 of 20 rows" in sentence and "share of 0.2 that --data.max_rejected_share" in sentence
    assert "5 because the answer is empty" in sentence and "\n" not in sentence
    listed = Path(sentence.partition("; ")[2].partition(" holds")[0])
    assert listed.parent == tmp_path / "data"
    assert [row["row"] for row in read_rejected(listed.parent, listed.name)] == [
        f"train.parquet row {n}" for n in range(14, 19)
    ]
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
    # Allowed, it goes on; what the failure left behind is gone.
    dataset = prepare(data.model_copy(update={"max_rejected_share": 0.25}), tmp_path)
    assert dataset.counts["rejected"] == 5
    assert not listed.exists()


def test_the_share_itself_is_allowed_and_changes_no_dataset(tmp_path: Path) -> None:
    data = DataSection(source=str(source(tmp_path / "set", 15, 4)), max_rejected_share=0.2)
    first = prepare(data, tmp_path)
    assert first.counts["rejected"] == 4
    assert prepare(data.model_copy(update={"max_rejected_share": 1.0}), tmp_path) == first


def test_the_three_most_frequent_reasons_are_named(tmp_path: Path) -> None:
    rows = [hub_row(n) for n in range(3)]
    rows += [hub_row(10 + n, answer=f"\\int_{n}^9 x") for n in range(5)]
    rows += [hub_row(20 + n, problem="") for n in range(4)]
    rows += [hub_row(30 + n, images=[]) for n in range(3)]
    rows += [hub_row(40, answer=None), hub_row(41, answer="")]
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(500)])
    with pytest.raises(DataError) as raised:
        prepare(DataSection(source=str(tmp_path / "set")), tmp_path)
    reasons = str(raised.value).partition("allows: ")[2]
    assert reasons.startswith("5 because the gold answer … does not grade as itself")
    assert "4 because the problem is empty, 3 because there is no image, 2 for other" in reasons


def test_duplicates_are_no_fault(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", [hub_row(n % 3) for n in range(12)])
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(50)])
    dataset = prepare(DataSection(source=str(tmp_path / "set"), max_rejected_share=0.0), tmp_path)
    assert (dataset.counts["train"], dataset.counts["rejected"]) == (3, 9)


def test_a_hopeless_source_stops_early(tmp_path: Path) -> None:
    class Watching:
        seen = 0

        def start(self, stage: str, total: int, unit: str, done: int = 0) -> None: ...

        def advance(self, n: int = 1, **shown: float) -> None:  # noqa: ARG002
            self.seen += n

        def finish(self, summary: str = "") -> None: ...

    progress = Watching()
    data = DataSection(source=str(source(tmp_path / "set", 0, 5000, images=[])))
    with pytest.raises(DataError, match="there is no image"):
        prepare(data, tmp_path, progress)
    assert progress.seen < 1100


def test_reasons_are_counted_without_the_values_of_their_rows() -> None:
    assert without_values("the image has 3 x 4 pixels") == without_values(
        "the image has 31 x 2 pixels"
    )
    assert without_values("the id 'it\\'s' came before") == "the id … came before"
