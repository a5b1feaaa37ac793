"""An evaluation of a run: a checkpoint, or the base model, on the test problems."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from visual_r1.evaluation.evaluate import conditions_of, evaluate
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.runs.baselines import Baselines
from visual_r1.runs.folder import require_same_templates
from visual_r1.runs.left_out import settle_rows
from visual_r1.runs.run import Run


def evaluate_checkpoint(run: Run, name: str, sampler_path: str | None) -> None:
    """Evaluate `sampler_path` (None: the base model) into `evaluations/<name>`.

    What was answered before under the same conditions is used again; of the base model that is what
    any run asked it, see `baselines`. Raises `BackendError`, `DataError`, `StorageError`, and
    `RunError` where a prompt template is not what the run began with.
    """
    config, dataset = run.config, run.dataset
    require_same_templates(config)
    settle_rows(run, ["test"])
    folder = evaluation_folder(run.folder, name)
    conditions = conditions_of(config, sampler_path or config.model.name, dataset.digest)
    policy, problems = run.policy(), dataset.problems("test")
    shared = Baselines.of(config, dataset) if sampler_path is None else None
    is_theirs = shared is not None and shared.may_claim(folder)

    def once() -> None:
        earlier: Sequence[Path] = ()
        if shared is not None:
            earlier = shared.evaluations(conditions, config.evaluation.count(len(problems)))
        with run.backend.session():
            sampler = run.backend.sampler(sampler_path)
            evaluate(sampler, policy, problems, conditions, folder, run.progress, earlier=earlier)

    with shared.alone() if shared is not None else nullcontext():
        run.backend.recoveries.run(once, f"the evaluation {name!r}")
        if shared is not None and is_theirs:
            shared.claim(folder)
            shared.keep(folder, config.run_name)
