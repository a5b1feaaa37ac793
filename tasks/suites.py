"""Named benchmarks as tasks: each suite is prepared and evaluated as the test problems are."""

from collections.abc import Sequence

from tasks.tasks import evaluate, prepare
from tasks.verified import Result
from visual_r1.config import RunConfig
from visual_r1.printing import Terminal
from visual_r1.suites.results import evaluation_name, name_suite, show_results
from visual_r1.suites.suite import Suite


def evaluate_on_suites(
    config: RunConfig,
    suites: Sequence[Suite],
    policy: str,
    sampler_path: str | None,
    source: str | None = None,
) -> Result:
    """Evaluate the weights on each suite into `evaluations/<policy>-<suite>`; the names of those.

    `policy` is what the weights are called, `source` where the problems of a single suite are. A
    table comes at the end. Raises `DataError` where a suite's problems cannot be had.
    """
    for suite in suites:
        asked = suite.config_for(config, source)
        dataset = prepare(asked, ["test"])
        evaluate(asked, dataset, evaluation_name(policy, suite), sampler_path)
        name_suite(config.run_dir, policy, suite)
    show_results(config.run_dir, policy, suites, Terminal())
    return {"suites": [evaluation_name(policy, suite) for suite in suites]}
