"""A checkpoint, or the base model, on the test problems."""

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.errors import DataError
from visual_r1.evaluation.evaluate import conditions_of, in_a_line
from visual_r1.evaluation.evaluate import evaluate as evaluate_policy
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.progress import open_progress
from visual_r1.runs.chunk import policy_of

VERSION = 1


def evaluate(
    config: RunConfig, dataset: Dataset, name: str, sampler_path: str | None = None
) -> Result:
    """The report `evaluations/<name>`; `sampler_path` None is the base model."""

    def complete(result: Result) -> bool:
        return _complete(config, dataset, name, result["sampler_path"])

    return run_verified(_evaluate, complete, config, dataset, name, sampler_path)


def figures(config: RunConfig, name: str) -> str:
    """What came of the evaluation `name`, new or from before, and where it is; in a line."""
    folder = config.run_dir / "evaluations" / name
    return f"{name}: {in_a_line(read_report(folder))}  in {folder}"


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    dataset: Dataset = parameters["dataset"]
    identity = config.identity()
    return cache_key(
        "evaluate",
        VERSION,
        run=config.run_name,  # not its path: a folder that is moved keeps its evaluations
        name=parameters["name"],
        sampler_path=parameters["sampler_path"],
        dataset=dataset.digest,
        what={key: identity[key] for key in ("model", "prompt", "sampling", "evaluation")},
        reward=identity["reward"],
    )


@task(
    name="evaluate",
    task_run_name="evaluate {name}",
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
)
def _evaluate(config: RunConfig, dataset: Dataset, name: str, sampler_path: str | None) -> Result:
    folder = config.run_dir / "evaluations" / name
    with open_backend(config) as backend, open_progress() as progress:
        policy = policy_of(config, backend, progress)

        def once() -> None:
            path = sampler_path or config.model.name
            conditions = conditions_of(config, path, dataset.digest)
            problems = dataset.problems("test")
            with backend.session():
                sampler = backend.sampler(sampler_path)
                evaluate_policy(sampler, policy, problems, conditions, folder, progress)

        backend.recoveries.run(once, f"the evaluation {name!r}")
    return {"name": name, "sampler_path": sampler_path or config.model.name}


def _complete(config: RunConfig, dataset: Dataset, name: str, sampler_path: str) -> bool:
    folder = config.run_dir / "evaluations" / name
    try:
        report = read_report(folder)
        predictions = read_predictions(folder, ["id"])
    except DataError:
        return False
    there = report.conditions
    same = there.sampler_path == sampler_path and there.dataset_digest == dataset.digest
    return same and bool(predictions)
