"""What a certificate needs before anything is computed; tests/e2e/test_exports.py makes some."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from visual_r1.engine.types import ImagePart
from visual_r1.errors import ConfigError
from visual_r1.exports.base import BaseIndex
from visual_r1.exports.certificate import certify
from visual_r1.exports.reference import Scored
from visual_r1.progress import Silent


def test_images_for_a_model_of_another_family_are_refused_by_name(tmp_path: Path) -> None:
    index = BaseIndex("mine/llava", SimpleNamespace(model_type="llava"), {}, "lm_head", False)
    says_nothing = np.full(1, np.nan, np.float32)
    scored = Scored((ImagePart(b""),), says_nothing, says_nothing)
    with pytest.raises(ConfigError) as raised:
        certify(tmp_path, None, index, [scored], Silent())
    assert str(raised.value) == (
        "--check cannot show images to a model of the type llava: it can to Qwen3.5 and Qwen3-VL. "
        "Export without --check."
    )
