"""What a run leaves for others: a PEFT adapter folder and a `tinker://` sampler path.

    export/adapter/       adapter_config.json, adapter_model.safetensors: what
                          peft.PeftModel.from_pretrained(base_model, folder) loads
    export/export.json    written last: its presence means that the folder is complete

Hosted sampler checkpoints cannot be downloaded, so the weights leave through a training client of
the final state: `save_weights_external`, then one signed URL a file.
"""

import hashlib
import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

import httpx
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from visual_r1.backend.backend import Backend
from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, call, wait
from visual_r1.errors import BackendError, ConfigError, StorageError
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.run import Run
from visual_r1.storage import put_aside, read_json, replaced_whole, sync_folder, write_json

logger = open_logger(__name__)

EXPORT = "export"
RECORD_NAME = "export.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
DOWNLOAD_TIMEOUT_S = 120.0
# The copy on the server is only there to be downloaded, at once.
EXTERNAL_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file of the adapter folder as it was downloaded."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Export:
    """An export, as `export.json` holds it.

    `updates` counts the optimizer steps behind it; where there were none, `trained` is false.
    `adapter` is the name of the adapter's folder, `created_at` is ISO 8601 in UTC.
    """

    step: int
    updates: int
    trained: bool
    base_model: str
    adapter: str
    sampler_path: str
    state_path: str
    files: tuple[ExportedFile, ...]
    created_at: str


_STORED = TypeAdapter(Export)


def export(run: Run, row: LedgerRow, into: str = EXPORT) -> Export:
    """Export the checkpoint of `row` to the run's folder `into`, where that is not done already.

    Its state and sampler weights lose their time limit, in the ledger too. Raises `BackendError`
    when the server fails or what it sends is not a PEFT adapter, `StorageError` when the disk does;
    a complete export of before stays until the new one is complete, and one that is damaged is put
    aside then, with a warning.
    """
    backend, progress = run.backend, run.progress
    there, wrong = inspect_export(run.folder, into)
    if there is not None and not wrong and there.state_path == row.state_path:
        return there
    if wrong:
        logger.warning("%s It is exported again; what was there is put aside.", wrong)

    def once() -> Export:
        keep_for_ever(backend, row)
        if row.may_be_pruned:  # from now on neither renewed nor pruned
            run.ledger.renew(row.step, None)
        adapter = adapter_folder(run.folder, into)
        fresh = adapter.with_name(".adapter.tmp")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            with external_urls(backend, row) as urls:
                progress.start("export", len(urls), "files")
                files = _download_all(urls, fresh, progress)
            require_adapter(fresh)
            made = Export(
                step=row.step,
                updates=row.updates,
                trained=row.updates > 0,
                base_model=run.config.model.name,
                adapter=adapter.name,
                sampler_path=row.sampler_path,
                state_path=row.state_path,
                files=files,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            _put_in_place(fresh, adapter, made, damaged=bool(wrong))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        progress.finish(str(adapter))
        return made

    return backend.recoveries.run(once, "the export")


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
    """A copy of an exported adapter in `folder`, whole or not at all, each file by its digest.

    Raises `StorageError` where the folder holds something else, or cannot be written.
    """
    adapter, made = adapter_folder(run_dir, into), read_export(run_dir, into)
    assert made is not None, "it was exported before this"
    foreign = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name not in {one.name for one in made.files}
    )
    if foreign:
        raise StorageError(
            f"{folder} holds {foreign[0]}, which is no part of an adapter: choose an empty folder; "
            f"the adapter is in {adapter}."
        )
    for one in made.files:
        with replaced_whole(folder / one.name) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapter / one.name, temporary)
            if _described(temporary.parent, temporary.name) != replace(one, name=temporary.name):
                raise OSError(f"what was written is not what is in {adapter}")
    return folder


def adapter_folder(run_dir: Path, into: str = EXPORT) -> Path:
    """Where the adapter of the export in `run_dir`/`into` lies, for PEFT to load."""
    return run_dir / into / "adapter"


def export_names(run_dir: Path) -> list[str]:
    """The folders of a run that hold what was exported: `export`, and `exports/step-40`."""
    there = sorted(run_dir.glob(f"exports/[!.]*/{adapter_folder(run_dir).name}"))
    return [EXPORT, *(path.parent.relative_to(run_dir).as_posix() for path in there)]


def read_export(run_dir: Path, into: str = EXPORT) -> Export | None:
    """The complete export in `run_dir`/`into`; None where there is none, or its files changed."""
    there, wrong = inspect_export(run_dir, into)
    return None if wrong else there


def inspect_export(run_dir: Path, into: str = EXPORT) -> tuple[Export | None, str]:
    """What the record of an export says, and in a sentence what is wrong with record or files."""
    there, wrong = read_record(run_dir, into)
    if there is None:
        return None, wrong
    adapter = adapter_folder(run_dir, into)
    if not there.files:
        return there, f"{adapter.with_name(RECORD_NAME)} names no file."
    for one in there.files:
        if (found := _described(adapter, one.name)) is None:
            return there, f"{adapter / one.name} is missing."
        if found != one:
            return there, (
                f"{adapter / one.name} is damaged: it has {found.bytes} bytes with the SHA-256 "
                f"{found.sha256[:16]}…, and what was exported had {one.bytes} with "
                f"{one.sha256[:16]}…"
            )
    return there, ""


def read_record(run_dir: Path, into: str = EXPORT) -> tuple[Export | None, str]:
    """What the record of an export says, whatever its files are; else in a sentence why not."""
    record = adapter_folder(run_dir, into).with_name(RECORD_NAME)
    try:
        return read_json(record, _STORED), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"{record} is damaged ({error})."


def keep_for_ever(backend: Backend, row: LedgerRow) -> None:
    """Take the time limit off the row's state and sampler weights."""
    if row.expires_at is None:
        return
    rest = backend.rest
    for path in (row.state_path, row.sampler_path):
        change = rest.set_checkpoint_ttl_from_tinker_path(path, None)
        wait(change, f"taking the time limit off {path}", CONTROL_LIMIT_S, backend.check)


@contextmanager
def external_urls(backend: Backend, row: LedgerRow) -> Generator[Mapping[str, str]]:
    """A URL for each file of the adapter, from a temporary client of the row's state.

    What the server made for it is deleted behind the block.
    """
    with backend.session() as service:
        what = f"loading {row.state_path}"
        loading = call(
            lambda: service.create_training_client_from_state(row.state_path),
            what,
            CONTROL_LIMIT_S,
            backend.check,
        )
        client = wait(loading, what, SAVE_LIMIT_S, backend.check)
        saving = client.save_weights_external("adapter", ttl_seconds=EXTERNAL_TTL_S)
        path = wait(saving, "saving the adapter", SAVE_LIMIT_S, backend.check).path
        listing = backend.rest.get_external_weights_urls(path)
        urls = wait(listing, f"the files of {path}", CONTROL_LIMIT_S, backend.check).urls
    missing = [name for name in ADAPTER_FILES if name not in urls]
    if missing:
        raise BackendError(
            f"The server's export of {row.state_path} lacks {' and '.join(missing)}; it has "
            f"{', '.join(sorted(urls)) or 'no files'}, which PEFT cannot load."
        )
    try:
        yield urls
    finally:
        with suppress(BackendError):  # a server that keeps it ends it in an hour
            deletion = backend.rest.delete_checkpoint_from_tinker_path(path)
            wait(deletion, f"deleting {path}", CONTROL_LIMIT_S, backend.check)


def require_adapter(folder: Path) -> None:
    """Raise `BackendError` unless the folder holds a PEFT adapter whose files are whole."""
    config_path, weights_path = (folder / name for name in ADAPTER_FILES)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        with cast("Any", safe_open)(weights_path, framework="numpy") as weights:
            names: list[str] = list(weights.keys())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise BackendError(f"The adapter that the server sent is damaged: {error}.") from error
    is_lora = isinstance(config, dict) and cast("dict[str, Any]", config).get("peft_type") == "LORA"
    if not is_lora or not any("lora_A" in name for name in names):
        raise BackendError(
            f"The adapter that the server sent ({len(names)} tensors) is not a LoRA that PEFT "
            "can load."
        )


def _download_all(
    urls: Mapping[str, str], folder: Path, progress: Progress
) -> tuple[ExportedFile, ...]:
    for name, url in sorted(urls.items()):
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise BackendError(f"The server named a file {name!r} that lies outside the adapter.")
        _download(url, folder / relative)
        progress.advance()
    files = (_described(folder, name) for name in sorted(urls))
    return tuple(file for file in files if file is not None)


def _download(url: str, path: Path) -> None:
    try:
        with (
            replaced_whole(path) as temporary,
            httpx.stream("GET", url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True) as reply,
            temporary.open("wb") as out,
        ):
            reply.raise_for_status()
            for block in reply.iter_bytes():
                out.write(block)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise BackendError(f"The server did not hand out {path.name} (status {status}).") from error
    except httpx.HTTPError as error:
        raise BackendError(f"The download of {path.name} broke off: {error}.") from error


def _put_in_place(fresh: Path, adapter: Path, made: Export, *, damaged: bool) -> None:
    """Move the downloaded files to where they belong; the record comes last and vouches for it."""
    record = adapter.with_name(RECORD_NAME)
    if damaged:
        for path in filter(Path.exists, (record, adapter)):
            put_aside(path)
    try:
        record.unlink(missing_ok=True)
        if adapter.exists():
            shutil.rmtree(adapter)
        fresh.rename(adapter)
        sync_folder(adapter.parent)
    except OSError as error:
        raise StorageError(
            f"could not put the adapter into {adapter}: {error.strerror or error}."
        ) from error
    write_json(record, asdict(made))


def _described(folder: Path, name: str) -> ExportedFile | None:
    path = folder / name
    if not path.is_file():
        return None
    return ExportedFile(name, path.stat().st_size, file_sha256(path))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as records of exports hold it."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
