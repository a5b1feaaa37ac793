"""Go on with a run by its folder or name; `--prove` replays its last chunk and compares the bits.

visual-r1 resume runs/quickstart-0a1b2c3d              # the same as the command it came from
visual-r1 resume runs/quickstart-0a1b2c3d --steps 80   # and further
visual-r1 resume runs/quickstart-0a1b2c3d --prove      # exit status 2 where something differs
"""

import argparse
import sys
from collections.abc import Sequence

from flows.command import run_as_command, show_error
from tasks.environment import settle_prefect
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.garbage import collect_nothing
from visual_r1.printing import CommandParser, Terminal, terminal
from visual_r1.progress import open_progress
from visual_r1.runs.folder import config_of_run, only_process
from visual_r1.runs.goal import require_goal
from visual_r1.runs.named import find_run
from visual_r1.runs.proof import Proof, prove
from visual_r1.runs.run import open_run

DIFFERS = 2
_MOST_NAMES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Resume or prove the run that `arguments` name; the exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.prove and chosen.steps is not None:
            raise ConfigError(
                "--prove trains the run's last chunk again, so --steps has no place beside it: "
                "leave one of them out."
            )
        config = config_of_run(find_run(chosen.run), chosen.steps)
        if chosen.prove:
            return prove_run(config)
        settle_prefect(config.output_dir)
    except VisualR1Error as error:
        show_error(terminal(), error)
        return 1
    collect_nothing()  # until the flow begins
    # Either imports Prefect, which reads its settings then.
    if config.sft.responses is not None:
        from flows.sft_flow import sft

        return run_as_command(sft, check=require_goal, load=lambda _: config)
    from flows.train_flow import train

    return run_as_command(train, check=require_goal, load=lambda _: config)


def prove_run(config: RunConfig) -> int:
    """Say whether the run's last chunk, trained again, gives the same bits; 0, or 2 where not."""
    with only_process(config.run_dir):
        with open_progress() as progress:
            dataset = prepare(config.data, config.output_dir, progress)
        with open_run(config, dataset) as run:
            proof = prove(run)
    show(proof, Terminal())
    return 0 if proof.holds else DIFFERS


def show(proof: Proof, console: Terminal) -> None:
    """The verdict in words: what was compared, and the first few things that differ."""
    what = f"steps {proof.first} to {proof.end - 1}"
    if proof.holds:
        exported = f"{proof.exported} exported files are the same again. " if proof.exported else ""
        unverified = (
            f", {proof.unverified} of an older version have none" if proof.unverified else ""
        )
        console.sentence(
            f"{what} trained again give the same bits: {proof.tensors} tensors of weights, "
            f"optimizer and sampler, {proof.updates[0]} updates in all, every metric, every "
            f"rollout. {exported}What was not made again is known by digests: {proof.sound} files "
            f"of the run are as they were written{unverified}.",
            "proved",
            "green",
        )
        return
    if proof.same_bits:
        console.sentence(
            f"{what} trained again give the same bits, but files of the run are not as they were "
            "written.",
            "not proved",
            "bold red",
        )
    else:
        console.sentence(f"{what} trained again differ.", "not the same", "bold red")
    updates = tuple(map(str, proof.updates)) if len(set(proof.updates)) > 1 else ()
    for name, found in (
        ("tensors", proof.differing),
        ("metrics", proof.metrics),
        ("rollouts of steps", tuple(map(str, proof.rollouts))),
        ("updates then and now", updates),
        ("exported files", proof.exports),
        ("damaged", proof.damaged),
    ):
        if found:
            more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
            console.sentence(f"  {name}: {', '.join(found[:_MOST_NAMES])}{more}")
    if proof.same_bits:
        console.sentence("`visual-r1 verify` says what was expected, and the ways out.")
        return
    console.sentence(
        "Results depend on the number of engine threads, on torch's version and on the processor: "
        "was one of them another then, or a file of the run changed since?"
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="visual-r1 resume",
        description="Go on with a run by its folder or its name.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", help="the run's folder, such as runs/quickstart-0a1b2c3d, or its name under runs/"
    )
    parser.add_argument(
        "--steps", type=_count, help="steps in all (default: as the run was started)"
    )
    parser.add_argument(
        "--prove",
        action="store_true",
        help="train the last chunk again, and say whether weights, metrics and rollouts agree; "
        "all else of the run is held against its digests",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
