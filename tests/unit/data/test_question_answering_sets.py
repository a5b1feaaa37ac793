"""The settings in docs/datasets.md on small sets with the columns of the real ones.

MathVista, MathVerse and MathVision themselves are not there; their schemas are those of their
cards on the hub.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, Features, Image, List, Value
from drawn import figure

from visual_r1.config import DataSection
from visual_r1.data.choices import with_choices
from visual_r1.data.dataset import prepare
from visual_r1.data.problem import Problem
from visual_r1.data.rows import BadRow, check_row
from visual_r1.data.sources.hub import HubSource
from visual_r1.errors import DataError
from visual_r1.grading import grade

DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"
STRING = Value("string")


def settings(source: str) -> dict[str, Any]:
    """The `[data]` of the example for this source."""
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (found,) = [
        read for block in blocks if (read := tomllib.loads(block)["data"])["source"] == source
    ]
    return found


def picture(n: int) -> dict[str, Any]:
    return {"bytes": figure(n), "path": f"images/{n}.png"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `datasets` finds hub ids: those of folders that lie there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def write(file: Path, rows: list[dict[str, Any]], features: Features) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(file)


MATH_VISTA = Features({
    "pid": STRING, "question": STRING, "image": STRING, "decoded_image": Image(),
    "choices": List(STRING), "unit": STRING, "precision": Value("float64"), "answer": STRING,
    "question_type": STRING, "answer_type": STRING,
    "metadata": {
        "category": STRING, "context": STRING, "grade": STRING, "img_height": Value("int64"),
        "img_width": Value("int64"), "language": STRING, "skills": List(STRING),
        "source": STRING, "split": STRING, "task": STRING,
    },
    "query": STRING,
})  # fmt: skip


def math_vista(n: int, answer: str, choices: list[str] | None) -> dict[str, Any]:
    about = dict.fromkeys(MATH_VISTA["metadata"], "") | {
        "img_height": 90, "img_width": 120, "skills": ["logical reasoning"],
        "task": "geometry problem solving", "split": "testmini",
    }  # fmt: skip
    return {
        "pid": str(n + 1), "question": f"Which is it, {n}?", "image": f"images/{n}.png",
        "decoded_image": picture(n), "choices": choices, "unit": None,
        "precision": None if choices else 1.0, "answer": answer,
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": "text" if choices else "float", "metadata": about,
        "query": f"Hint: …\nQuestion: Which is it, {n}?",
    }  # fmt: skip


def write_math_vista(root: Path) -> None:
    data = root / "AI4Math" / "MathVista" / "data"
    rows = [
        math_vista(0, "145°", ["135°", "140°", "145°", "150°"]),
        math_vista(1, "1.2", None),
        math_vista(2, "purple > blue", ["purple > blue", "purple < blue"]),
        math_vista(3, "Yes", ["Yes", "No"]),
    ]
    write(data / "testmini-00000-of-00001-725687bf7a18d64b.parquet", rows, MATH_VISTA)
    hidden = [math_vista(n, "", None) for n in range(10, 16)]
    write(data / "test-00000-of-00001-2c1f0a7c.parquet", hidden, MATH_VISTA)


MATH_VERSE = Features({
    "sample_index": STRING, "problem_index": STRING, "problem_version": STRING,
    "question": STRING, "image": Image(), "answer": STRING, "question_type": STRING,
    "metadata": {"split": STRING, "source": STRING, "subject": STRING, "subfield": STRING},
    "query_wo": STRING, "query_cot": STRING, "question_for_eval": STRING,
})  # fmt: skip
MATH_VERSE_CARD = """---
configs:
- config_name: testmini
  data_files:
  - split: testmini
    path: testmini.parquet
- config_name: testmini_text_only
  data_files:
  - split: testmini_text_only
    path: testmini_text_only.parquet
---
"""


def write_math_verse(root: Path) -> None:
    question = "As shown in the figure, angle 1 is {}°. Then angle 2 is ()\nChoices:\n"
    choices = "A:{}°\nB:55°\nC:45°\nD:35°"
    rows: list[dict[str, Any]] = []
    for n in range(8):
        multiple = n % 2 == 0
        version = "Vision Only" if n == 7 else "Text Dominant"
        shown = question.format(n) + choices.format(n + 60) if multiple else f"Find DE, {n}."
        about = dict.fromkeys(MATH_VERSE["metadata"], "") | {"subject": "Plane Geometry"}
        rows.append({
            "sample_index": str(n + 1), "problem_index": str(n // 5 + 1),
            "problem_version": version, "question": "" if n == 7 else shown, "image": picture(n),
            "answer": "B" if multiple else str(n), "metadata": about,
            "question_type": "multi-choice" if multiple else "free-form",
            "query_wo": shown, "query_cot": shown, "question_for_eval": shown,
        })  # fmt: skip
    folder = root / "AI4Math" / "MathVerse"
    write(folder / "testmini.parquet", rows, MATH_VERSE)
    write(folder / "testmini_text_only.parquet", rows[:1], MATH_VERSE)
    (folder / "README.md").write_text(MATH_VERSE_CARD)


MATH_VISION = Features({
    "id": STRING, "question": STRING, "options": List(STRING), "image": STRING,
    "decoded_image": Image(), "answer": STRING, "solution": STRING, "level": Value("int64"),
    "subject": STRING,
})  # fmt: skip


def write_math_vision(root: Path) -> None:
    def row(n: int, question: str, options: list[str], answer: str) -> dict[str, Any]:
        return {
            "id": str(n), "question": question, "options": options, "image": f"images/{n}.jpg",
            "decoded_image": picture(n), "answer": answer, "solution": None, "level": 2,
            "subject": "counting",
        }  # fmt: skip

    rows = [
        row(1, "Which bike is most expensive?\n<image1>", list("ABCDE"), "A"),
        row(2, "How many?\n<image1>", ["2", "3", "4", "5", "6"], "C"),
        row(3, "What is the area of <image1>?", [], "\\frac{1}{2}"),
        row(4, "Which fits <image1>?", ["<image2>", "<image3>"], "B"),
    ]
    data = root / "MathLLMs" / "MathVision" / "data"
    write(data / "test-00000-of-00001-3532b8d3f1b4047a.parquet", rows, MATH_VISION)
    write(data / "testmini-00000-of-00001-f8ff70fcb2f29b1d.parquet", rows[:1], MATH_VISION)


def from_the_hub(name: str) -> tuple[dict[str, Problem], list[str]]:
    """The problems of a hub id by id, and why others were rejected."""
    source = HubSource(DataSection.model_validate(settings(name)))
    good: dict[str, Problem] = {}
    bad: list[str] = []
    assert set(source.sizes()) == {"train"}
    for row in source.rows("train"):
        try:
            good[row.id] = check_row(row).problem
        except BadRow as error:
            bad.append(str(error))
    assert len(good) + len(bad) == source.sizes()["train"]
    return good, bad


def locally(root: Path, name: str) -> list[Problem]:
    """The same from the folder itself, prepared in full."""
    data = settings(name) | {"source": str(root / name), "subset": None}
    dataset = prepare(DataSection.model_validate(data), root)
    return [p for split in ("train", "validation", "test") for p in dataset.problems(split)]


def right(problem: Problem, answer: str) -> bool:
    return grade(f"<answer>{answer}</answer>", problem.answer, choices=problem.choices).right


def test_math_vista(hub: Path) -> None:
    write_math_vista(hub)
    problems, bad = from_the_hub("AI4Math/MathVista")
    assert (list(problems), bad) == (["1", "2", "3", "4"], [])
    first = problems["1"]
    lines = "A. 135°\nB. 140°\nC. 145°\nD. 150°"
    assert first.problem == f"<image>Which is it, 0?\nChoices:\n{lines}"
    assert first.images == (figure(0),) and first.family == "geometry problem solving"
    assert right(first, "145°") and right(first, "C") and not right(first, "B")
    assert problems["2"].problem == "<image>Which is it, 1?" and right(problems["2"], "1.2")
    # No grader reads this text as a value, so its letter stands for it.
    assert problems["3"].answer == "A" and right(problems["3"], "A")
    assert right(problems["4"], "Yes") and not right(problems["4"], "No")
    assert {p.id for p in locally(hub, "AI4Math/MathVista")} == set(problems)


def test_math_verse(hub: Path) -> None:
    write_math_verse(hub)
    problems, bad = from_the_hub("AI4Math/MathVerse")
    assert len(problems) == 7 and bad == ["the problem is empty"]
    first = problems["1"]
    assert first.choices == ("60°", "55°", "45°", "35°")
    assert right(first, "B") and right(first, "55") and not right(first, "45")
    assert first.problem.count("Choices:") == 1
    assert problems["2"].choices == () and right(problems["2"], "1")
    assert (first.family, first.meta["problem_version"]) == ("Plane Geometry", "Text Dominant")
    with pytest.raises(DataError, match=r"--data\.subset.*'testmini', 'testmini_text_only'"):
        HubSource(DataSection(source="AI4Math/MathVerse")).sizes()


def test_math_vision(hub: Path) -> None:
    write_math_vision(hub)
    problems, bad = from_the_hub("MathLLMs/MathVision")
    assert (list(problems), bad) == (["1", "2", "3", "4"], [])
    assert problems["1"].problem == (
        "Which bike is most expensive?\n<image>\nChoices: A, B, C, D, E"
    )
    assert right(problems["1"], "A") and not right(problems["1"], "B")
    assert right(problems["2"], "C") and right(problems["2"], "4")
    assert problems["3"].problem == "What is the area of <image>?" and right(problems["3"], "0.5")
    assert problems["4"].problem == "Which fits <image>?\nChoices:\nA. image 2\nB. image 3"
    assert problems["1"].meta == {"family": "counting", "level": 2}
    assert len(locally(hub, "MathLLMs/MathVision")) == 4


def test_the_hub_and_the_folder_give_the_same(hub: Path) -> None:
    write_math_vision(hub)
    problems, _ = from_the_hub("MathLLMs/MathVision")
    for mine in locally(hub, "MathLLMs/MathVision"):
        theirs = problems[mine.id]
        assert (mine.problem, mine.answer, mine.choices, mine.images, mine.meta) == (
            theirs.problem, theirs.answer, theirs.choices, theirs.images, theirs.meta
        )  # fmt: skip


def test_classes_and_rows_of_a_hub_dataset(hub: Path) -> None:
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = Features({"image": Image(), "problem": STRING, "answer": names})
    rows = [{"image": picture(n), "problem": f"{n}?", "answer": n % 2} for n in range(70)]
    write(hub / "me" / "pets" / "data" / "train-00000-of-00001.parquet", rows, features)
    write(hub / "me" / "pets" / "data" / "test-00000-of-00001.parquet", rows[:3], features)
    source = HubSource(DataSection(source="me/pets"))
    every = list(source.rows("train"))
    assert [row.answer for row in every[:2]] == ["cat", "dog"]
    assert (every[69].place, every[69].id) == ("train row 69", "train-69")
    for start in (0, 1, 31, 32, 69, 70, 71):
        assert list(source.rows("train", start)) == every[start:]
    with pytest.raises(
        DataError, match=r"splits\.test names 'dev', and me/pets has no split.*test"
    ):
        HubSource(
            DataSection.model_validate({"source": "me/pets", "splits": {"test": "dev"}})
        ).sizes()
    lacking = DataSection.model_validate({"source": "me/pets", "columns": {"problem": "q"}})
    with pytest.raises(DataError, match=r"no column 'q' \(it has image, problem, answer\)"):
        next(HubSource(lacking).rows("train"))


@pytest.mark.parametrize(
    ("problem", "answer", "gold", "choices"),
    [
        ("Find C.\nA. 30\nB. 40\nC. 50", "B", "B", ("30", "40", "50")),
        ("In △ABC, find m∠ C:\n(A) 30\n(B) 40", "A", "A", ("30", "40")),
        ("Find x. A. 30 B. 40", "b", "B", ("30", "40")),
        ("Find x.\nA:30\nB:40", "(a)", "A", ("30", "40")),
        ("Solve for b.", "b", "b", ()),
        ("Find C. Which letter stands at A. then?", "C", "C", ()),
    ],
)
def test_choices_that_a_problem_lists_are_found_line_by_line(
    problem: str, answer: str, gold: str, choices: tuple[str, ...]
) -> None:
    text, found, listed = with_choices(problem, answer, (), show=False)
    assert (text, found, listed) == (problem, gold, choices)
