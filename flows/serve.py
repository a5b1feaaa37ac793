"""`visual-r1 serve`: a checkpoint on any Tinker server behind OpenAI's chat completions.

visual-r1 serve quickstart-0a1b2c3d@best                     # or @final, @40, @base
visual-r1 serve quickstart-0a1b2c3d --also quickstart-0a1b2c3d@base --prompt run
visual-r1 serve base                                         # the preset's base model
visual-r1 serve tinker://…/sampler_weights/NAME --model.name Qwen/Qwen3-VL-30B-A3B-Instruct

The other flags are those of every flow: which server, which model, how large a picture may be.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from flows.by_run import config_of
from flows.command import show_error
from tasks.keys import borrow_keys
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.printing import CommandParser, show_warnings, terminal
from visual_r1.runs.validations import named_checkpoint

BASE = "base"
_SCHEME = "tinker://"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve what `arguments` name until Ctrl-C; the exit status."""
    parser = CommandParser(
        prog="visual-r1 serve",
        allow_abbrev=False,
        description="Serve a checkpoint, or the base model, to OpenAI's clients on this machine.",
    )
    parser.add_argument(
        "model",
        help="RUN or RUN@STEP (best, final, a step, or base for what it was trained from), the "
        "word base, or a tinker:// path",
    )
    parser.add_argument(
        "--also", action="append", default=[], metavar="MODEL", help="another of the same base"
    )
    parser.add_argument(
        "--prompt",
        choices=("chat", "run"),
        default="chat",
        help="chat: messages as they are. run: the last one in the run's own prompt template, as "
        "the policy was trained (default: chat)",
    )
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose (default)")
    parser.add_argument(
        "--api-key", help="what clients give; else $VISUAL_R1_SERVE_KEY, else a fresh one"
    )
    own, flags = parser.parse_known_args(arguments)
    console = terminal()
    show_warnings(console)
    try:
        # Its imports take a second or two, and `--help` needs none of them.
        from visual_r1.serving.serve import (
            KEY_VARIABLE,
            Named,
            ServeOptions,
            fresh_key,
            serve,
        )

        served: list[Named] = []
        for name in dict.fromkeys([own.model, *own.also]):
            config, path = what_is_named(name, flags)
            served.append(Named(shown_name(name, config), path, config))
        borrow_keys(served[0].config)
        key = own.api_key or os.environ.get(KEY_VARIABLE) or fresh_key()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError("--api-key goes into a header: ASCII, without spaces.")
        serve(served, ServeOptions(own.port, key, own.prompt == "run"))
    except VisualR1Error as error:
        show_error(console, error)
        return 1
    return 0


def what_is_named(name: str, flags: Sequence[str]) -> tuple[RunConfig, str | None]:
    """The configuration and the weights that a name means; None are those of the base model.

    Raises `RunError` where there is no such run or checkpoint, `ConfigError` for a wrong flag.
    """
    if name == BASE:
        return load_config(flags), None
    if name.startswith(_SCHEME):
        return _of_path(name, flags), name
    run, at, step = name.rpartition("@")
    if not at:
        run, step = name, "final"
    config = config_of(run, flags)
    if step == BASE:
        return config, None
    return config, named_checkpoint(config.run_dir, step).sampler_path


def _of_path(path: str, flags: Sequence[str]) -> RunConfig:
    """As `visual-r1 export` has it: without a flag the server is that of the environment, and the
    base model what a server that is not ours says."""
    from visual_r1.backend.backend import open_backend
    from visual_r1.backend.endpoint import choose_kind
    from visual_r1.exports.taken import base_model_of

    chosen = any(flag.startswith(("--backend.server", "--preset", "--config")) for flag in flags)
    config = load_config(flags if chosen else ["--backend.server", "auto", *flags])
    borrow_keys(config)
    if choose_kind(config, os.environ) == "embedded":
        return config
    with open_backend(config) as backend:
        name = base_model_of(backend, path)
    model = config.model.model_copy(update={"name": name})
    return config.model_copy(update={"model": model})


def shown_name(name: str, config: RunConfig) -> str:
    """By what clients ask for it: of a folder its last part, of the base model its own name."""
    if name == BASE:
        return config.model.name
    return name if name.startswith(_SCHEME) else Path(name).name
