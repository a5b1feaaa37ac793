"""A checkpoint of a run to a folder that PEFT reads, and a `tinker://` sampler path.

What is written where, and what is known of it, is in `visual_r1.exports`; here it is of a run.
"""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from visual_r1.backend.waiting import keep_for_ever
from visual_r1.errors import ConfigError, StorageError
from visual_r1.exports.contents import (
    FRESH,
    alone_in,
    put_in_place,
    require_room_for,
    require_same_base,
)
from visual_r1.exports.download import download_all, external_urls, require_adapter
from visual_r1.exports.record import (
    CARD_NAME,
    EXPORT,
    MERGED,
    Export,
    ExportedFile,
    adapter_folder,
    described,
    inspect_export,
    read_export,
)
from visual_r1.printing import open_logger
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.run import Run
from visual_r1.storage import sync_file

logger = open_logger(__name__)


def export(run: Run, row: LedgerRow, into: str = EXPORT) -> Export:
    """Export the checkpoint of `row` to the run's folder `into`, where that is not done already.

    Its state and sampler weights lose their time limit, in the ledger too. Raises `BackendError`
    when the server fails or what it sends is not an adapter that PEFT applies whole over the base
    model, `RunError` where the folder holds one of another base model, `StorageError` when the disk
    fails; a complete export of before stays until the new one is complete, and one that is damaged
    is put aside then, with a warning.
    """
    backend, progress = run.backend, run.progress
    there, wrong = inspect_export(run.folder, into)
    if there is not None:
        require_same_base(there, run.config.model.name, run.folder / into)
    if there is not None and not wrong and there.state_path == row.state_path:
        return there
    if wrong:
        logger.warning("%s It is exported again; what was there is put aside.", wrong)

    def once() -> Export:
        with alone_in(run.folder / into, wait=True):
            return written()

    def written() -> Export:
        if row.expires_at is not None:
            keep_for_ever(backend.rest, (row.state_path, row.sampler_path), backend.check)
        if row.may_be_pruned:  # from now on neither renewed nor pruned
            run.ledger.renew(row.step, None)
        adapter = adapter_folder(run.folder, into)
        whole = adapter.with_name(FRESH)
        fresh = whole / adapter.name
        try:
            shutil.rmtree(whole, ignore_errors=True)
            with external_urls(backend, row.state_path) as urls:
                download_all(urls, fresh, progress)
            changed = _fitted(run, fresh)
            made = Export(
                step=row.step,
                updates=row.updates,
                trained=row.updates > 0,
                base_model=run.config.model.name,
                adapter=adapter.name,
                sampler_path=row.sampler_path,
                state_path=row.state_path,
                files=tuple(filter(None, (described(fresh, name) for name in sorted(urls)))),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                changed=changed,
            )
            put_in_place(whole, adapter.parent, made, damaged=bool(wrong))
        finally:
            shutil.rmtree(whole, ignore_errors=True)
        progress.finish(str(adapter))
        return made

    return backend.recoveries.run(once, "the export")


def _fitted(run: Run, fresh: Path) -> str:
    """Let PEFT apply all of what was downloaded; what had to be changed for that, in a sentence."""
    require_adapter(fresh)
    if run.backend.kind == "embedded":
        # The engine is PEFT over this very base model, and writes what PEFT gave it. What would ask
        # PEFT once more takes seconds to import.
        return ""
    from visual_r1.exports.adapter import fit
    from visual_r1.exports.base import load_base_index

    changed = fit(fresh, load_base_index(run.config.model.name)).changed
    if changed:
        logger.warning("%s", changed)
    return changed


def place_of_export(into: str | None, row: LedgerRow) -> tuple[str, Path | None]:
    """The folder in the run that an export goes to, and the one elsewhere that is to be a copy.

    `into` is a name under exports/, or a path elsewhere; by default exports/step-40. Raises
    `ConfigError` where it can be neither.
    """
    if into is None:
        return f"exports/step-{row.step}", None
    if not into.strip(". "):
        raise ConfigError(
            f"--into {into!r} is no folder: give a name, or a path such as ./adapter."
        )
    if Path(into).name == into:
        return f"exports/{into}", None
    return f"exports/step-{row.step}", Path(into).expanduser()


def copy_adapter(run_dir: Path, into: str, folder: Path) -> Path:
    """A copy of an export in `folder`, whole or not at all, each file by its digest.

    The adapter's files lie in the folder itself, for PEFT to load. An export that was there stays
    until the copy is complete. Raises `StorageError` where the folder holds something else, or
    cannot be written, `RunError` where it holds an adapter of another base model, or another
    process writes to it.
    """
    place, made = run_dir / into, read_export(run_dir, into)
    assert made is not None, "it was exported before this"
    names = [one.name for one in made.files]
    require_room_for(made.base_model, folder, names)  # before a lock is left in what is not ours
    copies = [(place / made.adapter, one) for one in made.files]
    copies += [(place, made.reference)] if made.reference else []
    copies += [(place, described(place, CARD_NAME))] if (place / CARD_NAME).is_file() else []
    if made.merged:
        copies += [(place, replace(one, name=f"{MERGED}/{one.name}")) for one in made.merged.files]
    with alone_in(folder):
        require_room_for(made.base_model, folder, names)
        fresh = folder / FRESH
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            for source, one in copies:
                assert one is not None, "it is there"
                _copy(source, fresh, one)
            put_in_place(fresh, folder, replace(made, adapter="."))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _copy(source: Path, fresh: Path, one: ExportedFile) -> None:
    copy = fresh / one.name
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / one.name, copy)
        sync_file(copy)
    except OSError as error:
        raise StorageError(
            f"could not write {copy}: {error.strerror or error}. Free some space, or choose "
            f"another folder with --into; what was in {fresh.parent} is there still."
        ) from error
    if described(fresh, one.name) != one:
        raise StorageError(
            f"{source / one.name} is not what was exported, or changed while it was copied: give "
            "the same command again, with --merge for a merged model."
        )


def with_reference_of(run: Run, row: LedgerRow, into: str) -> Export:
    """Ask the server what the exported weights say of the first test problems, and keep it.

    What is there already is not asked again: the weights of a checkpoint do not change.
    """
    from visual_r1.exports.complete import with_reference
    from visual_r1.exports.reference import prompts_of, take_reference

    made = read_export(run.folder, into)
    assert made is not None, "it was exported before this"
    if made.reference is not None:
        return made
    policy = run.policy()
    prompts = prompts_of(run.dataset.problems("test"), policy.prompter)

    def once() -> Export:
        with run.backend.session():
            scored = take_reference(
                run.backend.sampler(row.sampler_path),
                run.backend.sampler(None),
                prompts,
                policy.processor.stop_token_ids,
                policy.watch,
            )
        with alone_in(run.folder / into, wait=True):
            newest = read_export(run.folder, into) or made  # it may have been merged meanwhile
            return with_reference(run.folder / into, newest, scored)

    return run.backend.recoveries.run(once, "the reference of the check")
