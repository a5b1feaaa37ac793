"""Whether an evaluation of a run is complete, of the weights and under the conditions wanted."""

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import Split
from visual_r1.evaluation.conditions import conditions_of, is_complete
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.runs.labels import evaluated_problems, labels_of_evaluation


def is_evaluated(
    config: RunConfig,
    dataset: Dataset,
    name: str,
    sampler_path: str | None,
    split: Split = "test",
) -> bool:
    """Whether `evaluations/<name>` is complete; `sampler_path` None is the base model."""
    folder = evaluation_folder(config.run_dir, name)
    labels = labels_of_evaluation(config, dataset, name, split)
    path = sampler_path or config.model.name
    conditions = conditions_of(config, path, dataset.digest, split=split, decisions=labels.digest)
    problems = evaluated_problems(config, dataset, labels, split)
    return is_complete(folder, config, conditions, len(problems))
