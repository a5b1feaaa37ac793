"""A checkpoint of any Tinker program, by its path: `tinker://…/weights/NAME` and no run of ours."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import tinker

from visual_r1.backend.backend import Backend
from visual_r1.backend.waiting import CONTROL_LIMIT_S, wait
from visual_r1.data.procedural import generate
from visual_r1.errors import ConfigError, StorageError
from visual_r1.exports.adapter import fit
from visual_r1.exports.base import load_base_index
from visual_r1.exports.complete import with_reference
from visual_r1.exports.contents import alone_in, require_room_for
from visual_r1.exports.download import (
    download_all,
    external_urls,
    require_adapter,
    urls_of,
)
from visual_r1.exports.record import Export, described, read_export, write_record
from visual_r1.exports.reference import PROMPTS, Scored, prompts_of, take_reference
from visual_r1.models.processor import load_processor
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.prompts.prompts import Prompter
from visual_r1.storage import sync_folder

logger = open_logger(__name__)

_PATH = re.compile(r"tinker://[^/\s]+/(?P<kind>weights|sampler_weights|external_weights)/[^/\s]+")
TEMPLATE, MOST_PIXELS = "think", 1_003_520


def require_path(path: str, *, check: bool) -> None:
    """Raise `ConfigError` where a path is none, or what it leads to cannot be exported so."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ConfigError(
            f"{path!r} is no path of a checkpoint; they look like "
            "tinker://<model id>/weights/<name>."
        )
    if found["kind"] == "sampler_weights":
        raise ConfigError(
            f"{path} holds sampler weights, which no server hands out: name the training "
            "checkpoint of the same moment (tinker://…/weights/…), or one that was saved with "
            "save_weights_external."
        )
    if check and found["kind"] == "external_weights":
        raise ConfigError(
            f"{path} cannot be sampled from, so --check has nothing to compare with: name the "
            "training checkpoint (tinker://…/weights/…), or leave --check out."
        )


def base_model_of(backend: Backend, path: str) -> str:
    """The base model that a checkpoint was trained over, as the server names it."""
    asking = backend.rest.get_training_run_by_tinker_path(path)
    run = wait(asking, f"the training run of {path}", CONTROL_LIMIT_S, backend.check)
    return run.base_model


def take(backend: Backend, path: str, folder: Path, progress: Progress, *, check: bool) -> Export:
    """Export the checkpoint at `path` into `folder`, where that is not done already.

    The adapter's files lie in the folder itself. With `check` the server is asked what to compare
    with, by prompts of generated problems: those it was trained on nobody here knows. The folder is
    whole or not there. Raises as `runs.export.export`; `ConfigError` for a wrong path.
    """
    require_path(path, check=check)
    there = read_export(folder.parent, folder.name)
    if there is not None and there.state_path == path and (there.reference or not check):
        return there
    base_model = base_model_of(backend, path)
    made = Export(
        step=0,
        updates=0,
        trained=True,
        base_model=base_model,
        adapter=".",
        sampler_path="",
        state_path=path,
        files=(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    require_room_for(base_model, folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise StorageError(
            f"{folder} holds another export: choose an empty folder with --into, or move it away."
        )
    with alone_in(folder, beside=True):
        fresh = folder.with_name(f".{folder.name}.tmp")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            scored = _reference(backend, path, base_model) if check else None
            if "/external_weights/" in path:
                download_all(urls_of(backend, path), fresh, progress)
            else:
                with external_urls(backend, path) as urls:
                    download_all(urls, fresh, progress)
            require_adapter(fresh)
            changed = fit(fresh, load_base_index(base_model)).changed
            if changed:
                logger.warning("%s", changed)
            names = sorted(
                one.relative_to(fresh).as_posix() for one in fresh.rglob("*") if one.is_file()
            )
            files = tuple(filter(None, (described(fresh, name) for name in names)))
            made = replace(made, files=files, changed=changed)
            write_record(fresh, made)
            if scored is not None:
                made = with_reference(fresh, made, scored)
            try:
                fresh.replace(folder)  # over an empty one as well
                sync_folder(folder.absolute().parent)
            except OSError as error:
                raise StorageError(
                    f"could not write {folder}: {error.strerror or error}."
                ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    progress.finish(str(folder))
    return made


def _reference(backend: Backend, path: str, base_model: str) -> list[Scored]:
    processor = load_processor(base_model)
    prompter = Prompter(processor, TEMPLATE, MOST_PIXELS)
    prompts: Sequence[tinker.ModelInput] = prompts_of(list(generate(0, "test", PROMPTS)), prompter)
    with backend.session():
        return take_reference(
            backend.sampler(path),
            backend.sampler(None),
            prompts,
            processor.stop_token_ids,
            backend.check,
        )
