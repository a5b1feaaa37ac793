"""What the doctor says of settings, rows and prompts."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import conditions, predictions, problems, write_evaluation, write_metrics

from visual_r1.config import RunConfig
from visual_r1.data.problem import Split
from visual_r1.data.procedural import generate
from visual_r1.doctor import checks
from visual_r1.doctor.checks import Diagnosis, exit_code
from visual_r1.doctor.estimates import workload
from visual_r1.doctor.evidence import Evidence, earlier_evidence
from visual_r1.doctor.examination import examine
from visual_r1.doctor.preflight import require_sound
from visual_r1.doctor.prompts import FirstRows, PromptSizes
from visual_r1.errors import ConfigError, DataError
from visual_r1.models import TINY_GEOMETRY
from visual_r1.prompts.fit import SplitFit, UnfitRow
from visual_r1.report.summary import summarize
from visual_r1.rl.learning import learning_rate as rate_of
from visual_r1.runs.ledger import Ledger, LedgerRow

PROMPTS = PromptSizes(prompts=64, mean=100.0, longest=300, image_mean=60.0, image_longest=250)
PROBLEM = next(iter(generate(0, "train", 1)))
EVIDENCE = Evidence("a test", ((4, 8),) * 10, 50.0, 0.0, sample_rate=1000.0, train_rate=2000.0)


def config(**sections: object) -> RunConfig:
    return RunConfig.model_validate({"preset": "geometry3k", **sections})


@pytest.mark.parametrize(
    ("model", "rate", "severity"),
    [
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 1e-6, "warning"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 4e-5, "ok"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 1e-2, "warning"),
        ("visual-r1/tiny-geometry", 1e-3, "ok"),
        ("visual-r1/tiny-geometry", 1e-6, "warning"),
    ],
)
def test_the_learning_rate_is_held_against_what_lora_wants(
    model: str, rate: float, severity: str
) -> None:
    found = checks.learning_rate(config(model={"name": model}, train={"learning_rate": rate}))
    assert found.severity == severity
    assert ("--train.learning_rate" in found.advice) == (severity != "ok")


def test_steps_that_change_nothing_are_warned_of() -> None:
    def found(steps: int, **optimizer: object) -> Diagnosis | None:
        return checks.schedule(config(train={"steps": steps}, optimizer=optimizer))

    linear = {"schedule": "linear", "schedule_steps": 200}
    late = found(500, **linear)
    assert late is not None
    assert late.severity == "warning"
    assert "steps 200 to 499 change nothing" in late.says
    assert "--optimizer.schedule_steps 500" in late.advice
    one = found(201, **linear)
    assert one is not None
    assert "step 200 changes nothing" in one.says
    assert found(200, **linear) is None
    assert found(500, **linear, final_fraction=0.1) is None
    assert found(500, schedule="constant", schedule_steps=200) is None
    # What is named is what the schedule does.
    mine = config(train={"steps": 500}, optimizer=linear)
    assert [rate_of(mine, step) > 0 for step in (199, 200, 499)] == [True, False, False]


@pytest.mark.parametrize(
    ("clip", "per", "normalization", "warns"),
    [
        (1.0, "token", "token", True),
        (1.0, "response", "constant", True),
        (1.0, "response", "sequence", True),
        (1.0, "sum", "token", False),
        (1.0, "token", "none", False),
        (0.0, "token", "token", False),
    ],
)
def test_a_clip_that_divides_twice_is_warned_of(
    clip: float, per: str, normalization: str, warns: bool
) -> None:
    found = checks.gradient_clip(
        config(
            optimizer={"grad_clip_norm": clip, "grad_clip_per": per},
            algorithm={"normalization": normalization},
        )
    )
    assert (found is not None) == warns
    if found is not None:
        assert found.severity == "warning"
        assert f"optimizer.grad_clip_per {per}" in found.says
        assert f"algorithm.normalization {normalization}" in found.says


def test_a_context_that_is_too_short_is_said_with_the_flags_that_help() -> None:
    """For some rows, which are left out, a warning; for the usual one an error."""
    mine = config(sampling={"max_new_tokens": 768})
    assert checks.context(mine, PROMPTS, 2000).severity == "ok"
    found = checks.context(mine, PROMPTS, 1000)
    assert found.severity == "warning"
    assert checks.context(mine, PROMPTS, 860).severity == "error"
    assert "1068 of 1000" in found.says
    assert "--model.max_pixels" in found.advice
    assert checks.context(mine, PROMPTS, None).severity == "note"


def test_groups_without_contrast_are_foreseen_with_a_way_out() -> None:
    mine = config(train={"group_size": 4})
    easy = replace(EVIDENCE, counts=((19, 20),) * 50)
    found = checks.contrast(mine, easy)
    assert found.severity == "warning"
    assert "--train.group_size" in found.advice
    assert checks.contrast(mine, replace(EVIDENCE, counts=((20, 20),) * 50)).severity == "error"
    assert checks.contrast(mine, EVIDENCE).severity == "ok"
    assert checks.contrast(mine, replace(EVIDENCE, counts=())).severity == "note"


def test_cut_off_answers_are_warned_of() -> None:
    unknown = replace(EVIDENCE, truncated_share=None)
    assert checks.truncation(config(), unknown, thinks=False) is None
    cut = checks.truncation(config(), replace(EVIDENCE, truncated_share=0.4), thinks=False)
    assert cut is not None
    assert cut.severity == "warning"


@pytest.mark.parametrize(("tokens", "warns"), [(2048, True), (8191, True), (8192, False)])
def test_a_model_that_thinks_wants_room_for_it(tokens: int, warns: bool) -> None:
    mine = config(sampling={"max_new_tokens": tokens})
    for evidence in (None, replace(EVIDENCE, truncated_share=None)):
        found = checks.truncation(mine, evidence, thinks=True)
        assert (found is not None) == warns
        if found is not None:
            assert f"cut off at {tokens} tokens" in found.says
            assert "--model.thinking off" in found.advice
        assert checks.truncation(mine, evidence, thinks=False) is None


def test_a_measured_share_takes_the_place_of_the_rule() -> None:
    mine = config(sampling={"max_new_tokens": 2048})
    cut = checks.truncation(mine, replace(EVIDENCE, truncated_share=0.35), thinks=True)
    assert cut is not None
    assert cut.says == "35.0% of answers reach 2048 tokens (a test)"
    assert "8192 and more" in cut.advice
    fine = checks.truncation(mine, replace(EVIDENCE, truncated_share=0.02), thinks=True)
    assert fine is not None
    assert fine.severity == "ok"


def test_the_baseline_tells_the_share_before_any_step(tmp_path: Path) -> None:
    mine = config(output_dir=str(tmp_path))
    mine.run_dir.mkdir(parents=True)
    asked = problems(12)
    made = [
        replace(one, greedy=replace(one.greedy, truncated=place < 3))
        for place, one in enumerate(predictions(asked, 0.5, 0))
        if one.greedy is not None
    ]
    write_evaluation(mine.run_dir / "evaluations/baseline", asked, made)
    found = earlier_evidence(mine)
    assert found is not None
    assert found.truncated_share == 0.25


def test_a_checkpoint_must_outlive_the_chunk_after_it() -> None:
    mine = config(
        train={"chunk_steps": 100, "batch_size": 32, "group_size": 8},
        backend={"checkpoint_ttl_seconds": 3600},
    )
    # 256 answers of 50 tokens at 1,000 a second, and 256 x 150 trained on at 2,000.
    work = workload(mine, PROMPTS, EVIDENCE, test_rows=600)
    assert work.step_seconds == pytest.approx(256 * 50 / 1000 + 256 * 150 / 2000, rel=0.02)
    assert checks.checkpoint_lifetime(mine, work).severity == "warning"
    slow = replace(work, step_seconds=100.0)
    assert checks.checkpoint_lifetime(mine, slow).severity == "error"
    unknown = replace(work, step_seconds=None)
    assert checks.checkpoint_lifetime(mine, unknown).severity == "note"


def test_a_source_without_a_validation_split_is_noted() -> None:
    first = FirstRows((PROBLEM,), (), 1000, 600, validation_rows=0)
    on, off = (config(validation={"every": every}) for every in (1, 0))
    [_, found] = checks.rows(on, first)
    assert found.severity == "note"
    assert "--data.splits.validation" in found.advice
    assert len(checks.rows(off, first)) == 1
    assert len(checks.rows(on, replace(first, validation_rows=300))) == 1


def test_rows_that_cannot_be_used_are_named() -> None:
    none = FirstRows((), ("row 0: there is no image",), 10, 0)
    [found] = checks.rows(config(), none)
    assert found.severity == "error"
    assert "there is no image" in found.says


def test_little_room_and_more_threads_than_cores_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = config(output_dir=str(tmp_path / "not" / "there" / "yet"))
    assert checks.disk(mine).severity == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert checks.disk(mine).severity == "warning"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert checks.disk(mine).severity == "error"

    assert checks.threads(config(backend={"threads": 2}), cores=2).severity == "ok"
    assert "--backend.threads 2" in checks.threads(config(backend={"threads": 9}), cores=2).advice


def test_what_a_resume_would_refuse_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    mine = config(
        output_dir=str(tmp_path),
        model={"name": TINY_GEOMETRY},
        data={"source": "procedural"},
        train={"steps": 4},
    )
    mine.run_dir.mkdir(parents=True)
    row = LedgerRow(
        step=4, state_path="tinker://a:train:0/weights/s", sampler_path="", expires_at=None,
        config_digest=mine.digest(), dataset_digest="d", backend="hosted",
        created_at="2026-01-01T00:00:00+00:00", updates=4,
    )  # fmt: skip
    Ledger(mine.run_dir).append(row)
    [found] = [one for one in examine(mine, measure=False).diagnoses if "step" in one.says]
    assert (found.severity, found.says) == ("note", "has all its 4 steps: nothing is left to train")
    fewer = config(
        **mine.model_dump(include={"output_dir", "model", "data"}),
        run={"name": mine.run_name},
        train={"steps": 2},
        optimizer={"schedule": "linear", "schedule_steps": 1, "grad_clip_norm": 1}
        | {"grad_clip_per": "token"},
        algorithm={"normalization": "token"},
    )
    found = examine(fewer, measure=False).diagnoses
    assert {"schedule", "gradient clip"} <= {one.subject for one in found}
    refused = [one for one in found if one.severity == "error"]
    assert any("has trained 4 steps already" in one.says for one in refused)


def test_of_a_finished_run_it_says_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of what it would take, nor does it start a server for that."""
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    mine = config(
        output_dir=str(tmp_path),
        model={"name": TINY_GEOMETRY},
        data={"source": "procedural"},
        train={"steps": 4},
    )
    asked = problems(40)
    for name, accuracy in (("baseline", 0.3), ("final", 0.9)):
        made = predictions(asked, accuracy, seed=0)
        write_evaluation(mine.run_dir / "evaluations" / name, asked, made)
    write_metrics(mine.run_dir, steps=4)
    row = LedgerRow(
        step=4, state_path="tinker://a:train:0/weights/s",
        sampler_path=conditions().sampler_path, expires_at=None,
        config_digest=mine.digest(), dataset_digest="d", backend="embedded",
        created_at="2026-01-01T00:00:00+00:00", updates=4,
    )  # fmt: skip
    Ledger(mine.run_dir).append(row)
    summary = summarize(mine.run_dir, steps=4, wall_seconds=61)
    examination = examine(mine, measure=None)
    assert examination.work is None
    says = {one.subject: one.says for one in examination.diagnoses}
    assert says["configuration"] == "has all its 4 steps: nothing is left to train"
    assert says["result"] == summary.conclusion
    assert says["took"] == "4 steps, 4 of them with an update, in 1 min 1 s"
    assert "server" not in says
    assert not (tmp_path / ".visual-r1").exists()
    assert exit_code(examination.diagnoses) == 0


def test_a_wrong_column_is_found_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"fig": "a.png", "q": "<image>?", "answer": "1"}\n')
    wrong = {"preset": "quickstart", "data": {"source": str(tmp_path)}}
    with pytest.raises(DataError, match="no column 'problem' and no 'images'"):
        require_sound(RunConfig.model_validate(wrong))
    columns = {"problem": "q", "images": "fig"}
    right = wrong | {"data": {"source": str(tmp_path), "columns": columns}}
    require_sound(RunConfig.model_validate(right))


def test_the_worst_diagnosis_decides_the_exit_status() -> None:
    assert exit_code([]) == 0
    assert exit_code([Diagnosis("ok", "a", ""), Diagnosis("note", "b", "")]) == 0
    assert exit_code([Diagnosis("warning", "a", ""), Diagnosis("ok", "b", "")]) == 1
    assert exit_code([Diagnosis("error", "a", ""), Diagnosis("warning", "b", "")]) == 2


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"lora_rank": 513}, "513 is out of range"),
        ({"train_mlp": False, "train_attn": False, "train_unembed": False}, "nothing to train"),
    ],
)
def test_a_lora_that_the_engine_does_not_train_is_refused_before_anything_starts(
    model: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        require_sound(RunConfig.model_validate({"preset": "quickstart", "model": model}))


def test_rows_that_do_not_fit_are_named_with_what_becomes_of_them() -> None:
    mine, none = config(evaluation={"problems": 20}), np.zeros(0, np.int64)

    def fit(split: Split, rows: int, *places: int) -> SplitFit:
        unfit = (UnfitRow(split, place, f"p{place}", "it is too long") for place in places)
        return SplitFit(rows, tuple(unfit), none, none)

    found = checks.rows_that_fit(mine, {"train": fit("train", 9, 4), "test": fit("test", 40, 7)})
    assert [one.severity for one in found] == ["warning", "warning"]
    assert found[0].says == "1 of 9 rows of train cannot be asked about: 'p4': it is too long"
    assert "left out of training" in found[0].advice and "count as failed" in found[1].advice
    for split, rows, places in (("train", 2, (0, 1)), ("test", 40, (1, 2, 3))):
        (one,) = checks.rows_that_fit(mine, {split: fit(split, rows, *places)})
        assert one.severity == "error" and "The run will be refused" in one.advice
    # A row that the evaluation does not ask about is none of its.
    for found in ({"test": fit("test", 40, 39)}, {"train": fit("train", 9)}):
        assert [one.severity for one in checks.rows_that_fit(mine, found)] == ["ok"]


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("sapo", "it is computed here, from the learner's log-probabilities: learning costs twice"),
        ("dro", "its penalty needs the learner's log-probabilities"),
        ("stable_reinforce", "an alpha there"),
    ],
)
def test_what_a_loss_costs_beside_its_update_is_said(loss: str, says: str) -> None:
    found = checks.loss(RunConfig.model_validate({"train": {"loss": loss}}))
    assert found is not None
    assert (found.severity, says in found.says) == ("note", True)
    assert checks.loss(RunConfig.model_validate({"train": {"loss": "gspo"}})) is None


def test_whether_a_batch_is_learnt_from_while_it_is_sampled_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of(**values: dict[str, object]) -> RunConfig:
        return RunConfig.model_validate(values)

    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    here = checks.streaming(of())
    assert (here.severity, "in one call" in here.says) == ("ok", True)
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
    says = checks.streaming(of()).says
    assert "in up to 4 parts" in says and "unless the server samples and trains in turns" in says
    assert "unless" not in checks.streaming(of(pipeline={"parts": 3})).says
    whole = checks.streaming(of(algorithm={"normalization": "sequence", "max_staleness": 1}))
    assert whole.severity == "note"
    assert "as a whole, for algorithm.normalization sequence divides" in whole.says
    assert "up to 1 step is sampled ahead" in whole.says

    assert checks.staleness(of()) is None
    stale = {"max_staleness": 2}
    unbounded = checks.staleness(of(algorithm=stale))
    assert unbounded is not None and "--pipeline.correction token_truncate" in unbounded.advice
    for bounded in ({"train": {"loss": "cispo"}}, {"pipeline": {"correction": "token_mask"}}):
        found = checks.staleness(of(algorithm=stale, **bounded))
        assert found is not None and found.severity == "ok"
    short = checks.staleness(of(algorithm=stale, train={"loss": "ppo", "chunk_steps": 4}))
    assert short is not None and "--train.chunk_steps 10" in short.advice
