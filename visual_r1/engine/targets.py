"""Which modules a LoRA trains, and how many numbers that takes."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from visual_r1.engine.requests import InvalidRequest, LoraSpec
from visual_r1.models import model_path

MAX_RANK = 512

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv", "attn.proj")
MLP = ("gate_proj", "up_proj", "down_proj", "linear_fc1", "linear_fc2")
UNEMBED = ("lm_head",)


def target_modules(spec: LoraSpec) -> tuple[str, ...]:
    """Endings of the names of the modules that the spec trains, as peft matches them."""
    chosen = (
        *(ATTENTION if spec.train_attn else ()),
        *(MLP if spec.train_mlp else ()),
        *(UNEMBED if spec.train_unembed else ()),
    )
    if not chosen:
        raise InvalidRequest(
            "train_attn, train_mlp and train_unembed are all off, so there is nothing to train; "
            "turn one on."
        )
    if not 1 <= spec.rank <= MAX_RANK:
        raise InvalidRequest(f"LoRA rank {spec.rank} is out of range: 1 to {MAX_RANK} are served.")
    return chosen


def adapter_bytes(model: str, spec: LoraSpec) -> int | None:
    """Bytes of an adapter's float32 weights: rank * (in + out) numbers for each linear it trains.

    Read off the shapes in the model's files; None where they are not on this machine.
    Raises `InvalidRequest` when the spec cannot be served.
    """
    targets = tuple(f".{name}" for name in target_modules(spec))
    shapes = _shapes(model)
    trained = [
        shape
        for name, shape in shapes.items()
        if len(shape) == 2 and f".{name}".removesuffix(".weight").endswith(targets)
    ]
    if spec.train_unembed and "lm_head.weight" not in shapes:  # tied to the embeddings
        trained += [shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    return 4 * spec.rank * sum(map(sum, trained)) or None


def _shapes(model: str) -> dict[str, list[int]]:
    """The shapes of a model's tensors by name; none where the model is not on this machine."""
    folder = Path(model_path(model))
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return {}
    shapes: dict[str, list[int]] = {}
    try:
        for file in folder.glob("*.safetensors"):
            opened: Any = safe_open(file, framework="numpy")
            with opened as tensors:
                names: list[str] = list(tensors.keys())
                shapes |= {name: tensors.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError):
        return {}  # the engine says what is wrong when it loads it
    return shapes
