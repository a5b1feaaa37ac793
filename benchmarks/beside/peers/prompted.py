"""A work's prompts as a network of transformers reads them; no package of ours is here."""

import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import logging


class Loaded(NamedTuple):
    """The network, and what its images are prepared with."""

    network: Any
    images: Any
    device: str
    image_token: int


class Rows(NamedTuple):
    """Rows of one length: `ids` and `mask` [B, T], the images of all rows one after another."""

    ids: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor
    grids: torch.Tensor
    image_token: int

    def inputs(self) -> dict[str, torch.Tensor]:
        """By the names of the network's arguments."""
        return {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            # Without the kinds of tokens, images get the positions of text, and nothing says so.
            "mm_token_type_ids": (self.ids == self.image_token).int(),
            "pixel_values": self.pixels,
            "image_grid_thw": self.grids,
        }


def load(work: dict[str, Any]) -> Loaded:
    """The work's network: bfloat16 on a card, float32 on a processor, scaled dot product
    attention."""
    logging.disable_progress_bar()
    torch.set_num_threads(work["threads"])
    cuda = work["device"] == "cuda"
    network = AutoModelForImageTextToText.from_pretrained(
        work["folder"],
        dtype=torch.bfloat16 if cuda else torch.float32,
        attn_implementation="sdpa",
        device_map="cuda" if cuda else None,
    ).eval()
    images = Qwen2VLImageProcessorPil.from_pretrained(work["folder"])
    return Loaded(network, images, work["device"], work["image_token"])


def with_lora(loaded: Loaded, lora: dict[str, Any]) -> Any:
    """The network with an adapter of peft on the same modules as ours; B starts at zero."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora["rank"], lora_alpha=lora["alpha"], target_modules=list(lora["modules"]),
        target_parameters=list(lora["parameters"]) or None,
    )  # fmt: skip
    return get_peft_model(loaded.network, config)


def rows_of(
    loaded: Loaded,
    prompts: Sequence[dict[str, Any]],
    answers: Sequence[Sequence[int]] | None = None,
    left: bool = True,
) -> Rows:
    """A row for each prompt, with its answer behind it; short rows are padded on one side."""
    device = loaded.device
    rows: list[list[int]] = []
    pixels, grids = [], []
    for place, prompt in enumerate(prompts):
        row: list[int] = []
        for part in prompt["parts"]:
            if part["image"]:
                image = Image.open(io.BytesIO(base64.b64decode(part["image"]))).convert("RGB")
                made = loaded.images(images=[image], return_tensors="pt")
                pixels.append(made["pixel_values"])
                grids.append(made["image_grid_thw"])
                row += [loaded.image_token] * part["visual_tokens"]
            else:
                row += part["tokens"]
        rows.append([*row, *(answers[place] if answers else ())])
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        at = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[place, at] = torch.tensor(row)
        mask[place, at] = 1
    kind = loaded.network.dtype
    return Rows(
        ids.to(device), mask.to(device), torch.cat(pixels).to(device, kind),
        torch.cat(grids).to(device), loaded.image_token,
    )  # fmt: skip


def wait_for(device: str) -> None:
    """Until what was sent to a card is done."""
    if device == "cuda":
        torch.cuda.synchronize()
