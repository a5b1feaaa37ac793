"""Labels in dispute: those that were planted are found first, and the figure says what it says."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import predictions, write_evaluation
from scipy import stats

from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.data.problem import Problem
from visual_r1.disputes.agreement import Agreements
from visual_r1.disputes.answers import Said, judged
from visual_r1.disputes.command import main
from visual_r1.disputes.find import dataset_of_run, find_disputes
from visual_r1.regrade.golds import Gold, gold_of
from visual_r1.runs.decisions import read_decisions
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.journal import Journal
from visual_r1.storage import write_json
from visual_r1.tables import pa, write_table

SAMPLES = 8
PLANTED = 2


def test_the_figure_is_what_it_says_where_all_labels_are_right() -> None:
    """Of problems drawn from a Beta-binomial, a share p has a p-value of p or less: at most, for
    counts are whole numbers."""
    draw = np.random.default_rng(1)
    shares = draw.beta(0.6, 3.0, size=400)
    pairs = [(int(draw.binomial(12, q)), 12) for q in shares]
    agreements = Agreements(pairs)
    p_values = np.array([agreements.p_value(*pair) for pair in pairs], dtype=float)
    for level in (0.02, 0.1, 0.3):
        share = float((p_values <= level).mean())
        test: Any = stats.binomtest(int((p_values <= level).sum()), len(pairs), level)
        assert share <= level or test.pvalue > 0.01, (level, share)
    exact = stats.betabinom.sf(8, 12, 0.6, 3.0)  # type: ignore[attr-defined]
    assert agreements.p_value(9, 12) == pytest.approx(exact, rel=0.2)


def test_of_few_problems_nothing_is_said() -> None:
    assert Agreements([(3, 8)] * 20).p_value(3, 8) is None
    assert Agreements([(3, 8)] * 19 + [(8, 8)] * 2).p_value(8, 8) is not None


def gold(answer: str, choices: tuple[str, ...] = ()) -> Gold:
    return gold_of(Problem("1", (), "?", answer, choices))


def test_answers_are_counted_by_what_is_the_same() -> None:
    said = Said()
    for text in ("12.50", "25/2 cm", "12.5", "13", "25", None, "13"):
        said.add(text, "rollouts")
    found = judged(said, gold("25"), "exact")
    assert (found.n, found.right, found.agreeing, found.others) == (7, 1, 3, 2)
    assert found.answer == "12.5" and found.against_gold
    # Behind choices a letter and the text of its choice are one answer.
    said = Said()
    for text in ("B", "6", "(b)", "A"):
        said.add(text, "final")
    found = judged(said, gold("A", ("5", "6")), "exact")
    assert (found.right, found.agreeing, found.others) == (1, 3, 1)


def test_a_single_wrong_answer_is_no_agreement() -> None:
    said = Said()
    said.add("7", "rollouts")
    assert not judged(said, gold("8"), "exact").against_gold


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy is right in 17 of 20 answers and errs in many ways; of the first
    problems it says another answer that is right, for their labels are wrong."""
    folder = tmp_path_factory.mktemp("disputes")
    config = RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "data": {"train": 40, "validation": 2, "test": 2},
            "run": {"name": "made"},
        }
    )
    dataset = prepare(config.data, folder)
    write_json(config.run_dir / "config.json", config_without_secrets(config))
    draw = random.Random(5)
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(dataset.problems("train")):
        truth = "-17" if place < PLANTED else one.answer
        for sample in range(SAMPLES):
            text = truth if draw.random() < 0.85 else str(-draw.randrange(20, 24))
            row = {"step": 0, "problem_id": one.id, "group": place, "sample": sample}
            response = f"<think>so</think><answer>{text}</answer>"
            rows.append({**row, "response": response, "verdict": "wrong", "reason": ""})
    path = config.run_dir / "rollouts/chunk-00000.parquet"
    path.parent.mkdir()
    write_table(path, pa.Table.from_pylist(rows))
    row = {
        "step": 1, "state_path": "tinker://a:train:0/weights/b", "sampler_path": "tinker://a",
        "expires_at": None, "config_digest": config.digest(), "dataset_digest": dataset.digest,
        "backend": "embedded", "created_at": "2026-05-01T10:00:00+00:00", "updates": 1,
        "carry": {}, "periodic": False,
        "digests": Journal(config.run_dir).rollouts_digest(path), "lines": {},
    }  # fmt: skip
    (config.run_dir / "ledger.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def place(made_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_planted_labels_are_the_least_likely(place: Path) -> None:
    found = find_disputes(place / "runs/made")
    first = found.rows[:PLANTED]
    assert {one.answer for one in first} == {"-17"} and {one.right for one in first} == {0}
    assert len({one.problem_id for one in first}) == PLANTED
    assert all(one.p_value is not None and one.p_value < 0.1 for one in first)
    assert [one.p_value for one in found.rows] == sorted(one.p_value or 2 for one in found.rows)
    assert first[0].expected == pytest.approx(40 * (first[0].p_value or 0))
    assert found.problems == {"train": 40, "validation": 0, "test": 0} and not found.trouble


def test_answers_of_another_dataset_are_of_other_problems(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A suite's problem may have the id of one of the run's."""
    run_dir = place / "runs/made"
    ledger = json.loads((run_dir / "ledger.jsonl").read_text())
    dataset = dataset_of_run(run_dir, place)
    assert dataset.digest == ledger["dataset_digest"]
    asked = list(dataset.problems("test"))
    made = predictions(asked, 0.0, seed=1)
    write_evaluation(run_dir / "evaluations/base-suite", asked, made)
    assert find_disputes(run_dir).problems["test"] == 0
    own = run_dir / "evaluations/baseline"
    write_evaluation(own, asked, made, dataset_digest=dataset.digest)
    assert find_disputes(run_dir).problems["test"] == len(asked)
    # Without a ledger, what is listed and what is decided are of one dataset.
    (run_dir / "ledger.jsonl").unlink()
    write_evaluation(run_dir / "evaluations/a-suite", asked, made)
    shutil.rmtree(run_dir / "evaluations/base-suite")
    assert find_disputes(run_dir).dataset == dataset.folder
    given = ["decide", "made", asked[0].id, "gold", "--output-dir", str(place)]
    assert main(given) == 0, capsys.readouterr().err


def test_a_person_decides_and_the_list_knows(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    first, second, *_ = find_disputes(place / "runs/made").rows
    here = ["--output-dir", str(place)]
    assert main(["made", *here]) == 0
    shown = capsys.readouterr().out
    assert first.problem_id in shown and "-17" in shown and "expected" in shown
    how = ["decide", "made", first.problem_id, "other", "--answer", "-17", "--who", "ada", *here]
    assert main(how) == 0
    assert main(["decide", "made", second.problem_id, "gold", *here]) == 0
    found = find_disputes(place / "runs/made")
    assert len(found.rows) - len(found.open) == 2
    assert {one.problem_id for one in found.open}.isdisjoint({first.problem_id, second.problem_id})
    made = read_decisions(place).about(first.problem_id, first.content)
    assert made is not None and (made.decision, made.answer, made.who) == ("other", "-17", "ada")
    capsys.readouterr()
    assert main(["made", "--json", *here]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert len(told["disputes"]) == len(found.open)
    assert main(["decided", *here]) == 0
    assert first.problem_id in capsys.readouterr().out
    assert main(["decide", "made", first.problem_id, "withdrawn", *here]) == 0
    assert len(find_disputes(place / "runs/made").open) == len(found.open) + 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["nothing"], "There is no run 'nothing'"),
        (["made", "--most", "-3"], "--most -3 is no number of rows"),
        (["decide", "made", "nothing", "drop"], "There is no problem 'nothing'"),
        (["decide", "made", "procedural-0-train-0", "other"], "needs the answer that is right"),
    ],
)
def test_a_mistake_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    assert main([*given, "--output-dir", str(place)]) == 1
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err
    assert not (place / "disputes.jsonl").exists()


def test_without_the_dataset_it_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place / "data")
    assert main(["made", "--output-dir", str(place)]) == 1
    assert "prepare it again" in capsys.readouterr().err
