"""A wrong request gets a sentence of its own; the others are answered, and nothing has changed."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from engine_material import IMAGE_TOKENS, picture_prompt, png, random_datum, request, words
from PIL import Image

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.types import (
    Datum,
    ImagePart,
    InvalidRequest,
    LoraSpec,
    Prompt,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
    TextPart,
)
from visual_r1.errors import ConfigError, ModelError


def made_png(side: int, pixels: bytes) -> bytes:
    """A PNG that says it has side x side pixels, whatever it holds, with right checksums."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def bomb(side: int) -> bytes:
    """A few hundred bytes."""
    return made_png(side, bytes(1000))


def rows_missing(rows: int) -> bytes:
    """So many of 64 rows, in a finished stream."""
    return made_png(64, (b"\0" + bytes(range(192))) * rows)


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def jpeg(seed: int) -> bytes:
    return encoded(Image.open(io.BytesIO(png(seed))), "JPEG")


def scrambled(data: bytes) -> bytes:
    """60 bytes in the middle turned over."""
    middle = len(data) // 2
    turned = bytes(byte ^ 0xFF for byte in data[middle : middle + 60])
    return data[:middle] + turned + data[middle + 60 :]


PROMPTS: dict[str, tuple[Prompt, str]] = {
    "empty": ((), "the prompt is empty"),
    "only empty text": ((TextPart(()),), "the prompt is empty"),
    "too long": (
        (words(1, 5000),),
        r"5000 tokens or more, images included, and the model's context holds",
    ),
    "negative id": ((TextPart((5, -3)),), "token id -3 is out of range"),
    "unknown id": ((TextPart((5, 10**6)),), "token id 1000000 is out of range"),
    "not an image": (
        (ImagePart(b"hello"),),
        "5 bytes cannot be used, and must be a whole PNG or JPEG: .* it is text",
    ),
    "no bytes": ((ImagePart(b""),), "0 bytes cannot be used"),
    "cut off": ((ImagePart(png(1)[:-5000]),), "cannot be used, and must be a whole PNG or JPEG"),
    "broken chunk": (
        (ImagePart(png(1)[:60] + b"xxxx" + png(1)[64:]),),
        "cannot be used, and must be a whole PNG or JPEG",
    ),
    "another format": ((ImagePart(encoded(Image.new("RGB", (9, 9)), "GIF")),), "PNG or JPEG"),
    "too many pixels": (
        (ImagePart(png(1, 1100, 1100)),),
        "1100 x 1100 pixels, more than 1048576",
    ),
    "a bomb": ((ImagePart(bomb(60000)),), "more than 1048576 pixels"),
    "half its rows": ((ImagePart(rows_missing(32)),), "whole PNG or JPEG: .*row"),
    "a row missing": ((ImagePart(rows_missing(63)),), "whole PNG or JPEG: .*row"),
    "a JPEG cut": ((ImagePart(jpeg(1)[:-2000]),), "whole PNG or JPEG"),
    "a JPEG scrambled": ((ImagePart(scrambled(jpeg(1))),), "whole PNG or JPEG"),
    "too elongated": ((ImagePart(png(1, 900, 2)),), "aspect ratio"),
    "another count": ((ImagePart(png(1), 15),), "takes 16 tokens .* expected_tokens says 15"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_a_wrong_prompt_fails_alone(compute: Compute, case: str) -> None:
    prompt, sentence = PROMPTS[case]
    good = request(picture_prompt(1))
    expected = compute.sample(None, [good])
    outputs = compute.sample(None, [good, replace(good, prompt=prompt), good])
    assert [outputs[0]] == [outputs[2]] == expected
    assert isinstance(outputs[1], InvalidRequest)
    with pytest.raises(InvalidRequest, match=sentence):
        raise outputs[1]


@pytest.mark.parametrize("case", PROMPTS)
def test_a_wrong_datum_changes_no_gradient(compute: Compute, case: str) -> None:
    prompt, sentence = PROMPTS[case]
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    good = random_datum(1, picture_prompt(1), ("weights",))
    with pytest.raises(InvalidRequest, match=f"datum 1: .*{sentence}"):
        compute.forward(
            adapter, [good, Datum(prompt, good.inputs)], "cross_entropy", {}, backward=True
        )
    assert not adapter.gradients.any()
    assert adapter.pending == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 10**6}, r"max_tokens is 1000000; together they must fit"),
        ({"temperature": -0.1}, r"temperature is -0\.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, r"top_p is 0\.0"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
        ({"top_k": -2}, "top_k is -2"),
        ({"stop_strings": ("a", "")}, "stop string is empty"),
        ({"samples": -1}, "num_samples is -1"),
        ({"samples": 0}, "num_samples is 0 and nothing of the prompt is asked for"),
        ({"samples": 5000}, "num_samples is 5000; 0 to 4096"),
    ],
    ids=str,
)
def test_wrong_settings_fail_alone(
    compute: Compute, settings: dict[str, object], sentence: str
) -> None:
    good = request(picture_prompt(1))
    wrong = request(picture_prompt(1), **settings)  # type: ignore[arg-type]
    first, second = compute.sample(None, [wrong, good])
    assert isinstance(second, SampleOutput)
    assert isinstance(first, InvalidRequest)
    with pytest.raises(InvalidRequest, match=sentence):
        raise first


def with_input(**changed: np.ndarray | None) -> Datum:
    datum = random_datum(1, (words(1, 10),), ("weights", "logprobs", "advantages"))
    inputs = {**datum.inputs, **changed}
    return Datum(datum.prompt, {k: v for k, v in inputs.items() if v is not None})


@pytest.mark.parametrize(
    ("loss", "config", "datum", "sentence"),
    [
        ("grpo", {}, with_input(), "'grpo' is unknown; this engine has cross_entropy, importance"),
        ("ppo", {"epsilon": 0.2}, with_input(), "'epsilon', and takes clip_low_threshold, clip_h"),
        ("cross_entropy", {"beta": 1.0}, with_input(), "'beta', and takes no keys"),
        ("dro", {"beta": float("inf")}, with_input(), "beta is inf"),
        ("ppo", {}, with_input(advantages=None), "ppo needs the input 'advantages', and target_"),
        ("cross_entropy", {}, with_input(weights=None), "cross_entropy needs the input 'weights'"),
        ("dro", {}, with_input(target_tokens=None), "needs the input 'target_tokens'"),
        (
            "dro",
            {},
            with_input(logprobs=np.zeros(9, np.float32)),
            r"'logprobs' has the shape \[9\], and target_tokens has \[10\]",
        ),
        (
            "cross_entropy",
            {},
            with_input(target_tokens=np.zeros(12, np.int64)),
            "target_tokens has 12 places and the model input 10",
        ),
        (
            "ppo",
            {},
            with_input(target_tokens=np.zeros((10, 2), np.int64)),
            "several targets a place are for cross_entropy",
        ),
        (
            "cross_entropy",
            {},
            with_input(target_tokens=np.full(10, 10**6)),
            "ids from 1000000 to 1000000",
        ),
        (
            "cross_entropy",
            {},
            with_input(weights=np.full(10, np.nan, np.float32)),
            "'weights' holds a value that is not finite",
        ),
    ],
)
def test_wrong_loss_inputs(
    compute: Compute, loss: str, config: dict[str, float], datum: Datum, sentence: str
) -> None:
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    with pytest.raises(InvalidRequest, match=sentence):
        compute.forward(adapter, [datum], loss, config, backward=True)
    assert not adapter.gradients.any()


def test_no_data(compute: Compute) -> None:
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    with pytest.raises(InvalidRequest, match="holds no data"):
        compute.forward(adapter, [], "cross_entropy", {}, backward=True)


def test_a_missing_count_is_filled_in_and_a_right_one_taken(compute: Compute) -> None:
    counted = (words(1, 5), ImagePart(png(1), IMAGE_TOKENS), words(2, 5))
    uncounted = (words(1, 5), ImagePart(png(1)), words(2, 5))
    assert compute.sample(None, [request(counted)]) == compute.sample(None, [request(uncounted)])


def test_kinds_of_pixels(compute: Compute) -> None:
    """Grey, palette and transparent images are seen as they look on white paper."""
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 255, (96, 96), dtype=np.uint8))
    rgb = grey.convert("RGB")
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.new("L", (96, 96), 0))

    def scores(image: Image.Image) -> SampleOutput:
        prompt = (words(1, 5), ImagePart(encoded(image, "PNG")), words(2, 5))
        (output,) = compute.sample(None, [SampleRequest(prompt, SamplingSettings(1), 0, True)])
        assert isinstance(output, SampleOutput)
        return output

    assert scores(grey) == scores(rgb)
    assert scores(clear) == scores(Image.new("RGB", (96, 96), "white")) != scores(rgb)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="no-such-folder"):
        Compute("/no-such-folder/no-such-model", device="cpu", threads=1)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        Compute("visual-r1/tiny-geometry", device="abacus", threads=1)
