"""A loss of the user's own as the SDK calls it: its gradient, and what is said where it is none."""

import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
import torch
from sampled import PROMPT, rollout

from visual_r1.config import AlgorithmSection, RunConfig, TrainSection
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import ConfigError, LossError, RunError
from visual_r1.rl.datums import datum
from visual_r1.rl.losses import Loss, loss_of
from visual_r1.rl.own_loss import load_loss
from visual_r1.rl.sapo import sapo
from visual_r1.runs.folder import keep_files, require_same_files

ROOT = Path(__file__).parents[3]
LENGTHS = (3, 1, 6)
ADVANTAGES = (1.5, -0.75, 0.0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A working directory of the test's own; what is imported from it is forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    load_loss.cache_clear()
    yield tmp_path
    load_loss.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def minibatch(dtype: torch.dtype = torch.float32) -> tuple[list[tinker.Datum], list[torch.Tensor]]:
    """Three responses, and log-probabilities of the learner that are off by up to about 1."""
    rng = np.random.default_rng(2)
    data: list[tinker.Datum] = []
    logprobs: list[torch.Tensor] = []
    for length, advantage in zip(LENGTHS, ADVANTAGES, strict=True):
        one = rollout(tokens=range(21, 21 + length))
        data.append(datum(PROMPT, one.tokens, one.logprobs, advantage, mask="mask"))
        values = np.append(np.full(8, -3.0), np.array(one.logprobs) + rng.standard_normal(length))
        logprobs.append(torch.tensor(values, dtype=dtype, requires_grad=True))
    return data, logprobs


def gated(logp: np.ndarray, q: np.ndarray, advantage: float, taus: tuple[float, float]) -> Any:
    """SAPO's loss of a response and its slope by logp, in float64 as the paper has it."""
    tau = taus[0] if advantage > 0 else taus[1]
    r = np.exp(logp - q)
    sigma = 1 / (1 + np.exp(-tau * (r - 1)))
    return -(4 / tau * sigma * advantage).sum(), -4 * sigma * (1 - sigma) * r * advantage


@pytest.mark.parametrize("taus", [(1.0, 1.05), (0.5, 3.0)])
def test_sapo_is_the_papers_formula(taus: tuple[float, float]) -> None:
    data, logprobs = minibatch(torch.float64)
    loss, logged = sapo(data, logprobs, tau_pos=taus[0], tau_neg=taus[1])
    loss.backward()
    total = 0.0
    for place, (one, logp) in enumerate(zip(data, logprobs, strict=True)):
        q = one.loss_fn_inputs["logprobs"].to_numpy().astype(np.float64)[8:]
        value, slope = gated(logp.detach().numpy()[8:], q, ADVANTAGES[place], taus)
        total += value
        assert logp.grad is not None
        np.testing.assert_allclose(logp.grad.numpy()[8:], slope, rtol=1e-12)
        assert not logp.grad.numpy()[:8].any()
    assert float(loss.detach()) == pytest.approx(total, rel=1e-12)
    assert 0 < logged["gate_mean"] < 1


def test_on_policy_sapo_has_the_slope_of_importance_sampling_and_never_overflows() -> None:
    data, logprobs = minibatch()
    with torch.no_grad():
        for one, logp in zip(data, logprobs, strict=True):
            logp.copy_(one.loss_fn_inputs["logprobs"].to_torch())
        logprobs[1][8] += 200.0
    sapo(data, logprobs)[0].backward()
    slopes = [logp.grad[8:].tolist() for logp in logprobs if logp.grad is not None]
    assert slopes == [pytest.approx([-1.5] * 3), [0.0], [0.0] * 6]


def called(loss_name: str, /, **config: Any) -> tuple[Any, dict[str, float], list[Any]]:
    """Through the SDK's own code: the weights it would send are minus the slopes."""
    settings = AlgorithmSection(loss_config=config)
    loss = loss_of(TrainSection(loss=loss_name), settings)
    assert loss.own is not None and loss.mask is not None and loss.name == "cross_entropy"
    data, logprobs = minibatch()
    result, logged = loss.own.at(7, loss.config)(data, logprobs)
    result.backward()
    return result.detach(), logged, [logp.grad for logp in logprobs]


def test_the_value_is_the_users_and_the_prompt_gets_no_gradient(here: Path) -> None:
    (here / "mine.py").write_text(
        "def squared(data, logprobs, *, power=2, scale=1.0, name='x'):\n"
        "    return scale * sum((lp ** power).sum() for lp in logprobs[:2]), {'n': len(data)}\n"
    )
    value, logged, slopes = called("mine:squared", scale=0.5)
    _, logprobs = minibatch()
    assert float(value) == float(0.5 * sum((lp**2).sum() for lp in logprobs[:2]).detach())
    assert logged == {"own/n": 3.0}
    for logp, slope in zip(logprobs[:2], slopes[:2], strict=True):
        torch.testing.assert_close(slope[8:], logp.detach()[8:])
        assert not slope[:8].any()
    assert not slopes[2].any()  # which the loss does not read
    with pytest.raises(ConfigError, match=r"no setting 'name'; it has power, scale\."):
        called("mine:squared", name=1.0)


def test_the_example_in_the_docs_runs(here: Path) -> None:
    text = (ROOT / "docs/losses.md").read_text()
    (here / "my_losses.py").write_text(text.split("```python\n")[1].split("```")[0])
    value, logged, slopes = called("my_losses:soft_clip", width=1e6)
    data, logprobs = minibatch()
    moved = 0.0
    for one, logp, advantage in zip(data, logprobs, ADVANTAGES, strict=True):
        r = (logp.detach() - one.loss_fn_inputs["logprobs"].to_torch()).exp()[8:]
        moved -= float((r - 1).sum()) * advantage
    assert float(value) == pytest.approx(moved, rel=1e-2)  # so wide that it pulls nothing back
    assert logged.keys() == {"own/moved"}
    assert slopes[0][8:].all() and not slopes[2].any()


FAULTY = """import torch

def shape(data, logprobs):
    return torch.cat(logprobs), {}

def alone(data, logprobs):
    return sum(lp.sum() for lp in logprobs)

def number(data, logprobs):
    return 3.5, {}

def infinite(data, logprobs):
    return logprobs[0].sum() / 0, {}

def steep(data, logprobs):
    return (logprobs[2] - logprobs[2].detach()).sqrt().sum(), {}

def detached(data, logprobs):
    return logprobs[0].detach().sum(), {}

def leaves(data, logprobs):
    raise SystemExit(2)

def deep(data, logprobs):
    return torch.nn.functional.nll_loss(logprobs[0], logprobs[1]), {}

def logs(data, logprobs):
    return logprobs[0].sum(), {"text": "high"}

def lists(data, logprobs):
    return logprobs[0].sum(), ["high"]
"""
SAYS = {
    "shape": r" \(faulty\.py, line 3\) returned a loss of the shape \[34\], and one number is",
    "alone": r" \(faulty\.py, line 6\) returned tensor.* \(Tensor\), and a loss returns a pair",
    "number": r" \(faulty\.py, line 9\) returned 3\.5 \(float\) as its loss, and",
    "infinite": r" \(faulty\.py, line 12\) returned the loss -inf, which is not finite",
    "steep": r" \(faulty\.py, line 15\) has the finite value 0 and no finite gradient: that by the "
    "log-probability of token 0 of response 2 is inf",
    "detached": r" \(faulty\.py, line 18\) returned a loss that does not depend on",
    "leaves": r" failed with SystemExit: 2 \(faulty\.py, line 22\)",
    # The library's own lines are not what is named.
    "deep": r" failed with \w+: .* \(faulty\.py, line 25\)",
    "logs": r" \(faulty\.py, line 27\) logs 'high' \(str\) as 'text', which is no number",
    "lists": r" \(faulty\.py, line 30\) returned \['high'\] \(list\) to be logged",
}


@pytest.mark.parametrize(("name", "says"), SAYS.items())
def test_what_cannot_be_learnt_from_names_file_and_line(here: Path, name: str, says: str) -> None:
    (here / "faulty.py").write_text(FAULTY)
    match = rf"^train\.loss faulty:{name}{says}.*Nothing of step 7 is saved"
    with pytest.raises(LossError, match=match) as caught:
        called(f"faulty:{name}")
    assert "remove the copy own_loss.py from the run's folder" in str(caught.value)
    assert len(str(caught.value)) < 500


MISSING: Mapping[str, str] = {
    "faulty:shap": r"there is no function 'shap' in faulty \(.*\); it has .*shape",
    "faulty:": "has another form than module:function, such as my_module:my_loss",
    "faulty.py:shape": "names a file, and a module is wanted: faulty:shape",
    "nowhere_at_all:f": "there is no module 'nowhere_at_all'",
    "faulty:one": "must take two arguments, the data and their log-probabilities",
}


@pytest.mark.parametrize(("path", "says"), MISSING.items())
def test_a_loss_that_is_not_there_is_said_before_anything_starts(
    here: Path, path: str, says: str
) -> None:
    (here / "faulty.py").write_text(FAULTY + "\ndef one(data):\n    return 0, {}\n")
    config = RunConfig.model_validate({"preset": "quickstart", "train": {"loss": path}})
    with pytest.raises(ConfigError, match=f"train.loss = '{path}'.*{says}"):
        require_sound(config)


def test_another_file_is_another_run(here: Path) -> None:
    (here / "mine.py").write_text("def f(data, logprobs):\n    return sum(logprobs), {}\n")
    config = RunConfig.model_validate(
        {"preset": "quickstart", "run": {"name": "a"}, "train": {"loss": "mine:f"}}
    )
    config.run_dir.mkdir(parents=True)
    keep_files(config, config.run_dir, anew=True)
    assert (config.run_dir / "own_loss.py").read_text() == (here / "mine.py").read_text()
    require_same_files(config)
    (here / "mine.py").write_text("def f(data, logprobs):\n    return -sum(logprobs), {}\n")
    with pytest.raises(RunError, match=r"mine\.py has changed .* put back what .*own_loss\.py"):
        require_same_files(config)


def test_sapo_ships_and_is_no_file_of_the_users(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {"preset": "quickstart", "output_dir": tmp_path, "train": {"loss": "sapo"}}
    )
    config.run_dir.mkdir(parents=True)
    keep_files(config, config.run_dir, anew=True)
    assert not list(config.run_dir.iterdir())
    assert isinstance(loss_of(config.train), Loss)
