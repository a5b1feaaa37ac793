import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from visual_r1.errors import RunError, StorageError
from visual_r1.runs.ledger import Ledger, LedgerRow


def row(step: int) -> LedgerRow:
    return LedgerRow(
        step=step,
        state_path=f"tinker://m:train:0/weights/step-{step}",
        sampler_path=f"tinker://m:train:0/sampler_weights/step-{step}",
        expires_at="2026-05-08T10:00:00+00:00",
        config_digest="c0ffee00",
        dataset_digest="da7a5e7",
        backend="embedded",
        created_at="2026-05-01T10:00:00+00:00",
        updates=step - 1,
        carry={"seen": [1, 2]},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path)
    for step in (4, 8, 12):
        made.append(row(step))
    return made


def test_rows_come_back_as_they_were_appended(ledger: Ledger) -> None:
    assert ledger.rows() == [row(4), row(8), row(12)]
    assert Ledger(ledger.path.parent).rows() == ledger.rows()


def test_the_file_has_the_documented_names(ledger: Ledger) -> None:
    first = json.loads(ledger.path.read_text().splitlines()[0])
    documented = {"step", "state_path", "sampler_path", "expires_at", "config_digest"}
    assert documented | {"dataset_digest", "backend", "created_at"} <= set(first)
    assert "started_from" not in first  # as in rows from before there were such starts


def test_an_empty_ledger_has_nothing_to_resume_from(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.rows() == []
    assert ledger.newest_loadable(lambda _: pytest.fail("nothing to ask for")) is None


def changed(**values: object) -> str:
    """A row that would be the fourth, but for these values."""
    return json.dumps(asdict(row(16)) | values)


@pytest.mark.parametrize(
    "torn",
    [
        json.dumps({"step": 16})[:-4],
        '{"step": 16}',
        "[]",
        '{"step": "16"}',
        "\0\0\0",
        changed(updates="15"),
        changed(updates=True),
        changed(expires_at=1_800_000_000),
        changed(expires_at="next week"),
        changed(expires_at="2026-05-08T10:00:00"),  # nobody can say when that is
        changed(created_at=None),
        changed(carry=[1]),
        changed(surplus=1),
    ],
)
def test_a_damaged_last_row_is_reported_and_set_aside(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    with ledger.path.open("a") as out:
        out.write(torn)
    with caplog.at_level(logging.WARNING):
        assert ledger.rows() == [row(4), row(8), row(12)]
    [record] = caplog.records
    assert "The last row of" in record.getMessage()
    assert "goes on from step 12" in record.getMessage()
    assert torn in ledger.set_aside_path.read_text()
    caplog.clear()
    ledger.append(row(16))
    assert [known.step for known in ledger.rows()] == [4, 8, 12, 16]
    assert not caplog.records


def test_a_row_torn_in_its_first_bytes_leaves_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    ledger.path.write_text('{"st')
    assert ledger.rows() == []
    assert "goes on from the beginning" in caplog.text


def test_a_damaged_row_in_the_middle_is_refused_and_stays(ledger: Ledger) -> None:
    lines = ledger.path.read_text().splitlines(keepends=True)
    damaged = lines[0] + lines[1][:20] + "\n" + lines[2]
    ledger.path.write_text(damaged)
    with pytest.raises(RunError, match="Row 2 of"):
        ledger.rows()
    assert ledger.path.read_text() == damaged


def lines_of(ledger: Ledger, *numbers: int) -> None:
    """Let the file consist of these of its lines."""
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(lines[number] for number in numbers))


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ((0, 2), "row 2 does not follow on what stands before"),
        ((1, 2), "row 1 does not follow"),
        ((0, 2, 1), "rows 2, 3 do not follow"),
        ((1, 0, 2), "rows 1, 2, 3 do not follow"),
    ],
)
def test_a_row_that_is_missing_or_moved_is_refused_until_the_user_says_where_to_go_on(
    ledger: Ledger, numbers: tuple[int, ...], fault: str
) -> None:
    steps = sorted(row.step for row in (ledger.rows()[number] for number in numbers))
    lines_of(ledger, *numbers)
    before = ledger.path.read_bytes()
    with pytest.raises(RunError, match=fault) as caught:
        ledger.rows()
    assert f"--train.resume_from_step (0, {', '.join(map(str, steps))};" in str(caught.value)
    assert ledger.path.read_bytes() == before
    assert not ledger.ends_at(12)
    newest = ledger.go_back_to(steps[-1])
    assert newest == ledger.rows()[-1] == row(steps[-1])
    assert [known.step for known in ledger.rows()] == steps


@pytest.mark.parametrize("numbers", [(0, 1, 2, 2), (0, 0, 1, 2), (0, 1, 2, 0), (0, 1, 1, 2, 2)])
def test_a_row_that_stands_there_twice_counts_once_and_is_said(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, numbers: tuple[int, ...]
) -> None:
    before = ledger.path.read_bytes()
    lines_of(ledger, *numbers)
    assert ledger.rows() == [row(4), row(8), row(12)]
    assert f"{len(numbers) - 3} row(s) of" in caplog.text
    assert "stood there twice" in caplog.text
    assert ledger.path.read_bytes() == before


def test_an_older_ledger_in_a_wrong_order_is_refused(ledger: Ledger) -> None:
    ledger.path.write_text("".join(json.dumps(asdict(row(s))) + "\n" for s in (4, 12, 8)))
    with pytest.raises(RunError, match="step 8 stands behind a later one"):
        ledger.rows()
    assert ledger.go_back_to(8) == row(8)


def test_no_bit_of_a_row_changes_in_silence(ledger: Ledger) -> None:
    whole = ledger.path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        ledger.path.write_bytes(changed)
        found = ledger.read()
        assert found.damaged or found.gaps
        assert len(found.sound) < 3 or found.gaps


def test_the_newest_row_whose_state_is_on_the_server_counts(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def exists(path: str) -> bool:
        asked.append(path)
        return path.endswith("step-8")

    assert ledger.newest_loadable(exists) == row(8)
    assert asked == [row(12).state_path, row(8).state_path]
    assert "step 12" in caplog.text
    assert "has gone from the server" in caplog.text


def test_when_all_have_gone_it_is_for_the_user_to_say(ledger: Ledger) -> None:
    with pytest.raises(RunError, match="steps 4, 8, 12") as caught:
        ledger.newest_loadable(lambda _: False)
    assert "--train.resume_from_step 0" in str(caught.value)
    assert len(ledger.rows()) == 3


def test_going_back_sets_later_rows_aside(ledger: Ledger) -> None:
    assert ledger.go_back_to(8) == row(8)
    assert ledger.rows() == [row(4), row(8)]
    assert json.loads(ledger.set_aside_path.read_text())["step"] == 12
    ledger.append(replace(row(12), created_at="2026-05-02T10:00:00+00:00"))
    assert ledger.go_back_to(0) is None
    assert ledger.rows() == []
    aside = [json.loads(line)["step"] for line in ledger.set_aside_path.read_text().splitlines()]
    assert aside == [12, 4, 8, 12]


def test_going_back_to_a_step_that_is_not_there_lists_those_that_are(ledger: Ledger) -> None:
    with pytest.raises(RunError, match="one of: 4, 8, 12"):
        ledger.go_back_to(10)
    assert len(ledger.rows()) == 3


def test_a_row_never_goes_backwards(ledger: Ledger) -> None:
    for step in (8, 12):
        with pytest.raises(RunError, match="already holds step 12"):
            ledger.append(row(step))


@pytest.mark.parametrize(
    ("dataset", "backend", "named"),
    [("other", "embedded", "dataset da7a5e7"), ("da7a5e7", "hosted", "backend embedded")],
)
def test_another_server_or_dataset_is_refused(
    ledger: Ledger, dataset: str, backend: str, named: str
) -> None:
    ledger.require_same_origin(dataset_digest="da7a5e7", backend="embedded")
    with pytest.raises(RunError, match=named):
        ledger.require_same_origin(dataset_digest=dataset, backend=backend)


def test_a_full_disk_leaves_the_ledger_as_it_was(
    ledger: Ledger, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = ledger.path.read_bytes()
    with pytest.raises(StorageError, match="could not write"), full_disk(16_384):
        ledger.append(replace(row(16), carry={"big": "x" * 100_000}))
    assert ledger.path.read_bytes() == before
