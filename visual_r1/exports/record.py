"""What was exported, as `export.json` says it, and whether the files are as they were written.

export/adapter/            adapter_config.json, adapter_model.safetensors: what
                           peft.PeftModel.from_pretrained(base_model, folder) loads
export/reference.parquet   what the server says of some prompts, see `reference`
export/merged/             with --merge: a full model, see `merging`
export/README.md           the model card
export/export.json         its presence means that the rest is complete
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from visual_r1.storage import read_json, write_json

EXPORT = "export"
RECORD_NAME = "export.json"
CARD_NAME = "README.md"
REFERENCE_NAME = "reference.parquet"
MERGED = "merged"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file of an export as it was written; `name` is below the folder that it belongs to."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What came of comparing log-probabilities with the server's; all in nats a token.

    `largest` and `mean` are of the differences' absolute values over `tokens` tokens of `prompts`
    prompts; `floor` is the largest of what the base model itself differs by, `effect` the root mean
    square of what the adapter changes. `worst` is the matrix along which most of the differences
    lie, `scale_error` what its scale is estimated to be off by. Of `matrices` matrices an error of
    1 % would have shown in `resolved`; `unresolved` names the others. `because` says why
    `tolerance` is what it is.
    """

    of: Literal["adapter", "merged"]
    passed: bool
    verdict: str
    prompts: int
    tokens: int
    largest: float
    mean: float
    floor: float
    effect: float
    tolerance: float
    because: str
    scale_error: float
    worst: str
    matrices: int
    resolved: int
    unresolved: tuple[str, ...]
    computed_in: str
    versions: Mapping[str, str]
    created_at: str

    @property
    def subject(self) -> str:
        """What was compared, as a sentence calls it."""
        return "adapter" if self.of == "adapter" else "merged model"


@dataclass(frozen=True, slots=True)
class Merged:
    """A full model beside the adapter: its files, and how many matrices of the base changed."""

    files: tuple[ExportedFile, ...]
    matrices: int


@dataclass(frozen=True, slots=True)
class Export:
    """An export, as `export.json` holds it.

    `updates` counts the optimizer steps behind it; where there were none, `trained` is false.
    `adapter` is the name of the adapter's folder, `created_at` is ISO 8601 in UTC. `changed` says
    what of the adapter the server had in a form that PEFT does not know. Of what another Tinker
    program trained, `step` and `updates` are 0 and nobody knows whether it is `trained`.
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
    changed: str = ""
    reference: ExportedFile | None = None
    merged: Merged | None = None
    certificates: tuple[Certificate, ...] = ()

    def certificate(self, of: str) -> Certificate | None:
        """The certificate of the `adapter` or the `merged` model, where there is one."""
        return next((one for one in self.certificates if one.of == of), None)


_STORED = TypeAdapter(Export)


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
    """What the record of an export says, and in a sentence what is wrong with record or files.

    The files of a merged model are looked at by their sizes: see `damage_of_merged` for the rest.
    """
    there, wrong = read_record(run_dir, into)
    if there is None:
        return None, wrong
    place = run_dir / into
    if not there.files:
        return there, f"{place / RECORD_NAME} names no file."
    wrong = next(filter(None, (_damage(place / there.adapter, one) for one in there.files)), "")
    if not wrong and there.reference is not None:
        wrong = _damage(place, there.reference)
    return there, wrong


def damage_of_merged(place: Path, merged: Merged) -> str:
    """In a sentence which file of a merged model is not as it was written; "" where all are."""
    return next(filter(None, (_damage(place / MERGED, one) for one in merged.files)), "")


def _damage(folder: Path, one: ExportedFile) -> str:
    found = described(folder, one.name)
    if found is None:
        return f"{folder / one.name} is missing."
    if found != one:
        return (
            f"{folder / one.name} is damaged: it has {found.bytes} bytes with the SHA-256 "
            f"{found.sha256[:16]}…, and what was exported had {one.bytes} with {one.sha256[:16]}…"
        )
    return ""


def read_record(run_dir: Path, into: str = EXPORT) -> tuple[Export | None, str]:
    """What the record of an export says, whatever its files are; else in a sentence why not."""
    record = run_dir / into / RECORD_NAME
    try:
        return read_json(record, _STORED), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"{record} is damaged ({error})."


def write_record(place: Path, made: Export) -> None:
    """Write `export.json` into the folder `place`, sealed; raises `StorageError`."""
    write_json(place / RECORD_NAME, asdict(made))


def described(folder: Path, name: str) -> ExportedFile | None:
    """A file of a folder as a record names it; None where it is not there."""
    path = folder / name
    if not path.is_file():
        return None
    return ExportedFile(name, path.stat().st_size, file_sha256(path))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as records of exports hold it."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
