"""The command `visual-r1`: what is of use besides the flows."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tasks.interruption import Interruptible, listen, settle
from visual_r1.printing import say

NOTHING_LOST = "Stopped. Nothing is lost: the same command can be given again."


class Command(NamedTuple):
    """Where a command is, and what it does."""

    module: str
    function: str
    what: str


# Imported when it is asked for: the engine needs torch, the flows Prefect, and none needs both.
COMMANDS = {
    "up": Command(
        "flows.operating.up",
        "up",
        "server, worker, pages, deployments and automations on this machine: `make up`",
    ),
    "down": Command("flows.operating.up", "down", "end what `up` started: `make down`"),
    "deploy": Command(
        "flows.operating.command",
        "deploy",
        "create and update the deployments, and keep what people set",
    ),
    "automations": Command(
        "flows.operating.command", "automations", "create and update the automations"
    ),
    "secrets": Command(
        "flows.operating.secrets", "main", "keys on the Prefect server, for its workers' runs"
    ),
    "engine": Command(
        "visual_r1.engine.__main__",
        "run_by_hand",
        "serve the embedded Tinker engine to any program on this machine",
    ),
    "view": Command(
        "visual_r1.pages.command",
        "view",
        "show runs in the browser: curves while they train, rollouts with pictures, evaluations",
    ),
    "doctor": Command(
        "flows.doctor",
        "main",
        "look at a run before it is started: what will fail, and what it will take",
    ),
    "probe": Command(
        "flows.probe",
        "main",
        "try every call that training makes against a Tinker server: what works, how fast",
    ),
    "serve": Command(
        "flows.serve",
        "main",
        "give a checkpoint an OpenAI-compatible endpoint on this machine: chat with images",
    ),
    "suites": Command(
        "visual_r1.suites.command",
        "main",
        "named benchmarks: their source, their layout, and by which convention others report",
    ),
    "resume": Command(
        "flows.resume",
        "main",
        "go on with a run by its folder or name, or prove that it can be replayed",
    ),
    "runs": Command("flows.runs", "main", "list runs with their state, accuracy and cost"),
    "export": Command(
        "flows.by_run", "export", "write a checkpoint of a run as an adapter that PEFT reads"
    ),
    "bill": Command(
        "flows.bill", "main", "what the server has billed for a run, beside the estimate"
    ),
    "promote": Command(
        "flows.by_run", "promote", "make a run's checkpoint the current model, or say why not"
    ),
    "watch": Command(
        "flows.operating.watch",
        "main",
        "mend and go on with the runs of Prefect whose process on this machine has died",
    ),
    "compare": Command(
        "visual_r1.compare.command",
        "main",
        "compare evaluations of the same problems: by how much they differ, what was won and lost",
    ),
    "disputes": Command(
        "visual_r1.disputes.command",
        "main",
        "labels that a run's answers agree against, and what people decide of them",
    ),
    "regrade": Command(
        "visual_r1.regrade.command",
        "main",
        "grade a run's stored responses again: what changed and why, offline",
    ),
    "verify": Command(
        "visual_r1.verify.command",
        "main",
        "say whether a run, a dataset or an engine's home is as it was written, offline",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-h"], ["--help"]):
        say(usage())
        return 0
    if not given or given[0] not in COMMANDS:
        wrong = f"There is no command {given[0]!r}.\n\n" if given else ""
        say(wrong + usage(), sys.stderr)
        return 2
    command = COMMANDS[given[0]]
    if arguments is None:  # else another program's
        listen(NOTHING_LOST)
    try:
        with Interruptible():  # also in the seconds of the slow imports
            return getattr(importlib.import_module(command.module), command.function)(given[1:])
    except KeyboardInterrupt:
        return settle(NOTHING_LOST)


def usage() -> str:
    """What `--help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.what}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: visual-r1 COMMAND [...]",
            "",
            "commands:",
            *lines,
            "",
            "`visual-r1 COMMAND --help` says more. Training is `python flows/train_flow.py`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
