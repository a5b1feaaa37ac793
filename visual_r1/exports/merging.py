"""A full model: the base model's own files, with the adapter's products added to their matrices.

Each file of weights is copied, and the matrices that the adapter changes are read, changed and
written back a block of rows at a time: so names, order, types of numbers and what transformers does
not load (`mtp.…`) stay as they are, and a model of any size takes the memory of a block. The sum is
in float32, rounded once to the type of the file.

A LoRA on an unembedding that is tied to the embeddings changes the output side alone. So the merged
model has a matrix of its own there, in one more file, and its configuration says so.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from visual_r1.errors import ModelError, StorageError
from visual_r1.exports.base import BaseIndex, Place, tail
from visual_r1.exports.names import Lora, placed
from visual_r1.exports.record import MERGED, Merged, described
from visual_r1.models import model_path
from visual_r1.progress import Progress
from visual_r1.storage import put_aside, sync_file, sync_folder, write_text

BLOCK = 2**24
"""So many numbers are changed at a time: 64 MB in float32, and as much for what is added."""

INDEX = "model.safetensors.index.json"
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
# Beside these there are tokenizer, processor, chat template, configurations and the licence.
_NOT_COPIED = (
    ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".index.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor in a file of weights: where its numbers begin, how many bytes they take, of which
    type and in which shape."""

    file: Path
    key: str
    start: int
    bytes: int
    type: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As a module is called, without `.weight`."""
        return self.key.removesuffix(".weight")


def merge(loras: Mapping[str, Lora], index: BaseIndex, place: Path, progress: Progress) -> Merged:
    """Write the model to `place`/merged, whole or not at all; one that is there is replaced.

    `loras` are those of `scaled_loras`. Raises `ModelError` where the base model's weights are not
    to be had as safetensors, or hold an adapted matrix in a type that nothing can be added to,
    `BackendError` where the adapter does not fit them, `StorageError` when the disk is full.
    """
    source = _source(index)
    files = _weight_files(source)
    stored = {one.key: one for file in files for one in _header(file)}
    if not stored:
        raise ModelError(f"{source} holds no weights as safetensors, so nothing can be merged.")
    unembed = loras.get(index.unembed) if index.is_tied else None
    changes = _changes(
        {name: lora for name, lora in loras.items() if unembed is None or name != index.unembed},
        index,
        stored,
    )
    embeddings = _embeddings(index, stored) if unembed is not None else None
    room = sum(file.stat().st_size for file in files)
    if shutil.disk_usage(place).free < room * 11 // 10:
        raise StorageError(
            f"a merged model takes {room / 2**30:.1f} GiB in {place}, and there is less: free some "
            "space, or export elsewhere with --into."
        )
    fresh, merged = place / f".{MERGED}.tmp", place / MERGED
    progress.start("merge", len(files), "files")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        names = _names(files, is_more=embeddings is not None)
        for file in files:
            written = fresh / names[file]
            shutil.copyfile(file, written)
            with written.open("r+b") as out:
                for key, lora in changes.items():
                    if stored[key].file == file:
                        _add(out, stored[key], lora)
            sync_file(written)
            progress.advance()
        weight_map = {key: names[one.file] for key, one in stored.items()}
        if embeddings is not None and unembed is not None:
            last = f"model-{len(files) + 1:05d}-of-{len(files) + 1:05d}.safetensors"
            key = f"{index.unembed}.weight"
            _write_one(fresh / last, key, embeddings, unembed)
            weight_map[key] = last
        _write_rest(source, fresh, untied=embeddings is not None)
        if len(set(weight_map.values())) > 1:
            all_tensors = [*stored.values(), *([embeddings] if embeddings is not None else [])]
            _write_index(fresh, weight_map, sum(one.bytes for one in all_tensors))
        made = tuple(
            filter(None, (described(fresh, path.name) for path in sorted(fresh.iterdir())))
        )
        if merged.exists():
            put_aside(merged) if not merged.is_dir() else shutil.rmtree(merged)
        fresh.rename(merged)
        sync_folder(place)
    except OSError as error:
        raise StorageError(
            f"could not write the merged model into {place}: {error.strerror or error}. Free some "
            "space, or export elsewhere with --into; the adapter is not touched."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    progress.finish(str(merged))
    return Merged(made, len(changes) + (unembed is not None))


def _changes(
    loras: Mapping[str, Lora], index: BaseIndex, stored: Mapping[str, _Stored]
) -> dict[str, Lora]:
    """What is added to the tensors in the files, by their keys."""
    within = {one.name: one for one in stored.values() if len(one.shape) in (2, 3)}
    changes = {
        within[name].key: _as_stored(lora, within[name])
        for name, lora in placed(loras, _as_places(index, within)).items()
    }
    for key in changes:
        if stored[key].type not in _TYPES:
            raise ModelError(
                f"{stored[key].file} holds {key} as {stored[key].type}, to which nothing can be "
                "added: merge into a base model that is not quantised."
            )
    return changes


def _source(index: BaseIndex) -> Path:
    """The folder of the base model's files; from the hub they are downloaded into its cache."""
    path = model_path(index.name)
    if Path(path).is_dir():
        return Path(path)
    kinds = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*"]
    try:
        return Path(snapshot_download(path, allow_patterns=kinds))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"--merge needs the weights of {index.name}, and they cannot be had: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}. Merge where the hub can be "
            "reached, or where the model is a folder."
        ) from error


def _weight_files(source: Path) -> list[Path]:
    """Those that the index names: a folder may hold the weights once more in another form."""
    try:
        content = json.loads((source / INDEX).read_text(encoding="utf-8"))
        return [source / name for name in sorted(set(content["weight_map"].values()))]
    except FileNotFoundError:
        return sorted(source.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source / INDEX} is damaged: {error}.") from error


def _header(file: Path) -> Iterator[_Stored]:
    """What a file of safetensors holds: eight bytes of length, JSON, then the numbers."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            content: dict[str, Any] = json.loads(opened.read(length))
        except ValueError as error:
            raise ModelError(f"{file} is damaged: {error}.") from error
    for key, of in content.items():
        if key != "__metadata__":
            begin, end = map(int, of["data_offsets"])
            shape = tuple(of["shape"])
            yield _Stored(file, key, 8 + length + begin, end - begin, str(of["dtype"]), shape)


def _as_places(index: BaseIndex, within: Mapping[str, _Stored]) -> BaseIndex:
    """The files as `names.placed` reads a model: a checkpoint is one more way to hold it."""
    places: dict[str, Place] = {}
    for name, one in within.items():
        if len(one.shape) == 2:
            places[name] = Place(name, *one.shape)
            continue
        experts, rows, columns = one.shape
        # transformers turns an expert's matrices round where that gives the shape that it needs.
        of_model = index.places.get(name) or next(iter(index.by_tail.get(tail(name), [])), None)
        is_turned = of_model is not None and (of_model.outputs, of_model.inputs) != (rows, columns)
        outputs, inputs = (columns, rows) if is_turned else (rows, columns)
        places[name] = Place(name, outputs, inputs, experts, is_turned)
    unembed = next((name for name in places if tail(name) == tail(index.unembed)), index.unembed)
    return BaseIndex(f"the files of {index.name}", index.config, places, unembed, index.is_tied)


def _as_stored(lora: Lora, one: _Stored) -> Lora:
    """The LoRA of a matrix as the file has it: of one that is turned round, its two sides."""
    outputs, inputs = int(lora.up.shape[-2]), int(lora.down.shape[-1])
    if one.shape[-2:] == (outputs, inputs):
        return lora
    return Lora(lora.up.transpose(-1, -2), lora.down.transpose(-1, -2))


def _embeddings(index: BaseIndex, stored: Mapping[str, _Stored]) -> _Stored:
    network = cast(Any, index.network())
    embed = network.get_input_embeddings()
    name = next(name for name, module in network.named_modules() if module is embed)
    found = [one for one in stored.values() if tail(one.name) == tail(name)]
    if len(found) != 1 or found[0].type not in _TYPES:
        raise ModelError(f"the files of {index.name} hold no embeddings {name} to go by.")
    return found[0]


def _add(out: BinaryIO, one: _Stored, lora: Lora) -> None:
    """Add the product to the tensor in an open file, a block of rows at a time."""
    for at, rows in _blocks(one):
        out.seek(at)
        values = _numbers(out, one, rows)
        out.seek(at)
        out.write(_bytes_of(values + _product(lora, rows, one), one))


def _write_one(path: Path, key: str, source: _Stored, lora: Lora) -> None:
    """A file with one tensor: `source` with the product added."""
    described = {"dtype": source.type, "shape": source.shape, "data_offsets": [0, source.bytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, key: described}).encode()
    header += b" " * (-len(header) % 8)
    with source.file.open("rb") as numbers, path.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for at, rows in _blocks(source):
            numbers.seek(at)
            values = _numbers(numbers, source, rows)
            out.write(_bytes_of(values + _product(lora, rows, source), source))
    sync_file(path)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows `start` to `stop` - 1 of the matrix of an expert, or of the one matrix there is."""

    expert: int
    start: int
    stop: int


def _blocks(one: _Stored) -> Iterator[tuple[int, _Rows]]:
    """Where in the file each block of rows begins."""
    rows, columns = one.shape[-2:]
    size = _TYPES[one.type].itemsize
    step = max(1, BLOCK // columns)
    for expert in range(one.shape[0] if len(one.shape) == 3 else 1):
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield one.start + (expert * rows + start) * columns * size, _Rows(expert, start, stop)


def _numbers(file: BinaryIO, one: _Stored, rows: _Rows) -> Tensor:
    columns = one.shape[-1]
    dtype = _TYPES[one.type]
    content = bytearray(file.read((rows.stop - rows.start) * columns * dtype.itemsize))
    return (
        torch.frombuffer(content, dtype=dtype)
        .view(-1, columns)
        .to(torch.promote_types(dtype, torch.float32))
    )


def _product(lora: Lora, rows: _Rows, one: _Stored) -> Tensor:
    up, down = (
        (lora.up[rows.expert], lora.down[rows.expert])
        if len(one.shape) == 3
        else (lora.up, lora.down)
    )
    return up[rows.start : rows.stop].float() @ down.float()


def _bytes_of(values: Tensor, one: _Stored) -> bytes:
    return values.to(_TYPES[one.type]).contiguous().view(torch.uint8).numpy().tobytes()


def _names(files: list[Path], *, is_more: bool) -> dict[Path, str]:
    """What the files are called: one alone cannot keep the name that says so."""
    if is_more and [file.name for file in files] == ["model.safetensors"]:
        return {files[0]: "model-00001-of-00002.safetensors"}
    return {file: file.name for file in files}


def _write_index(fresh: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    content = {
        "metadata": {"total_size": total_bytes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    write_text(fresh / INDEX, json.dumps(content, indent=2) + "\n")


def _write_rest(source: Path, fresh: Path, *, untied: bool) -> None:
    """Tokenizer, processor, chat template and configurations."""
    for path in sorted(source.iterdir()):
        is_other = path.name.startswith(".") or path.name.endswith(_NOT_COPIED)
        if path.is_file() and not is_other and path.name != "README.md":  # the card is of its own
            shutil.copyfile(path, fresh / path.name)
    if untied:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
        for part in (config, config.get("text_config")):
            if isinstance(part, dict) and (part is config or "tie_word_embeddings" in part):
                cast("dict[str, Any]", part)["tie_word_embeddings"] = False
        write_text(fresh / "config.json", json.dumps(config, indent=2) + "\n")
