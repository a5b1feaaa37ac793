from pathlib import Path

import pytest

from visual_r1.errors import ConfigError
from visual_r1.prompts.templates import TEMPLATES_DIR, load_template


@pytest.mark.parametrize("name", [path.stem for path in TEMPLATES_DIR.glob("*.txt")])
def test_shipped_templates_load(name: str) -> None:
    template = load_template(name)
    assert template.uses_scan == (name == "scan_only")
    values = {"problem": "<image>Find x.", "question": "Find x.", "scan": "a triangle"}
    assert "Find x." in template.render("user", values)
    assert "<answer> </answer>" in template.render("user", values)
    assert template.render("system", values) == ""


def test_a_users_own_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(
        "[system]\n You are brief. \n\n[user]\n{{ problem }}\n[1, 2] is no section.\n"
        "{% if scan %}{{ scan }}{% endif %}\n\n[assistant]\n<think>\n"
    )
    template = load_template(str(mine))
    values = {"problem": "P {{ question }}", "question": "Q", "scan": ""}
    assert template.render("system", values) == "You are brief."
    assert template.render("user", values) == "P {{ question }}\n[1, 2] is no section."
    assert template.render("assistant", values) == "<think>"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("[user]\n{{ problem }} Answer in <answer>, thoughts in <think>.", ("think", "answer")),
        ("[user]\n{{ problem }}\n[system]\nDescribe in <scan>, answer in <answer>.",
         ("scan", "answer")),
        ("[user]\n{{ problem }} Put the answer in a box.", ("think", "answer")),
        ("[user]\n{{ problem }} <think> <answer>\n[format]\nplan think\nanswer\n",
         ("plan", "think", "answer")),
        ("[user]\n{{ problem }} <answer>\n[assistant]\n<think></think>", ("answer",)),
        ("[user]\n{{ problem }} <scan>\n[format]\n\n", ("scan",)),
    ],
)  # fmt: skip
def test_the_tags_of_a_response_follow_from_the_template(
    tmp_path: Path, text: str, tags: tuple[str, ...]
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(text)
    assert load_template(str(mine)).tags == tags
    assert load_template("scan_think").tags == ("scan", "think", "answer")
    assert load_template("scan_only").tags == load_template("think").tags == ("think", "answer")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[user]\n{{ problem }}\n[format]\n<scan> think", 4, "'<scan>' is no tag"),
        ("[user]\n{{ problem }}\n[format]\nscan scan", 4, "'scan' is no tag .* once"),
        ("[user]\n{{ problem }}\n[asistant]\n<think>", 3, r"\[asistant\]"),
        ("[user]\n{{ problem }}\n\n[user]\nagain", 4, "second time"),
        ("hello\n[user]\n{{ problem }}", 1, "before the first section"),
        ("[system]\nBe brief.\n[user]\nSolve:\n{{ probelm }}", 5, "'probelm'"),
        ("[user]\n{{ problem }}\n{% if scan %}\nx", 3, "endif"),
        ("[user]\n\n{{ problem", 3, ""),
    ],
)
def test_a_mistake_is_named_by_file_and_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.txt, line {line}: .*{says}"):
        load_template(str(mine))


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'thnik'.*scan_only, scan_think, think"):
        load_template("thnik")
    mine = tmp_path / "mine.txt"
    mine.write_text("[system]\nBe brief.")
    with pytest.raises(ConfigError, match=r"no \[user\] section"):
        load_template(str(mine))
    mine.write_bytes(b"[user]\n\xff{{ problem }}")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_template(str(mine))
    for expression in ("1 / 0", "problem.__class__.__mro__", "problem + 1", "[][3].x"):
        mine.write_text(f"[user]\n{{{{ {expression} }}}}")
        with pytest.raises(ConfigError, match=r"\[user\] of the prompt template .*mine\.txt"):
            load_template(str(mine)).render("user", {"problem": "p", "question": "q", "scan": ""})
