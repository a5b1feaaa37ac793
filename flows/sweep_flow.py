"""Many runs that differ in named settings, compared as one experiment.

    python flows/sweep_flow.py --preset quickstart --sweep sweep.toml
    python flows/sweep_flow.py --preset quickstart --sweep sweep.toml --train.steps 20

The file says what is varied, see docs/sweeps.md; the other flags are of every run. Kill it at any
moment and start it again: finished runs are found, and the others go on from their checkpoints.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.interruption import listen

if __name__ == "__main__":
    listen()

from flows.command import first_look, run_as_command
from tasks.environment import settle_prefect
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config, print_help_text
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.printing import CommandParser
from visual_r1.sweeps.sweep import Sweep, read_sweep, sweep_of


def own_flags() -> tuple[argparse.Namespace, list[str]]:
    """The flag of this command alone, and the rest: those of every flow."""
    parser = CommandParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--sweep", type=Path, metavar="FILE.toml")
    own, flags = parser.parse_known_args()
    if {"-h", "--help"} & set(flags):  # the other flags follow
        print_help_text(__doc__ or "")
    return own, flags


def load(arguments: Sequence[str] | None) -> RunConfig:
    """The configuration beneath all runs; the sweep over it is looked at here, whole."""
    config = load_config(arguments)
    # Here and not above: they know of servers and of evaluations, and flags alone need neither.
    from visual_r1.sweeps import halving, plan

    halving.rungs(plan.make_plan(_named_sweep(), config))
    return config


def _named_sweep() -> Sweep:
    own, _ = own_flags()
    if own.sweep is None:
        raise ConfigError("--sweep FILE.toml is missing: it says what is varied.")
    return read_sweep(own.sweep)


if __name__ == "__main__":
    first_look(own_flags()[1], load=load)
settle_prefect()

from typing import Any

from prefect import State, flow

from flows.train_flow import train
from tasks.alarms import heed_alarms
from tasks.costs import require_budget
from tasks.forms import form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.records.ending import concluded
from tasks.slots import its_turn
from tasks.stop_button import heed_stop
from tasks.sweeping import compare, foresee, heed_rung, train_members
from tasks.tasks import (
    prepare,
    settle_labels,
    settle_ledger,
    settle_rows,
    settle_start,
    train_chunk,
    validate,
)
from visual_r1.backend.backend import open_backend
from visual_r1.runs.folder import open_run_folder
from visual_r1.sweeps.folder import open_sweep_folder
from visual_r1.sweeps.halving import rungs
from visual_r1.sweeps.members import require_startable
from visual_r1.sweeps.plan import make_plan


@remembered
@concluded
@form(
    "steps",
    "model",
    "data",
    sweep={
        "type": "object",
        "description": "What is tried, as a sweep's file has it: "
        '{"name": "rates", "seeds": [0, 1], "grid": {"train.learning_rate": [0.0003, 0.001]}}. '
        "docs/sweeps.md has random draws and halving.",
    },
)
@flow(
    name="sweep",
    description="Trains many runs that differ in named settings, on one engine with one baseline, "
    "and compares them with intervals.",
    validate_parameters=False,
)
def sweep(
    sweep: Sweep | Mapping[str, Any] | None = None,
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    config: RunConfig | None = None,
) -> dict[str, object] | State:
    """Train and compare the runs of `sweep` over a configuration; returns the comparison."""
    tried = sweep if isinstance(sweep, Sweep) else sweep_of(sweep or {}, "the parameter sweep")
    plan = make_plan(tried, chosen_config(preset, overrides, config))
    with its_turn(plan.base), open_sweep_folder(plan) as folder:
        require_startable(plan)
        foresee(plan)
        left, stopped, failed = plan.settings, dict[str, int](), dict[str, VisualR1Error]()
        for rung in rungs(plan):
            members = [member.to_rung(rung) for setting in left for member in setting.members]
            failed |= train_members(plan, members, train_to_rung)
            left = heed_rung(plan, left, rung, failed, stopped)
        members = [member for setting in left for member in setting.members]
        failed |= train_members(plan, members, train)
        return compare(plan, folder, failed, stopped)


@flow(name="rung", flow_run_name="{config.run_name} to step {config.train.steps}")
def train_to_rung(config: RunConfig) -> State | None:
    """A run as far as `train.steps`, a rung: as `train` does it, but without the test problems."""
    with open_run_folder(config), open_backend(config):
        dataset = prepare(config)
        settle_labels(config, dataset)
        settle_start(config, dataset)
        settle_rows(config, dataset)
        settle_ledger(config, dataset)
        checkpoint = None
        validate(config, dataset, checkpoint)
        while checkpoint is None or checkpoint.step < config.train.steps:
            checkpoint = train_chunk(config, dataset, checkpoint)
            validate(config, dataset, checkpoint)
            if (paused := heed_alarms(config, checkpoint)) is not None:
                return paused
            heed_stop(config, checkpoint)
            require_budget(config, dataset, checkpoint)
    return None


def main() -> int:
    """The command: its own flag, then those of every flow."""
    flags = own_flags()[1]

    def flow_of_own(config: RunConfig) -> object:
        return sweep(sweep=_named_sweep(), config=config)

    return run_as_command(flow_of_own, flags, load=load, needs_server=False)


if __name__ == "__main__":
    sys.exit(main())
