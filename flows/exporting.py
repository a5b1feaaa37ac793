"""Exports without a run: of any Tinker program's checkpoint, and of a folder exported before.

No flow, and no server of Prefect: there is no run that a record would belong to.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tasks.exporting import Wishes, complete
from tasks.keys import borrow_keys
from visual_r1.config.command_line import load_config
from visual_r1.errors import ConfigError, RunError
from visual_r1.exports.contents import alone_in
from visual_r1.exports.record import RECORD_NAME, inspect_export, read_export
from visual_r1.printing import say
from visual_r1.progress import open_progress
from visual_r1.runs.config_file import CONFIG_FILE


def export_path(path: str, into: str | None, wishes: Wishes, flags: Sequence[str]) -> int:
    """Export the checkpoint at a `tinker://` path into the folder `into`; the exit status.

    `flags` say which server, as those of a run do. The base model is what the server says; on the
    embedded engine it has to be the one that `--model.name` names.
    """
    from visual_r1.backend.backend import open_backend
    from visual_r1.backend.endpoint import choose_kind
    from visual_r1.exports.taken import base_model_of, require_path, take

    require_path(path, check=wishes.check)
    if into is None or not into.strip(". "):
        raise ConfigError("Say where the adapter of that checkpoint goes: --into FOLDER.")
    folder = Path(into).expanduser()
    # Of a checkpoint on the server that the environment names, where no flag says another: the
    # preset that is the default has the embedded engine.
    chosen = any(flag.startswith(("--backend.server", "--preset")) for flag in flags)
    config = load_config(flags if chosen else ["--backend.server", "auto", *flags])
    borrow_keys(config)
    with open_backend(config) as backend:
        base = base_model_of(backend, path)
    if base != config.model.name:
        if choose_kind(config, os.environ) == "embedded":
            raise ConfigError(
                f"{path} was trained over {base}, and the embedded engine serves "
                f"{config.model.name}: give --model.name {base}."
            )
        model = config.model.model_copy(update={"name": base})
        config = config.model_copy(update={"model": model})
    with open_backend(config) as backend, open_progress() as progress:
        made = take(backend, path, folder, progress, check=wishes.check)
    with alone_in(folder):
        complete(folder, read_export(folder.parent, folder.name) or made, wishes, None)
    say(f"{path}: {folder}")
    return 0


def is_exported(folder: Path) -> bool:
    """Whether the folder is an export, and no run: then it needs no server."""
    return (folder / RECORD_NAME).is_file() and not (folder / CONFIG_FILE).is_file()


def complete_folder(folder: Path, into: str | None, wishes: Wishes, flags: Sequence[str]) -> int:
    """Check, merge or push what was exported before, maybe on another machine; exit status."""
    if flags or into:
        raise ConfigError(
            f"{folder} was exported before: it takes --check, --merge and --push, and not "
            f"{' '.join(flags) or '--into'}."
        )
    with alone_in(folder):
        made, wrong = inspect_export(folder.parent, folder.name)
        if made is None or wrong:
            raise RunError(f"{wrong or 'There is no export.'} Export its checkpoint again.")
        if wishes.check and made.reference is None:
            raise RunError(
                f"{folder} holds nothing to compare with: export its checkpoint with --check where "
                "the server can be asked."
            )
        complete(folder, made, wishes, None)
    say(str(folder))
    return 0
