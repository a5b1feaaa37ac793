"""The processor without torchvision agrees with transformers' own on tokens and image sizes."""

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_r1.errors import DataError, ModelError
from visual_r1.models import TINY_GEOMETRY, hub_id, model_path
from visual_r1.models.families import ImageGrid
from visual_r1.models.processor import load_processor

FOLDER = Path(model_path(TINY_GEOMETRY))


@pytest.fixture(scope="module")
def processor():
    return load_processor(TINY_GEOMETRY)


def sizes(count):
    draw = random.Random(0)
    some = [(draw.randint(1, 900), draw.randint(1, 900)) for _ in range(count)]
    some += [(1, 1), (12, 12), (96, 96), (250, 628), (628, 250), (36, 36), (60, 60), (1, 200)]
    return [(w, h) for w, h in some if max(w, h) <= 200 * min(w, h)]


def theirs(processor, width, height):
    image = Image.new("RGB", (width, height))
    grid = processor(images=[image], return_tensors="np")["image_grid_thw"][0]
    return int(grid.prod()) // processor.merge_size**2


def test_image_tokens_are_those_that_transformers_makes(processor):
    reference = Qwen2VLImageProcessorPil.from_pretrained(FOLDER)
    for width, height in sizes(60):
        assert processor.image_tokens(width, height) == theirs(reference, width, height)


def test_image_tokens_with_the_settings_of_the_published_models():
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    reference = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size=size)
    grid = ImageGrid(patch=16, merge=2, min_pixels=65536, max_pixels=16777216)
    for width, height in sizes(25):
        assert grid.tokens(width, height) == theirs(reference, width, height)


def test_a_quickstart_figure_has_16_tokens_and_a_scanned_one_at_most_256(processor):
    assert processor.image_tokens(96, 96) == 16
    for width, height in ((250, 300), (628, 400), (628, 628), (4000, 3000)):
        assert 16 < processor.image_tokens(width, height) <= 256


@pytest.mark.parametrize("size", [(0, 10), (201, 1), (1, 201)])
def test_an_image_no_model_can_see_is_refused(processor, size):
    with pytest.raises(DataError, match="crop"):
        processor.image_tokens(*size)


@given(st.text())
def test_any_text_comes_back(text):
    processor = load_processor(TINY_GEOMETRY)
    assert processor.decode(processor.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["e\u0301 é", "∠ABC = 45°", "\\frac{\\sqrt{3}}{2}", "a  b\r\n\t", "😀𝛼"]
)
def test_text_of_real_datasets_comes_back(processor, text):
    assert processor.decode(processor.encode(text)) == text


def test_names_of_special_tokens_are_one_token_each(processor):
    tokens = processor.encode("<|vision_start|><|image_pad|><|vision_end|><|im_end|><|endoftext|>")
    assert tokens[:3] == [
        processor.vision_start_id,
        processor.image_token_id,
        processor.vision_end_id,
    ]
    assert tokens[3:] == processor.stop_token_ids
    assert len(processor.encode("<think></think><answer></answer><scan></scan>")) == 6


def test_the_chat_has_qwens_shape(processor):
    image_and_text = [{"type": "image"}, {"type": "text", "text": "Find x."}]
    text = processor.chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": image_and_text},
        ]
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Find x.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_autotokenizer_loads_the_same_tokens_offline(processor):
    from transformers import AutoTokenizer

    text = "Find angle C. e\u0301<|im_end|>\n<think>74+44=118.</think>"
    assert AutoTokenizer.from_pretrained(FOLDER)(text)["input_ids"] == processor.encode(text)


def test_it_is_loaded_once():
    assert load_processor(TINY_GEOMETRY) is load_processor(TINY_GEOMETRY)


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere.*model\.name"):
        load_processor(str(tmp_path / "nowhere"))


def test_a_folder_of_another_kind_is_refused(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    settings = tmp_path / "model" / "preprocessor_config.json"
    settings.write_text("{}")
    with pytest.raises(ModelError, match="patch_size"):
        load_processor(str(tmp_path / "model"))
    settings.write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        load_processor(str(tmp_path / "model"))


def test_the_one_file_of_all_parts_is_as_good_and_comes_first(tmp_path):
    """What `Processor.save_pretrained` of transformers 5 leaves."""
    folder = tmp_path / "newer"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    whole = {
        "image_processor": settings,
        "processor_class": "Qwen3VLProcessor",
        "video_processor": {**settings, "patch_size": 99},
    }
    (folder / "processor_config.json").write_text(json.dumps(whole))
    # Where both are there, transformers takes this one, and so does the engine.
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "patch_size": 28}))
    both = load_processor(str(folder))
    (folder / "preprocessor_config.json").unlink()
    alone = load_processor(str(shutil.copytree(folder, tmp_path / "alone")))
    theirs_alone = Qwen2VLImageProcessorPil.from_pretrained(folder)
    shipped = load_processor(TINY_GEOMETRY)
    for width, height in sizes(20):
        tokens = shipped.image_tokens(width, height)
        assert both.image_tokens(width, height) == alone.image_tokens(width, height) == tokens
        assert theirs(theirs_alone, width, height) == tokens


@pytest.mark.parametrize("whole", ["{}", '{"image_processor": null}', '{"image_processor": []}'])
def test_one_file_without_settings_of_images_is_none(tmp_path, whole):
    folder = tmp_path / "newer"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "processor_config.json").write_text(whole)
    assert load_processor(str(folder)).image_tokens(96, 96) == 16
    (folder / "preprocessor_config.json").unlink()
    other = shutil.copytree(folder, tmp_path / "alone")
    with pytest.raises(ModelError, match=r"image_processor in processor_config\.json"):
        load_processor(str(other))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[]", "no JSON object"),
        ('{"patch_size": null, "merge_size": 2, "size": {}}', "no number"),
        ('{"patch_size": "big", "merge_size": 2, "size": {}}', "no number"),
        ('{"patch_size": 12, "merge_size": 2, "size": 5}', "no number"),
        ('{"patch_size": 12, "merge_size": 2, "size": {}}', "shortest_edge"),
    ],
)
def test_damaged_settings_are_named(tmp_path, settings, said):
    folder = tmp_path / "damaged"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "preprocessor_config.json").write_text(settings)
    with pytest.raises(ModelError, match=said):
        load_processor(str(folder))


def test_older_settings_and_a_chat_template_beside_the_tokenizer_are_understood(tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    size = settings.pop("size")
    settings |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="chat template"):
        load_processor(str(folder))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    older = load_processor(str(folder))
    shipped = load_processor(TINY_GEOMETRY)
    messages = [{"role": "user", "content": "hi"}]
    assert older.chat(messages) == shipped.chat(messages)
    assert older.image_tokens(500, 300) == shipped.image_tokens(500, 300)


def test_what_stands_behind_a_colon_is_for_the_server(tmp_path, monkeypatch):
    assert hub_id("Qwen/Qwen3.6-35B-A3B:peft:262144") == "Qwen/Qwen3.6-35B-A3B"
    assert model_path("Qwen/Qwen3.6-35B-A3B:peft:262144") == "Qwen/Qwen3.6-35B-A3B"
    suffixed = load_processor(f"{TINY_GEOMETRY}:peft:9")
    assert suffixed.encode("Find x.") == load_processor(TINY_GEOMETRY).encode("Find x.")
    assert suffixed.name == f"{TINY_GEOMETRY}:peft:9"
    # A folder may be called so.
    folder = tmp_path / "my:model"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert (hub_id(str(folder)), model_path("my:model")) == (str(folder), "my:model")


def test_other_names_stay_as_they_are():
    assert model_path("Qwen/Qwen3-VL-2B-Instruct") == "Qwen/Qwen3-VL-2B-Instruct"
