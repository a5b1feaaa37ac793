"""Any checkpoint, an exported adapter, or the base model, to an evaluation on a split.

    python flows/evaluate_flow.py                              # the base model
    python flows/evaluate_flow.py --checkpoint best --export   # the best of this run by validation
    python flows/evaluate_flow.py --checkpoint 40              # or final
    python flows/evaluate_flow.py --run runs/quickstart-0a1b2c3d --checkpoint best
    python flows/evaluate_flow.py --sampler-path tinker://…/sampler_weights/step-000040
    python flows/evaluate_flow.py --adapter adapters/geometry  # a folder that PEFT loads
    python flows/evaluate_flow.py --split validation --evaluation.samples 0
    python flows/evaluate_flow.py --evaluation.controls other_image,question_only
    python flows/evaluate_flow.py --checkpoint best --suite geometry3k_test,mathvision_testmini
    python flows/evaluate_flow.py --suite geometry3k_test --data.source FOLDER

The result is in the run's folder under `evaluations/<name>/`, an exported adapter under
`exports/step-40/adapter/`; the other flags say which run. With --run, a folder or a name under
runs/, its own configuration holds, and they may change what is asked: --evaluation.samples 16. What
was answered under the same conditions is not asked again, also where it was killed: the same
command goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tasks.interruption import listen

if __name__ == "__main__":
    listen()

from flows.by_run import config_of, output_dir_of
from flows.command import first_look, run_as_command
from tasks.environment import settle_prefect
from visual_r1.config import RunConfig, listed
from visual_r1.config.command_line import print_help_text
from visual_r1.config.flags import given_names
from visual_r1.data.problem import SPLITS
from visual_r1.errors import ConfigError
from visual_r1.printing import CommandParser, say
from visual_r1.runs.validations import named_checkpoint


def own_flags() -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command alone, and the rest: those of every flow."""
    parser = CommandParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", metavar="FOLDER|NAME")
    parser.add_argument("--name")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", metavar="best|final|STEP")
    which.add_argument("--sampler-path")
    which.add_argument("--adapter", metavar="FOLDER", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--suite", metavar="NAME[,NAME]")
    own, flags = parser.parse_known_args()
    own.suite_source = None
    if own.suite is not None:  # then the source is the suite's, and the run keeps its own
        of_suite = CommandParser(add_help=False, allow_abbrev=False)
        of_suite.add_argument("--data.source", dest="source")
        found, flags = of_suite.parse_known_args(flags)
        own.suite_source = found.source
    return own, flags


def require_suites_alone(suites: str | None, export: bool, split: str) -> None:
    """Raise `ConfigError` where named benchmarks are to be evaluated, and something else too."""
    if suites and (export or split != "test"):
        raise ConfigError("--suite goes without --export and --split: give them a command each.")


def load(arguments: Sequence[str] | None) -> RunConfig:
    """The configuration; what this command's own flags name is looked for here, before a folder is
    made for a run that is not there."""
    own = own_flags()[0]
    if {"-h", "--help"} & set(arguments or ()):  # the other flags follow
        print_help_text(__doc__ or "")
    config = config_of(own.run, arguments)
    if config.model.start_from is not None:
        from visual_r1.runs.start import with_start

        config = with_start(config)
    if "{" in (config.run.name or ""):
        from visual_r1.runs.nights import newest_of_its_name  # it takes a second or two

        config = newest_of_its_name(config)
    if own.name is not None and Path(own.name).name != own.name:
        raise ConfigError(
            f"--name {own.name!r} is no folder name: it names the folder under evaluations/."
        )
    require_suites_alone(own.suite, own.export, own.split)
    if own.suite or config.evaluation.suites:
        from visual_r1.suites.suite import load_suites

        load_suites(listed(own.suite or config.evaluation.suites), own.suite_source)
    if own.checkpoint is not None:
        named_checkpoint(config.run_dir, own.checkpoint)
    elif own.export:
        raise ConfigError("--export needs --checkpoint: best, final, or a step of this run.")
    if own.adapter is not None:
        from visual_r1.exports.taken_in import adapter_in  # it knows of servers: a second

        adapter_in(own.adapter.expanduser(), config)
    return config


if __name__ == "__main__":
    first_look(own_flags()[1], load=load)
settle_prefect(output_dir_of(own_flags()[0].run if __name__ == "__main__" else None))

from typing import Any

from prefect import flow

from tasks.forms import RUN, form
from tasks.outcome import remembered
from tasks.parameters import chosen_config
from tasks.records.ending import concluded
from tasks.records.record import conclude_evaluation, open_record
from tasks.slots import its_turn
from tasks.suites import evaluate_on_suites
from tasks.tasks import evaluate as evaluate_checkpoint
from tasks.tasks import export as export_checkpoint
from tasks.tasks import figures, prepare
from visual_r1.backend.backend import open_backend
from visual_r1.config.overrides import flat
from visual_r1.data.problem import Split
from visual_r1.exports.taken_in import adapter_in, take_in
from visual_r1.report.tracking import track_run
from visual_r1.runs.folder import open_run_folder
from visual_r1.suites.suite import ASKED, load_suites


def in_split(name: str, split: Split) -> str:
    """The name of an evaluation, which tells the split where that is not test."""
    return name if split == "test" or name.endswith(f"-{split}") else f"{name}-{split}"


@remembered
@concluded
@form(
    "run_name",
    "model",
    "data",
    "problems",
    run=RUN,
    checkpoint={
        "type": "string",
        "description": "Which of the run's checkpoints: best (by validation), final, or a step "
        "such as 40; empty is the base model.",
    },
    export={
        "type": "boolean",
        "default": False,
        "description": "Also write the checkpoint as an adapter that PEFT reads.",
    },
    sampler_path={
        "type": "string",
        "description": "In place of a checkpoint: weights by their address on the server.",
    },
    adapter={
        "type": "string",
        "description": "In place of a checkpoint: the folder of an exported adapter, for the "
        "embedded engine.",
    },
    split={
        "type": "string",
        "enum": list(SPLITS),
        "default": "test",
        "description": "Which problems are asked about.",
    },
    suites={
        "type": "string",
        "description": "In place of the test problems: named benchmarks with commas, of those that "
        "the command visual-r1 suites lists.",
    },
    suite_source={
        "type": "string",
        "description": "A folder or file that has the problems of the one suite that is named.",
    },
    over_suites={
        "type": "array",
        "items": {"type": "string", "enum": list(ASKED)},
        "description": "Settings whose values hold in place of a suite's own; those that overrides "
        "name do.",
    },
    name={
        "type": "string",
        "description": "Name of the report, and of its folder under evaluations/; by default of "
        "what is evaluated.",
    },
)
@flow(
    name="evaluate",
    description="Answers the problems of a split with a checkpoint, an adapter or the base model "
    "and reports accuracy, pass@k and the controls of the image.",
    validate_parameters=False,
)
def evaluate(
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    config: RunConfig | None = None,
    name: str | None = None,
    sampler_path: str | None = None,
    checkpoint: str | None = None,
    export: bool = False,
    run: str | None = None,
    adapter: str | Path | None = None,
    split: Split = "test",
    suites: str | None = None,
    suite_source: str | None = None,
    over_suites: Sequence[str] = (),
) -> dict[str, object]:
    """Evaluate a checkpoint of the run, `sampler_path`, an `adapter`, or the base model on the
    problems of `split`; where the report is.

    On the named benchmarks `suites` alone where there are any; those of `evaluation.suites` come
    after the test problems. A suite asks as others do, but for the settings that `overrides` or
    `over_suites` name.

    `run` is a run's folder or its name: it has a configuration, and `overrides` lie over that.
    """
    settings = {*flat(overrides or {}, "overrides"), *over_suites}
    config = chosen_config(preset, overrides, config, run=run)
    # Before the folder is made: a run that is not there has no checkpoint, and leaves nothing.
    if sum(map(bool, (checkpoint, sampler_path, adapter))) > 1:
        raise ConfigError("One policy at a time: a checkpoint, a sampler_path, or an adapter.")
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}: there are {', '.join(SPLITS)}.")
    require_suites_alone(suites, export, split)
    row = named_checkpoint(config.run_dir, checkpoint) if checkpoint else None
    path = row.sampler_path if row else sampler_path
    named = f"step-{row.step}" if row else PurePosixPath(path or "base").name
    if adapter:
        path = take_in(Path(adapter).expanduser(), config)
        named = f"adapter-{adapter_in(Path(adapter).expanduser(), config)[1][:8]}"
    benchmarks = [
        suite.asking(config, settings)
        for suite in load_suites(listed(suites or config.evaluation.suites), suite_source)
    ]
    policy, name = name or named, in_split(name or named, split)
    with (
        its_turn(config),
        open_run_folder(config, trains=False),
        open_backend(config),
        open_record(config, f"evaluate {name}"),
    ):
        if suites:
            return evaluate_on_suites(config, benchmarks, policy, path, suite_source)
        dataset = prepare(config, [split])
        report = evaluate_checkpoint(config, dataset, name, path, split)
        say(figures(config, name))  # also where it was evaluated before
        if benchmarks:
            report |= evaluate_on_suites(config, benchmarks, policy, path)
        if row and export:
            report |= export_checkpoint(config, dataset, row, f"exports/step-{row.step}")
        track_run(config)
        conclude_evaluation(config, name)
        return report


def main() -> int:
    """The command: its own flags, then those of every flow."""
    own, flags = own_flags()

    def flow_of_own(config: RunConfig) -> object:
        return evaluate(
            config=config,
            name=own.name,
            sampler_path=own.sampler_path,
            checkpoint=own.checkpoint,
            export=own.export,
            adapter=own.adapter,
            split=own.split,
            suites=own.suite,
            suite_source=own.suite_source,
            over_suites=sorted(given_names(flags) & ASKED.keys()),
        )

    return run_as_command(flow_of_own, flags, trains=False, load=load)


if __name__ == "__main__":
    sys.exit(main())
