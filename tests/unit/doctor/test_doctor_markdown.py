"""The doctor's findings as a page."""

from pathlib import Path

from visual_r1.config.overrides import with_overrides
from visual_r1.doctor.checks import Diagnosis
from visual_r1.doctor.examination import Examination, examine
from visual_r1.doctor.markdown import report, verdict


def test_the_worst_is_first_and_what_it_says_is_no_markup(tmp_path: Path) -> None:
    config = with_overrides("quickstart", {"output_dir": str(tmp_path), "run.name": "mine"})
    seen = Examination()
    seen.add(
        Diagnosis("ok", "disk", "much"),
        Diagnosis("error", "server", "a | b <i>", "Do that."),
        Diagnosis("warning", "threads", "many"),
    )
    page = report(seen, config)
    assert verdict(seen) == "1 error, 1 warning"
    assert page.startswith("## mine: 1 error, 1 warning\n")
    assert page.index("server") < page.index("threads") < page.index("disk")
    assert r"a \| b \<i\> Do that." in page


def test_a_run_that_is_well_is_told_with_what_it_takes(tmp_path: Path) -> None:
    few = {"data.train": 16, "data.validation": 2, "data.test": 8, "train.steps": 2}
    config = with_overrides("quickstart", few | {"output_dir": str(tmp_path)})
    page = report(examine(config, measure=False), config)
    assert "| sampled | at most " in page
    assert "the embedded engine costs nothing" in page
