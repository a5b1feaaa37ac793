"""An evaluation of a run: some weights, or the base model, on the problems of a split."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from visual_r1.data.problem import Split
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.evaluate import evaluate
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.runs.baselines import Baselines
from visual_r1.runs.folder import require_same_templates
from visual_r1.runs.labels import evaluated_problems, labels_of_evaluation
from visual_r1.runs.left_out import require_askable, settle_rows
from visual_r1.runs.run import Run


def evaluate_checkpoint(
    run: Run, name: str, sampler_path: str | None, split: Split = "test"
) -> None:
    """Evaluate `sampler_path` (None: the base model) on a split into `evaluations/<name>`.

    A person's decisions about labels hold for it, see `labels`. What was answered before under the
    same conditions is used again, also by an evaluation that was killed; of the base model that is
    what any run asked it, see `baselines`. Raises `BackendError`, `DataError`, `StorageError`, and
    `RunError` where a prompt template is not what the run began with.
    """
    config, dataset = run.config, run.dataset
    require_same_templates(config)
    if split == "test":
        settle_rows(run, [split])
    else:
        require_askable(run, split)
    folder = evaluation_folder(run.folder, name)
    labels = labels_of_evaluation(config, dataset, name, split)
    weights = sampler_path or config.model.name
    conditions = conditions_of(
        config, weights, dataset.digest, split=split, decisions=labels.digest
    )
    policy, problems = run.policy(), evaluated_problems(config, dataset, labels, split)
    here = Baselines.of(config, dataset)
    shared = here if sampler_path is None else None
    is_theirs = shared is not None and shared.may_claim(folder)

    def once() -> None:
        earlier: Sequence[Path] = ()
        if shared is not None:
            earlier = shared.evaluations(conditions, config.evaluation.count(len(problems)))
        with run.backend.session():
            sampler = run.backend.sampler(sampler_path)
            evaluate(
                sampler,
                policy,
                problems,
                conditions,
                folder,
                run.progress,
                earlier=earlier,
                # The same digest tells whether answers of one that was killed are of this server.
                asked_of=here.folder.name,
            )

    with shared.alone() if shared is not None else nullcontext():
        run.backend.recoveries.run(once, f"the evaluation {name!r}")
        if shared is not None and is_theirs:
            shared.claim(folder)
            shared.keep(folder, config.run_name)
