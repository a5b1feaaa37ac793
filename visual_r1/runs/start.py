"""Where the weights of a run come from, where it does not begin with a new adapter.

`model.start_from` is the address of a training state, or a run's checkpoint by name. A name is
resolved to the address as soon as the run is known: the address is what is stored, so that the
weights and not a name, which may mean others tomorrow, belong to what the run is.

`start.json` in the run's folder says what the address was when the run began; the ledger names the
address in each row and has the file's digest. From its first checkpoint on the run needs the start
no more, and it may go from the server, but where the reward holds the KL to it.
"""

from dataclasses import asdict
from pathlib import Path

import tinker
from tinker.types import ParsedCheckpointTinkerPath, WeightsInfoResponse

from visual_r1.backend.backend import Backend
from visual_r1.backend.waiting import CONTROL_LIMIT_S, wait
from visual_r1.config import RunConfig
from visual_r1.errors import BackendError, ConfigError, RequestRefused, RunError
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.named import find_run
from visual_r1.runs.origin import START_FILE, Origin
from visual_r1.runs.run import Run
from visual_r1.runs.validations import named_checkpoint
from visual_r1.storage import write_json

_SCHEME = "tinker://"


def with_start(config: RunConfig) -> RunConfig:
    """`config` with the address of the state that `model.start_from` names, where that is a run's.

    Raises `RunError` where there is no such run or checkpoint, `ConfigError` where an address is
    not that of a state to train on.
    """
    named = config.model.start_from
    if named is None:
        return config
    if named.startswith(_SCHEME):
        _require_state(named)
        return config
    model = config.model.model_copy(update={"start_from": _state_of(named, config.output_dir)})
    return config.model_copy(update={"model": model})


def _require_state(path: str) -> None:
    try:
        kind = ParsedCheckpointTinkerPath.from_tinker_path(path).checkpoint_type
    except ValueError as error:
        raise ConfigError(
            f"model.start_from is {path!r}, which is no address of a checkpoint: it looks like "
            "tinker://RUN/weights/NAME."
        ) from error
    if kind != "training":
        raise ConfigError(
            f"model.start_from is {path!r}, which are weights to {_FOR[kind]} alone: name the "
            "state that was saved beside them, tinker://RUN/weights/NAME."
        )


_FOR = {"sampler": "sample from", "external": "download"}


def _state_of(named: str, output_dir: Path) -> str:
    """Of `RUN[@STEP]`: best, final (also where no step is named), or a step."""
    run, _, step = named.rpartition("@")
    if not run:  # no step is named, and perhaps none is meant
        run, step = named, "final"
    folder = find_run(run, output_dir)
    return named_checkpoint(folder, step).state_path


def settle_start(run: Run) -> None:
    """Look at the checkpoint that a run is to begin from, before anything is spent on it.

    A run that has checkpoints of its own needs it for the KL alone. Raises as `require_start`.
    """
    config, path = run.config, run.config.model.start_from
    begins = not run.ledger.rows() or config.train.resume_from_step == 0
    if path is None or not (begins or config.algorithm.kl_coefficient):
        return
    info = run.backend.recoveries.run(
        lambda: require_start(run.backend, config, path), "looking up where the run begins"
    )
    if not begins:
        return
    name, step = _run_of(path, config.output_dir) or (None, None)
    origin = Origin(path, config.model.start_optimizer, info.base_model, info.lora_rank, name, step)
    write_json(run.folder / START_FILE, asdict(origin))


def require_start(backend: Backend, config: RunConfig, path: str) -> WeightsInfoResponse:
    """What the server says of the state at `path`, from which a run of `config` can begin.

    Raises `RunError` where it has gone, `ConfigError` where it is of another base model or LoRA.
    """
    asking = backend.rest.get_weights_info_by_tinker_path(path)
    try:
        info = wait(asking, f"looking up {path}", CONTROL_LIMIT_S, backend.check)
    except BackendError as error:
        if isinstance(error, RequestRefused) or isinstance(error.__cause__, tinker.NotFoundError):
            raise RunError(
                f"model.start_from, {path}, is not on the {backend.kind} server (it was deleted, "
                "has expired, or was made on another): start from another, or train it again."
            ) from error
        raise
    model = config.model
    for setting, wanted, there in (
        ("model.name", model.name, info.base_model),
        ("model.lora_rank", model.lora_rank, info.lora_rank),
        ("model.train_mlp", model.train_mlp, info.train_mlp),
        ("model.train_attn", model.train_attn, info.train_attn),
        ("model.train_unembed", model.train_unembed, info.train_unembed),
    ):
        if there is not None and there != wanted:
            raise ConfigError(
                f"model.start_from, {path}, was trained with {setting} {there}, and this run asks "
                f"for {wanted}: set --{setting} {there}, or start from another."
            )
    return info


def _run_of(path: str, output_dir: Path) -> tuple[str, int] | None:
    """The run and step of a state, where a ledger beside this run's has it."""
    for folder in sorted((output_dir / "runs").glob("*")):
        for line in Ledger(folder).read().sound:
            if line.row.state_path == path:
                return folder.name, line.row.step
    return None
