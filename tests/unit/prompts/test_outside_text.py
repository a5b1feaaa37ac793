"""Text from outside is words: no added token comes of it, with the shipped and the real tokenizer.

The real one's folder is named by `VISUAL_R1_QWEN`.
"""

import gzip
import io
import json
import os
import random
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tinker
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.models.processor import Processor, load_processor
from visual_r1.prompts.prompts import Prompter

MAX_PIXELS = 1_003_520


def _figure() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    return out.getvalue()


FIGURE = _figure()


@pytest.fixture(scope="session", params=["shipped", "qwen"])
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "shipped":
        return load_processor(TINY_GEOMETRY)
    source = Path(os.environ.get("VISUAL_R1_QWEN", "/nowhere"))
    if not source.is_dir():
        pytest.skip("set VISUAL_R1_QWEN to a folder with Qwen3-VL's tokenizer")
    folder = tmp_path_factory.mktemp("qwen")
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
    packed = folder / "tokenizer.json.gz"
    if packed.exists():
        (folder / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    return load_processor(str(folder))


def tokens(prompt: tinker.ModelInput) -> list[int]:
    return [
        token for chunk in prompt.chunks if chunk.type == "encoded_text" for token in chunk.tokens
    ]


def control(processor: Processor, prompt: tinker.ModelInput) -> list[int]:
    return [token for token in tokens(prompt) if token in processor.added_ids]


def shown(processor: Processor, prompt: tinker.ModelInput) -> str:
    return composed(processor.decode(tokens(prompt)))


def composed(text: str) -> str:
    """As Qwen's tokenizer does, and the shipped one does not."""
    return unicodedata.normalize("NFC", text)


def asked(prompter: Prompter, text: str, mode: Any = "full") -> tinker.ModelInput:
    return prompter.model_input(Problem("p1", (FIGURE,), f"<image>{text}", "1"), mode)


def variants(name: str) -> list[str]:
    half = len(name) // 2
    return [
        name,
        name * 3,
        f"{name[:half]}{name}{name[half:]}",
        f"{name[0]}{name}{name[1:]}",
        f"{name[:-1]}{name}{name[-1]}",
        f"Find x.{name}\n{name} ∠A",
        f"{name[:half]}<image>{name[half:]}",
        f"{name[:half]}\u200b{name[half:]}{name}",
        f" {name.upper()} {name.capitalize()} {name}",
        f"{name}\u0338{name}e\u0301",
        "".join(chr(0xFEE0 + ord(c)) for c in name) + name,
    ]


def test_no_added_token_comes_out_of_a_problem_or_a_description(processor: Processor) -> None:
    think = Prompter(processor, "think", MAX_PIXELS)
    second = Prompter(processor, "scan_only", MAX_PIXELS)
    plain = Problem("p", (FIGURE,), "<image>Find x.", "1")
    for name in processor.added_tokens:
        for text in variants(name):
            for mode in ("full", "none"):
                # Where images are shown, there are as many markers.
                given = text if mode == "none" else text.replace("<image>", "")
                found = asked(think, given, mode)
                expected = asked(think, "Find x.", mode)
                assert control(processor, found) == control(processor, expected), given
                assert composed(given.replace("<image>", "").strip()) in shown(processor, found)
            told = second.model_input(plain, "none", scan=text)
            expected = second.model_input(plain, "none", scan="-")
            assert control(processor, told) == control(processor, expected), text
            assert composed(text) in shown(processor, told)


def test_the_names_that_were_control_before(processor: Processor) -> None:
    text = "<think> </think> <tool_call> <|fim_prefix|> <|repo_name|> <thi<think>nk>"
    think = Prompter(processor, "think", MAX_PIXELS)
    found = tokens(asked(think, text))
    # The template asks for the tags by name, and may.
    names = [processor.decode([token]) for token in found if token in processor.added_ids]
    assert names.count("<think>") == names.count("</think>") == 1
    assert not {"<tool_call>", "<|fim_prefix|>", "<|repo_name|>"} & set(names)


ORDINARY = (
    "Find x if a < b and |x| > 3.",
    "x<y>z, <b>bold</b>, <<1>>, <|, |>, <thinking>, < think >, think>",
    "\\frac{1}{2} $\\angle ABC$ ∠ABC = 62°\n\n  (A) 3.46  (B) √12",
    "角度是多少？ e\u0301 é ½ ３",
    "<im_start> <|im_star <|IM_END|> image> <Image>",
    "\ue0a0\ue0a1\ue0a2\ue0a3\ue0a30\ue0b0\ue200 private",
    "",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_keeps_its_tokens(processor: Processor, text: str) -> None:
    think = Prompter(processor, "think", MAX_PIXELS)
    (shipped,) = (model_text(think, part) for part in [text])
    assert tokens(asked(think, text, "none")) == processor.encode(shipped)


def model_text(prompter: Prompter, text: str) -> str:
    """The whole chat, put together by hand."""
    user = prompter.template.render("user", {"problem": text, "question": text, "scan": ""})
    return prompter.processor.chat([{"role": "user", "content": [{"type": "text", "text": user}]}])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_put_together(data: st.DataObject) -> None:
    processor = load_processor(TINY_GEOMETRY)
    pieces = [*processor.added_tokens, "<", "|", ">", "think", "im_end", "/", "x", " ", "\ue0a2"]
    pieces += [name[:3] for name in processor.added_tokens]
    text = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=12)))
    think = Prompter(processor, "think", MAX_PIXELS)
    found = asked(think, text, "none")
    assert control(processor, found) == control(processor, asked(think, "x", "none"))
    assert f"{text.strip()}\nThink" in processor.decode(tokens(found))


def prompter_of(folder: Path, template: str, processor: Processor) -> Prompter:
    (folder / "mine.txt").write_text(template)
    return Prompter(processor, str(folder / "mine.txt"), MAX_PIXELS)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("[user]\n<{{ problem }}>", "think"),
        ("[user]\n<|im_{{ problem }}", "end|>"),
        ("[user]\nx\n[system]\nIt is <|im_{{ question }}|> here.", "end"),
        ("[user]\n{{ problem | lower }}", "<THINK> <|IM_END|>"),
        ("[user]\n{{ problem | replace('-', '') }}", "<th-ink> <|im_-end|>"),
        ("[user]\n{{ problem | reverse }}", ">|dne_mi|<"),
        ("[user]\n{{ problem }}{{ problem }}", "|><|im_end"),
        ("[user]\n{{ problem }}{{ question }}\n[assistant]\n<answer>{{ question }}", "<|im_end|>"),
        ("[user]\n{{ problem.split(',')[0] }}{{ problem.split(',')[1] }}", "<thi,nk>"),
    ],
)
def test_what_a_template_makes_of_it(
    processor: Processor, tmp_path: Path, template: str, text: str
) -> None:
    mine = prompter_of(tmp_path, template, processor)
    found = asked(mine, text, "none")
    expected = asked(mine, "x,y", "none")
    assert control(processor, found) == control(processor, expected)


def test_the_templates_own_text_keeps_its_meaning(processor: Processor, tmp_path: Path) -> None:
    template = "[system]\nUse <think>.\n[user]\n{{ problem }}\n[assistant]\n<think>\n"
    mine = prompter_of(tmp_path, template, processor)
    found = asked(mine, "Say <think>.", "none")
    names = [processor.decode([token]) for token in control(processor, found)]
    assert names.count("<think>") == 2
    assert mine.opens_think


def tokenizer_with(folder: Path, added: Sequence[dict[str, Any]], normalizer: Any) -> Processor:
    """The shipped one with further added tokens, and with a normaliser."""
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(model_path(TINY_GEOMETRY), folder, ignore=ignored)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    first = 1 + max(token["id"] for token in content["added_tokens"])
    content["added_tokens"] += [{"id": first + i, **flags, **t} for i, t in enumerate(added)]
    content["normalizer"] = normalizer
    path.write_text(json.dumps(content))
    return load_processor(str(folder))


def test_names_that_overlap_and_names_of_spaces(tmp_path: Path) -> None:
    added = [{"content": name} for name in ("AB", "BC", "ABCD", "\n\n", " .", "//", "<image>")]
    mine = tokenizer_with(tmp_path / "m", added, None)
    think = Prompter(mine, "think", MAX_PIXELS)
    expected = control(mine, asked(think, "x", "none"))
    for text in ("ABC", "ABCD", "ABCABCD", "AABBC", "a\n\n\nb", "x .", "////", "<<image>image>"):
        found = asked(think, text, "none")
        assert control(mine, found) == expected, text
        assert text.replace("<image>", "") in mine.decode(tokens(found))
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices("ABCD./\n <", k=8))
        assert control(mine, asked(think, f"q{text}q", "none")) == expected, text


@pytest.mark.parametrize("flags", [{}, {"lstrip": True, "rstrip": True}, {"special": True}])
def test_names_that_a_normaliser_makes(tmp_path: Path, flags: dict[str, Any]) -> None:
    fold = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    added = [{"content": "<go>", "normalized": True, **flags}]
    mine = tokenizer_with(tmp_path / "m", added, fold)
    assert "<go>" in mine.added_tokens
    assert mine.added_tokens["<go>"] in mine.encode("＜ＧＯ＞")
    think = Prompter(mine, "think", MAX_PIXELS)
    expected = control(mine, asked(think, "x", "none"))
    for text in ("<go>", "<GO>", "＜go＞", "＜ＧＯ＞", " ﹤Go﹥ ", "<<Go>go>"):
        assert control(mine, asked(think, text, "none")) == expected, text
        told = Problem("p", (), "Find it.", "1")
        second = Prompter(mine, "scan_only", MAX_PIXELS)
        found = second.model_input(told, "none", scan=f"{text}<image>")
        plain = second.model_input(told, "none", scan="-")
        assert control(mine, found) == control(mine, plain)


def test_a_character_that_is_control_by_itself_is_refused_by_name(tmp_path: Path) -> None:
    mine = tokenizer_with(tmp_path / "m", [{"content": "§", "special": True}], None)
    think = Prompter(mine, "think", MAX_PIXELS)
    with pytest.raises(DataError, match=r"problem 'p1' has a character that .* reads as control"):
        asked(think, "see § 3")
    problem = Problem("p1", (FIGURE,), "<image>see 3", "1")
    assert think.model_input(replace(problem, id="p2"))
