"""Commands about a run that is there, by its folder or name: `visual-r1 export`, `promote`.

visual-r1 export runs/quickstart-0a1b2c3d --checkpoint best --into adapters/geometry
visual-r1 export quickstart-0a1b2c3d --check --merge --push OWNER/NAME
visual-r1 export tinker://…/weights/NAME --into adapters/other   # of any Tinker program
visual-r1 promote runs/quickstart-0a1b2c3d          # exit status 4 where it is not, and why
visual-r1 promote runs/quickstart-0a1b2c3d --force --because "the figures of the demo are right"
visual-r1 promote --rollback --name quickstart      # the model before it again

The other flags may change what is asked of the run: `--evaluation.problems 512`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.command import run_as_command, show_error
from tasks.environment import settle_prefect
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.printing import CommandParser, say, terminal
from visual_r1.runs.validations import named_checkpoint

NOT_PROMOTED = 4


def config_of(run: str | None, flags: Sequence[str] | None) -> RunConfig:
    """The configuration of the run that is named, with the flags over it; without one theirs.

    Raises `RunError` where there is no such run, or where a flag would make another one of it.
    """
    if run is None:
        return load_config(flags)
    # Here and not above: who names no run does not wait for it.
    from visual_r1.runs.folder import config_of_run
    from visual_r1.runs.named import find_run, require_that_run

    output_dir, rest = _output_dir(flags)
    folder = find_run(run, output_dir)
    stored = config_of_run(folder)
    return require_that_run(folder, stored, load_config(rest, beneath=stored)) if rest else stored


def output_dir_of(run: str | None) -> Path | None:
    """Where the run that is named lies; None where none is, or it is not there."""
    if run is None:
        return None
    from visual_r1.runs.named import find_run

    try:
        return find_run(run, _output_dir(None)[0]).absolute().parents[1]
    except VisualR1Error:
        return None  # the command says so


def _output_dir(flags: Sequence[str] | None) -> tuple[Path, list[str]]:
    parser = CommandParser(add_help=False, allow_abbrev=False)
    parser.add_output_dir()
    known, rest = parser.parse_known_args(list(sys.argv[1:] if flags is None else flags))
    return known.output_dir, rest


def export(arguments: Sequence[str] | None = None) -> int:
    """Write a checkpoint as an adapter that PEFT reads, and what else is wished; exit status."""
    parser = _parser(
        "visual-r1 export",
        "Write a checkpoint as a PEFT adapter, prove it, merge it, push it to the hub.",
    )
    parser.add_argument(
        "run",
        help="a run's folder, or its name under runs/; tinker://… of any program's checkpoint; or "
        "a folder that was exported before",
    )
    parser.add_argument("--into", help="a name under exports/ of the run, or a folder elsewhere")
    parser.add_argument("--merge", action="store_true", help="also write the full model")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to the hub, private")
    parser.add_argument(
        "--check", action="store_true", help="compare with what the server says of 32 prompts"
    )
    _checkpoint(parser)
    own, flags = parser.parse_known_args(arguments)
    # Here and not above: evaluations name runs as well, and their flags do not wait for it.
    from flows.exporting import complete_folder, export_path, is_exported
    from tasks.exporting import Wishes

    wishes = Wishes(merge=own.merge, check=own.check, push=own.push)
    try:
        wishes.require_possible()
        if own.run.startswith("tinker:"):
            return export_path(own.run, own.into, wishes, flags)
        if is_exported(Path(own.run)):
            return complete_folder(Path(own.run), own.into, wishes, flags)
        config = config_of(own.run, flags)
        named_checkpoint(config.run_dir, own.checkpoint)
        settle_prefect(config.output_dir)
    except VisualR1Error as error:
        show_error(terminal(), error)
        return 1
    from flows.export_flow import export as flow  # imports Prefect, which reads its settings then

    def flow_of_own(config: RunConfig) -> object:
        return flow(
            config=config,
            checkpoint=own.checkpoint,
            into=own.into,
            merge=own.merge,
            push=own.push,
            check=own.check,
        )

    return run_as_command(flow_of_own, trains=False, load=lambda _: config)


def _checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="best|final|STEP",
        default="final",
        help="the best by validation, the newest (default), or that of a step",
    )


def _parser(program: str, what: str) -> CommandParser:
    return CommandParser(prog=program, description=what, allow_abbrev=False)


def promote(arguments: Sequence[str] | None = None) -> int:
    """Make a checkpoint the current model, or say why not; the exit status, 4 where it is not."""
    from visual_r1.promotion.models import Models, require_reason

    parser = _parser("visual-r1 promote", "Make a run's checkpoint the current model of a name.")
    parser.add_argument("run", nargs="?", help="a run's folder, or its name under runs/")
    parser.add_argument("--name", help="of the model: models/NAME.json (default: the preset)")
    _checkpoint(parser)
    parser.add_argument("--force", action="store_true", help="a person decides, see --because")
    parser.add_argument("--because", default="", help="why, in a sentence; it is kept")
    back = parser.add_mutually_exclusive_group()
    back.add_argument("--rollback", action="store_true", help="the model before the current one")
    back.add_argument("--demote", action="store_true", help="take the current one back")
    own, flags = parser.parse_known_args(arguments)
    try:
        if own.rollback or own.demote:
            return _take_back(own, flags)
        if own.run is None:
            raise ConfigError("Name the run to promote: its folder, or its name under runs/.")
        require_reason(own.force, own.because)
        config = config_of(own.run, flags)
        models = Models(config.output_dir, own.name or config.preset)
        row = named_checkpoint(config.run_dir, own.checkpoint)
        settle_prefect(config.output_dir)
    except VisualR1Error as error:
        show_error(terminal(), error)
        return 1
    from flows.promote_flow import promote as flow  # imports Prefect, which reads its settings then

    def flow_of_own(config: RunConfig) -> object:
        return flow(
            config=config,
            checkpoint=own.checkpoint,
            name=own.name,
            force=own.force,
            because=own.because,
        )

    if status := run_as_command(flow_of_own, trains=False, load=lambda _: config):
        return status
    # By its file, and not by what the flow returns: Prefect may have lost that with its server.
    current = models.current()
    is_promoted = current is not None and current.sampler_path == row.sampler_path
    return 0 if is_promoted else NOT_PROMOTED


def _take_back(own: argparse.Namespace, flags: Sequence[str]) -> int:
    """Roll back or demote: that asks no server."""
    from visual_r1.promotion.models import Models

    output_dir, rest = _output_dir(flags)
    if rest or own.run or not own.name or own.force:
        raise ConfigError(
            "--rollback and --demote are about a model: give its --name, with --because and "
            "--output-dir where wished, and nothing else."
        )
    models = Models(output_dir, own.name)
    with models.alone():
        if own.demote:
            gone = models.demote()
            say(f"{models.path} is taken back; number {gone.number} stays in {models.history}.")
        else:
            made = models.roll_back(own.because)
            say(f"{models.path}: number {made.number} is step {made.step} of {made.run} again.")
    return 0
