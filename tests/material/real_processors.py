"""The real tokenizer with the chat templates of its families, in folders such as a hub has.

The folder that `VISUAL_R1_QWEN` names has Qwen3-VL's tokenizer and template, and the template of
Qwen3.5, whose tokenizer has the same names of added tokens under other numbers: its template is
given to that of Qwen3-VL.
"""

import gzip
import os
import shutil
from pathlib import Path
from typing import Literal

import pytest

from visual_r1.models.processor import Processor, load_processor

Family = Literal["qwen3_vl", "qwen3_5"]
FAMILIES: tuple[Family, ...] = ("qwen3_vl", "qwen3_5")
TEMPLATES = {"qwen3_vl": "chat_template.jinja", "qwen3_5": "qwen3_5_chat_template.jinja"}
IMAGES = ("tokenizer_config.json", "preprocessor_config.json")


def real_processor(family: Family, folder: Path) -> Processor:
    """The family's processor, loaded from a folder that is made in `folder`; skips the test where
    the real tokenizer is not at hand."""
    source = Path(os.environ.get("VISUAL_R1_QWEN", "/nowhere"))
    if not source.is_dir():
        pytest.skip("set VISUAL_R1_QWEN to a folder with Qwen3-VL's tokenizer")
    mine = folder / family
    mine.mkdir()
    for name in IMAGES:
        shutil.copyfile(source / name, mine / name)
    shutil.copyfile(source / TEMPLATES[family], mine / "chat_template.jinja")
    packed = source / "tokenizer.json.gz"
    whole = source / "tokenizer.json"
    tokenizer = gzip.decompress(packed.read_bytes()) if packed.exists() else whole.read_bytes()
    (mine / "tokenizer.json").write_bytes(tokenizer)
    return load_processor(str(mine))
