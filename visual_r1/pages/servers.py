"""Which server a run's questions may go to, and which of its weights wrote a response.

What the pages ask is asked of the server that the run was made on. One that costs money is asked
only where the run's own configuration names it: a key in the environment alone never moves a
question there.
"""

from collections.abc import Mapping
from pathlib import Path

from visual_r1.backend.endpoint import Kind, choose_kind
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError, RunError
from visual_r1.pages.reading import evaluation_of
from visual_r1.pages.scored import Wanted, Weights
from visual_r1.runs.config_file import read_config
from visual_r1.runs.ledger import Ledger, LedgerRow

BASE = Weights("the base model", None)


def require_named(run_dir: Path, environ: Mapping[str, str]) -> Kind:
    """The kind of server that the run in `run_dir` may be asked on.

    Raises `ConfigError` or `RunError`, in a sentence, where there is none.
    """
    config, rows = read_config(run_dir), _rows(run_dir)
    if config is None:
        raise RunError(f"{run_dir} has no configuration, so nobody knows which model to ask.")
    # Without a checkpoint nothing but the base model can be asked: where the configuration says.
    kind = rows[-1].backend if rows else choose_kind(config, {})
    if kind == "embedded":
        return "embedded"
    if not _names_a_server(config):
        raise ConfigError(
            f"The run was made on a {kind} server that its environment named, and its "
            "configuration does not: to have it asked from here, go on with the run with "
            "--backend.server remote."
        )
    if (now := choose_kind(config, environ)) != kind:
        raise ConfigError(f"The run was made on a {kind} server, and what is set now is {now}.")
    return now


def _names_a_server(config: RunConfig) -> bool:
    return config.backend.server == "remote" or config.backend.base_url is not None


def weights_of(run_dir: Path, wanted: Wanted) -> tuple[Weights, Weights | None, bool]:
    """The weights that wrote a response, others to hold them against, and whether those are newer.

    A sample of step s was drawn from the weights before that step. Where no checkpoint was saved
    then, the nearest one before stands for it; the other is the next one after, which has learnt
    from the sample. An evaluation's are known; what the run began with is the other.
    """
    rows = _rows(run_dir)
    began = Weights("what the run began with", rows[0].started_from) if rows else BASE
    if began.path is None:
        began = BASE
    if wanted.evaluation is not None:
        return _of_evaluation(run_dir, wanted.evaluation, rows, began)
    step = wanted.step or 0
    before = [row for row in rows if row.step <= step]
    after = [row for row in rows if row.step > step]
    wrote = _named(before[-1]) if before else began
    return wrote, _named(after[0]) if after else None, True


def _of_evaluation(
    run_dir: Path, name: str, rows: list[LedgerRow], began: Weights
) -> tuple[Weights, Weights | None, bool]:
    path = evaluation_of(run_dir, name).sampler_path
    row = next((row for row in rows if row.sampler_path == path), None)
    if row is not None:
        return _named(row), began, False
    if not path.startswith("tinker:"):
        return began, _named(rows[-1]) if rows else None, True
    return Weights(f"those of the evaluation {name}", path), began, False


def _named(row: LedgerRow) -> Weights:
    return Weights(f"the checkpoint of step {row.step}", row.sampler_path, row.step)


def _rows(run_dir: Path) -> list[LedgerRow]:
    return [line.row for line in Ledger(run_dir).read().sound]
