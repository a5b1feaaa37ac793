"""The shipped model: what is in its folder, that nobody changed it, and that it can see."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from visual_r1.data.procedural import FAMILIES, generate
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.models.processor import load_processor

FOLDER = Path(model_path(TINY_GEOMETRY))
SCRIPTS = Path(__file__).parents[3] / "scripts"

# Runs are compared with each other only under the same weights: new weights are a new model, and
# docs/tiny_geometry.md and docs/learning.md are then measured again.
WEIGHTS = "9730315c57769ee47363cd7fe3c412666059a045a0e8977188f8b6a7c0fbaf63"


@pytest.fixture(scope="module")
def recipe():
    """The measuring code of scripts/recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        from recipe import batches, measure, slips, texts

        yield SimpleNamespace(batches=batches, measure=measure, slips=slips, texts=texts)


@pytest.fixture(scope="module")
def model():
    return Qwen3VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_the_folder_is_a_whole_model_of_at_most_10_mb():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10_000_000


def test_the_weights_are_the_ones_that_were_measured():
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() == WEIGHTS


def test_it_is_a_qwen3_vl_with_qwens_token_names(model):
    processor = load_processor(TINY_GEOMETRY)
    assert model.config.model_type == "qwen3_vl"
    assert model.config.image_token_id == processor.image_token_id
    assert model.config.vision_start_token_id == processor.vision_start_id
    assert model.generation_config.eos_token_id == processor.stop_token_ids
    # Rows behind the last token are padding, as in Qwen's own checkpoints.
    assert len(processor.tokenizer) <= model.config.text_config.vocab_size


def test_prompts_and_answers_are_short():
    """Sampling is what a run spends its time on."""
    from visual_r1.prompts.prompts import Prompter

    processor = load_processor(TINY_GEOMETRY)
    prompter = Prompter(processor, "think", 1_000_000)
    for problem in generate(0, "validation", 2 * len(FAMILIES)):
        assert prompter.model_input(problem).length <= 90
        assert len(processor.encode(f"<think>{problem.meta['solution']}</think>")) <= 70


def test_the_recipes_positions_and_patches_are_transformers_own(recipe, model):
    """Training computes both itself, for speed."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    batches, texts = recipe.batches, recipe.texts
    problem = next(iter(generate(0, "validation", 1)))
    prompts = texts.PromptTokens(load_processor(TINY_GEOMETRY))
    tokens = prompts.tokens(texts.chat(problem, "think"))
    image_token = prompts.processor.image_token_id
    row = torch.tensor([tokens])
    pixels, grids = batches.patches(problem.images)
    theirs, _ = model.model.get_rope_index(
        row, mm_token_type_ids=(row == image_token).long(), image_grid_thw=grids
    )
    assert (theirs[:, 0].numpy() == batches.positions(tokens, image_token, 4, 4)).all()

    import io

    from PIL import Image

    images = [Image.open(io.BytesIO(problem.images[0]))]
    processed = Qwen2VLImageProcessorPil.from_pretrained(FOLDER)(images=images, return_tensors="pt")
    torch.testing.assert_close(pixels, processed["pixel_values"], atol=1e-6, rtol=0)
    assert grids.tolist() == processed["image_grid_thw"].tolist()


def test_it_solves_some_and_not_all_and_nothing_blind(recipe, model):
    """Half-trained on purpose: docs/tiny_geometry.md has the exact figures on 504 problems."""
    measure, texts = recipe.measure, recipe.texts
    prompts = texts.PromptTokens(load_processor(TINY_GEOMETRY))
    problems = list(generate(20_000, "validation", 4 * len(FAMILIES)))
    scores = measure.measure(model, prompts, problems, sampled=False)
    assert 0.4 <= scores.accuracy <= 0.95
    assert scores.format_rate >= 0.95
    blind = measure.measure(model, prompts, [measure.blanked(p) for p in problems], sampled=False)
    assert blind.accuracy < 0.15


def test_a_scanned_figure_goes_through(recipe, model):
    """A figure of another size than any in training: the answer may be wrong, but it answers."""
    import io
    from dataclasses import replace

    from PIL import Image

    measure, texts = recipe.measure, recipe.texts
    prompts = texts.PromptTokens(load_processor(TINY_GEOMETRY))
    buffer = io.BytesIO()
    Image.new("RGB", (360, 240), "white").save(buffer, "PNG")
    problem = replace(next(iter(generate(0, "validation", 1))), images=(buffer.getvalue(),))
    (text,) = measure.respond(model, prompts, [texts.chat(problem, "think")], sampled=False, seed=0)
    assert text


def test_slips_change_one_digit_where_a_carry_a_borrow_or_a_rest_could_be_lost(recipe):
    told = {
        said
        for number in range(40)
        for said in recipe.slips.careless("74+48=122. 180-122=58.", "58", f"p{number}")
    }
    assert told == {
        "74+48=122. 180-122=58.",
        "74+48=112. 180-112=68.",
        "74+48=122. 180-122=68.",
        "74+48=112. 180-112=78.",
        "58",
        "68",
        "78",
    }
    for never in ("23+41=64.", "69-21=48.", "86/2=43."):
        answer = never.split("=")[1][:-1]
        assert all(
            recipe.slips.careless(never, answer, str(n)) == (never, answer) for n in range(9)
        )


def test_gold_answers_never_slip(recipe):
    for problem in generate(0, "train", 2 * len(FAMILIES)):
        assert recipe.texts.chat(problem, "think").response.endswith(
            f"<answer>{problem.answer}</answer><|im_end|>"
        )
