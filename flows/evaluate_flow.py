"""Any checkpoint, or the base model, to an evaluation on the test problems.

    python flows/evaluate_flow.py --name base
    python flows/evaluate_flow.py --name step-40 --sampler-path tinker://…/sampler_weights/step-000040

The result is in the run's folder under `evaluations/<name>/`.
"""

import argparse
import sys
from pathlib import Path

from flows.first_look import first_look
from tasks.environment import settle_prefect


def own_flags() -> tuple[argparse.Namespace, list[str]]:
    """The two flags of this command alone, and the rest: those of every flow."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--name", default="base")
    parser.add_argument("--sampler-path")
    return parser.parse_known_args()


if __name__ == "__main__":
    first_look(own_flags()[1])
settle_prefect()

from prefect import flow

from flows.command import run_as_command
from tasks.evaluate import evaluate as evaluate_checkpoint
from tasks.prepare import prepare
from tasks.temporary_server import guard_temporary_server
from visual_r1.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.evaluation.tracking import track_run
from visual_r1.run_folder import open_run_folder


@flow(name="evaluate", on_running=[guard_temporary_server])
def evaluate(
    config: RunConfig, name: str = "base", sampler_path: str | None = None
) -> dict[str, object]:
    """Evaluate `sampler_path`, or the base model; returns where the report is."""
    with open_run_folder(config), open_backend(config):
        report = evaluate_checkpoint(config, prepare(config, ["test"]), name, sampler_path)
        track_run(config)
        return report


def main() -> int:
    """The command: its own two flags, then those of every flow."""
    own, flags = own_flags()

    def check(_: RunConfig) -> None:
        if Path(own.name).name != own.name:
            raise ConfigError(
                f"--name {own.name!r} is no folder name: it names the folder under evaluations/."
            )

    return run_as_command(lambda config: evaluate(config, own.name, own.sampler_path), flags, check)


if __name__ == "__main__":
    sys.exit(main())
