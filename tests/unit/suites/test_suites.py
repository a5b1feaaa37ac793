"""Named benchmarks: their files, rows in the layouts that they are published in, what is asked."""

import fnmatch
import gzip
import io
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.data.problem import Problem
from visual_r1.errors import ConfigError, DataError
from visual_r1.grading import grade
from visual_r1.suites import command
from visual_r1.suites.results import published
from visual_r1.suites.suite import SUITES_DIR, load_suite, load_suites, suite_names

ROOT = Path(__file__).parents[3]
REAL_ANSWERS = "VISUAL_R1_MATHVISION_ANSWERS"


def picture(number: int) -> dict[str, Any]:
    """A figure of its own for each row, as `datasets` stores one."""
    drawn = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(drawn).polygon([(9, 80), (20 + number * 7 % 60, 9), (85, 80)], outline="black")
    ImageDraw.Draw(drawn).text((3, 3), f"n{number}", fill="black")
    encoded = io.BytesIO()
    drawn.save(encoded, "PNG")
    return {"bytes": encoded.getvalue(), "path": None}


def geometry(number: int, answer: str, letter: str) -> dict[str, Any]:
    return {
        "images": [picture(number)],
        "problem": "<image>Find x.",
        "answer": answer,
        "id": number,
        "choices": ["3", "4", "5.3", "\\frac{1}{2}"],
        "ground_truth": letter,
    }


def mathvista(number: int, **row: Any) -> dict[str, Any]:
    hint = "Hint: Please answer the question and provide the correct option letter, at the end."
    return {
        "pid": str(number),
        "question": row.get("question", "What is x?"),
        "image": f"images/{number}.jpg",
        "decoded_image": picture(number),
        "choices": row.get("choices"),
        "unit": None,
        "precision": row.get("precision"),
        "answer": row["answer"],
        "question_type": "multi_choice" if row.get("choices") else "free_form",
        "answer_type": row.get("answer_type", "text"),
        "metadata": {"task": "geometry problem solving", "split": "testmini"},
        "query": row.get("query", f"{hint}\nQuestion: What is x?"),
    }


def mathverse(number: int, version: str, answer: str, asked: str) -> dict[str, Any]:
    return {
        "sample_index": str(number),
        "problem_index": str(number // 5),
        "problem_version": version,
        "question": "" if version == "Vision Only" else asked,
        "image": picture(number),
        "answer": answer,
        "question_type": "multi-choice" if answer.isalpha() else "free-form",
        "metadata": {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry"},
        "query_wo": f"Please directly answer the question.\nQuestion: {asked}",
        "query_cot": "Please first conduct reasoning, and then answer the question and provide the "
        f"correct option letter, e.g., A, B, C, D, at the end.\nQuestion: {asked}",
    }


def mathvision(number: int, answer: str, options: Sequence[str]) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": "How many?\n<image1>",
        "options": list(options),
        "image": f"images/{number}.jpg",
        "decoded_image": picture(number),
        "answer": answer,
        "solution": None,
        "level": 1 + number % 5,
        "subject": "counting",
    }


def mmmu(number: int) -> dict[str, Any]:
    return {
        "id": f"test_Math_{number}",
        "question": "Compare <image 1> with <image 2>: which is larger?",
        "options": "['the first', 'the second', 'neither']",
        "answer": "B",
        "subject": "Math",
        **{f"image_{i}": picture(number * 7 + i) if i < 3 else None for i in range(1, 8)},
    }


LISTED = "As shown, find the angle.\nChoices:\nA:65°\nB:60°\nC:45°\nD:30°"
ROWS: Mapping[str, Sequence[dict[str, Any]]] = {
    "geometry3k_test": [geometry(1, "5.3", "C"), geometry(2, "\\frac{1}{2}", "D")],
    "geometry3k_choices": [geometry(1, "5.3", "C"), geometry(2, "\\frac{1}{2}", "D")],
    "mathvista_testmini": [
        mathvista(1, answer="145°", choices=["135°", "140°", "145°", "150°"])
        | {
            "query": "Hint: provide the correct option letter.\nQuestion: Find x.\nChoices:\n"
            "(A) 135°\n(B) 140°\n(C) 145°\n(D) 150°"
        },
        mathvista(2, answer="1.2", answer_type="float", precision=1.0),
        mathvista(3, answer="7", answer_type="integer"),
    ],
    "mathverse_testmini": [
        mathverse(1, "Text Lite", "A", LISTED),
        mathverse(2, "Vision Only", "B", "According to the question shown in the image."),
        mathverse(3, "Vision Intensive", "4\\sqrt{3}", "Find the length."),
    ],
    "mathverse_testmini_vision_only": [
        mathverse(2, "Vision Only", "B", "According to the question shown in the image."),
        mathverse(3, "Vision Only", "12", "According to the question shown in the image."),
    ],
    "mathvision_testmini": [
        mathvision(1, "60", []),
        mathvision(2, "A", ["A", "B", "C", "D", "E"]),
        mathvision(3, "C", ["1", "2", "$\\frac{3}{4}$", "4", "5"]),
    ],
    "mathvision_test": [mathvision(1, "60", []), mathvision(2, "B", ["1", "2", "3", "4", "5"])],
    "mmmu_pro_standard": [mmmu(1), mmmu(2)],
}


def write_rows(folder: Path, split: str, rows: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{split}.parquet")
    return folder


def prepared(name: str, tmp_path: Path) -> list[Problem]:
    """The problems of rows in the suite's own layout."""
    suite = load_suite(name)
    split = suite.data.splits.test
    assert split is not None
    # Another split beside it, which is none of the suite's.
    source = write_rows(tmp_path / "source", split, ROWS[name])
    other = [dict(row) for row in ROWS[name][:1]]
    write_rows(source, "dev", other)
    config = suite.config_for(RunConfig(preset="quickstart", output_dir=tmp_path), str(source))
    dataset = prepare(config.data, tmp_path, needs=["test"])
    assert dataset.counts["test"] == len(ROWS[name]) and dataset.counts.get("rejected", 0) == 0
    assert not dataset.counts.get("train") and not dataset.counts.get("validation")
    return list(dataset.problems("test"))


def test_each_suite_says_what_it_is_and_ships() -> None:
    assert set(suite_names()) == set(ROWS)
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in suite_names():
        suite = load_suite(name)
        shipped = f"suites/{name}.toml"
        assert any(
            fnmatch.fnmatch(shipped, one) for one in patterns["package-data"]["visual_r1"]
        ), f"{shipped} is not in the package"
        assert suite.name == name == (SUITES_DIR / f"{name}.toml").stem
        assert "https://" in suite.layout and "https://" in suite.convention.source
        for one in suite.published:
            values = (one.value,) if isinstance(one.value, float) else one.value
            assert all(0 < value < 1 for value in values)
            assert one.convention and one.source.startswith("https://")
        # avg@k wants samples.
        assert (suite.convention.headline == "avg@k") <= (suite.asked.samples > 1)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_in_its_published_layout_become_problems(name: str, tmp_path: Path) -> None:
    problems = prepared(name, tmp_path)
    rounding = load_suite(name).asked.rounding
    for problem in problems:
        right = grade(f"<answer>{problem.answer}</answer>", problem.answer, rounding=rounding)
        assert right.verdict == "right"
        assert problem.problem.count("<image>") == len(problem.images)
    by_id = {problem.id: problem for problem in problems}
    match name:
        case "geometry3k_test":
            assert [problem.answer for problem in problems] == ["5.3", "\\frac{1}{2}"]
            assert "A." not in problems[0].problem
        case "geometry3k_choices":
            assert [problem.answer for problem in problems] == ["C", "D"]
            assert problems[0].problem.endswith("A. 3\nB. 4\nC. 5.3\nD. \\frac{1}{2}")
        case "mathvista_testmini":
            assert by_id["1"].problem.count("145°") == 1  # its own text lists them already
            assert by_id["1"].family == "geometry problem solving"
            assert by_id["1"].meta["question_type"] == "multi_choice"
        case "mathverse_testmini":
            assert by_id["1"].choices == ("65°", "60°", "45°", "30°")
            assert by_id["2"].family == "Vision Only" and by_id["2"].answer == "B"
        case "mathvision_testmini":
            assert by_id["2"].problem.endswith("Choices: A, B, C, D, E")
            assert by_id["3"].problem.startswith("How many?\n<image>")
        case "mmmu_pro_standard":
            assert [len(problem.images) for problem in problems] == [2, 2]
            assert "B. the second" in problems[0].problem and problems[0].family == "Math"
        case _:
            assert problems


@pytest.mark.skipif(REAL_ANSWERS not in os.environ, reason=f"set {REAL_ANSWERS} to the answers")
def test_the_real_answers_of_math_vision_are_gold_as_they_are(tmp_path: Path) -> None:
    with gzip.open(os.environ[REAL_ANSWERS], "rt", encoding="utf-8") as lines:
        answers = {row["id"]: row for row in map(json.loads, lines)}
    rows = [mathvision(int(id), row["gold"], row["options"]) for id, row in answers.items()]
    source = write_rows(tmp_path / "source", "test", rows)
    suite = load_suite("mathvision_test")
    config = suite.config_for(RunConfig(preset="quickstart", output_dir=tmp_path), str(source))
    counts = prepare(config.data, tmp_path, needs=["test"]).counts
    assert counts["test"] > 0.99 * len(rows), counts


def test_a_run_that_is_asked_by_a_suite_stays_the_run_it_is(tmp_path: Path) -> None:
    config = RunConfig(preset="quickstart", output_dir=tmp_path)
    suite = load_suite("geometry3k_test")
    asked = suite.config_for(config)
    assert asked.run_dir == config.run_dir
    assert asked.data.source == "hiyouga/geometry3k" and asked.reward.rounding == "rounded"
    assert (asked.evaluation.samples, asked.evaluation.temperature) == (8, 1.0)
    assert asked.prompt == config.prompt and asked.model == config.model
    assert asked.data.max_rejected_share == config.data.max_rejected_share


def test_what_somebody_names_beside_a_suite_holds_and_is_told(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": tmp_path,
            "evaluation": {"samples": 2, "temperature": 0.5},
            "reward": {"rounding": "exact"},
        }
    )
    suite = load_suite("geometry3k_test")
    assert suite.departures == suite.asking(config, ["train.steps"]).departures == []
    assert suite.asking(config, []).config_for(config).evaluation.samples == 8
    named = suite.asking(config, ["evaluation.samples", "reward.rounding"])
    assert named.departures == ["samples 2 and not 8", "rounding exact and not rounded"]
    asked = named.config_for(config)
    assert (asked.evaluation.samples, asked.evaluation.temperature) == (2, 1.0)
    assert asked.reward.rounding == "exact"
    warm = suite.asking(config, ["evaluation.temperature"]).config_for(config)
    assert (warm.evaluation.samples, warm.evaluation.temperature) == (8, 0.5)


def test_a_source_in_another_layout_brings_its_own_columns(tmp_path: Path) -> None:
    config = RunConfig(preset="quickstart", output_dir=tmp_path)
    suite = load_suite("geometry3k_choices")
    problem = tmp_path / "geo" / "test" / "7"
    problem.mkdir(parents=True)
    (problem / "data.json").write_text("{}")
    data = suite.config_for(config, str(tmp_path / "geo")).data
    assert data.columns.answer is None and data.show_choices and data.splits.test == "test"
    # A file of rows has the suite's columns, and no subset, which only the hub has.
    rows = write_rows(tmp_path / "rows", "test", ROWS["mmmu_pro_standard"])
    data = load_suite("mmmu_pro_standard").config_for(config, str(rows)).data
    assert data.subset is None and data.columns.choices == "options"
    # Another repository of the hub is as the suite's own.
    data = load_suite("mmmu_pro_standard").config_for(config, "me/MMMU_Pro").data
    assert data.subset == "standard (10 options)"


OWN = """
title = "Mine"
form = "free form"
answers = "a value"
licence = "mine"
layout = "here"
contamination = "none: drawn yesterday"

[data]
source = "rows"
columns.problem = "question"

[convention]
says = "nobody reports it"
source = "nowhere"
"""


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    suite = load_suite(str(path))
    assert suite.name == "mine" and suite.data.source == "rows"  # a hub id, as far as is known
    row = {"question": "<image>x?", "answer": "5", "image": picture(1)}
    write_rows(tmp_path / "rows", "test", [row])
    suite = load_suite(str(path))
    assert Path(suite.data.source) == tmp_path / "rows"  # what lies beside the file
    config = suite.config_for(RunConfig(preset="quickstart", output_dir=tmp_path))
    [problem] = prepare(config.data, tmp_path, needs=["test"]).problems("test")
    assert problem.answer == "5"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("title =", "titel ="), "title: Field required"),
        (("[data]", "[data"), "not valid TOML"),
        (('columns.problem = "question"', 'columns.problme = "question"'), "problme"),
        (('form = "free form"', 'form = "essay"'), "form: Input should be"),
        (("[convention]", '[asked]\ntemplate = "./mine.txt"\n[convention]'), "./mine.txt"),
        (("[convention]", "[asked]\nsamples = -1\n[convention]"), "asked.samples"),
    ],
)
def test_a_wrong_file_is_said_in_a_sentence(
    change: tuple[str, str], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    (tmp_path / "mine.txt").write_text("[user]\n{{ problem }}")
    path.write_text(OWN.replace(*change))
    with pytest.raises(ConfigError) as raised:
        load_suite(str(path))
    assert says in str(raised.value) and str(path) in str(raised.value)


def test_names_and_sources_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean mathvista_testmini"):
        load_suite("mathvista_testmin")
    with pytest.raises(ConfigError, match="a command each"):
        load_suites(["geometry3k_test", "mathvista_testmini"], "folder")
    twice = tmp_path / "geometry3k_test.toml"
    twice.write_text(OWN)
    with pytest.raises(ConfigError, match="Two suites are called 'geometry3k_test'"):
        load_suites(["geometry3k_test", str(twice)])
    assert len(load_suites(["geometry3k_test", "geometry3k_test"])) == 1
    source = write_rows(tmp_path / "wrong", "testmini", ROWS["mathvision_testmini"])
    suite = load_suite("mathvista_testmini")
    config = suite.config_for(RunConfig(preset="quickstart", output_dir=tmp_path), str(source))
    with pytest.raises(DataError, match="no column 'query'"):
        prepare(config.data, tmp_path, needs=["test"])


def test_the_command_lists_and_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in suite_names())
    assert command.main(["geometry3k_test"]) == 0
    shown = capsys.readouterr().out
    assert "contamination" in shown and "published: Qwen2.5-VL-7B, VPPO: 46.5%" in shown
    assert command.main(["none"]) == 1
    assert "There is no suite 'none'" in capsys.readouterr().err
    assert published(load_suite("geometry3k_test"))[-1].startswith("Qwen3-VL-30B-A3B")
