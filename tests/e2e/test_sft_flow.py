"""A cold start and the training that goes on from it, as commands."""

import json
from pathlib import Path

import pytest
from warm_command import WarmCommand

from visual_r1.runs.ledger import Ledger

FLAGS = (
    *("--data.train", 16, "--data.validation", 4, "--data.test", 16),
    *("--train.chunk_steps", 1, "--train.batch_size", 4, "--train.group_size", 2),
    *("--evaluation.samples", 1, "--no-evaluation.blind", "--no-validation.blind"),
    *("--backend.threads", 1, "--no-logging.wandb"),
)
COLD = ("--run.name", "cold", "--sft.responses", "meta.solution", "--train.steps", 2)


def accuracy(folder: Path, run: str, name: str) -> float:
    report = json.loads((folder / f"runs/{run}/evaluations/{name}/report.json").read_text())
    return report["accuracy"]


def test_training_begins_with_what_a_cold_start_came_to(
    warm: WarmCommand, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cold")
    given = ("--output-dir", folder, *FLAGS)
    ended = warm.run(*given, *COLD, flow="sft")
    assert ended.status == 0, ended.output
    cold = folder / "runs/cold"
    page = (cold / "report.html").read_text()
    assert "Loss of the responses, nats a token" in page and "Mean reward" not in page
    assert not (cold / "rollouts").exists()

    # What a budget foretells of it is no step that samples, and no evidence for one that does.
    given_less = ("--run.name", "less", "--limits.budget_tokens", 4000)
    less = warm.run(*given, *COLD, *given_less, flow="sft")
    assert "limits.budget_tokens is 4,000 tokens" in less.sentence
    nowhere = warm.run(*given, "--run.name", "nowhere", "--sft.responses", "response", flow="sft")
    assert "--sft.responses meta.solution" in nowhere.sentence

    # As the other kind of run it is none.
    wrong = warm.run(*given, *COLD)
    assert "python flows/sft_flow.py" in wrong.sentence

    started = ("--run.name", "trained", "--model.start_from", "cold", "--train.steps", 1)
    ended = warm.run(*given, *started)
    assert ended.status == 0, ended.output
    assert accuracy(folder, "trained", "baseline") == accuracy(folder, "cold", "final")
    last = Ledger(cold).rows()[-1]
    [row] = Ledger(folder / "runs/trained").rows()
    assert row.started_from == last.state_path
    page = (folder / "runs/trained/report.html").read_text()
    assert "cold, step 2, without its optimizer" in page

    gone = warm.run(*given, "--run.name", "other", "--model.start_from", "cold@9")
    assert "choose best, final, or one of the steps 1, 2" in gone.sentence
    assert not (folder / "runs/other").exists()
