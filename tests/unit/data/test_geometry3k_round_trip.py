"""The real problems through the whole of the data part, and through the schema of the hub."""

import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Features, Image, List, Value
from real_processors import FAMILIES, Family, real_processor

from visual_r1.config import DataSection, RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.data.problem import Problem
from visual_r1.grading import grade
from visual_r1.models import TINY_GEOMETRY
from visual_r1.models.processor import load_processor
from visual_r1.prompts.fit import fit_of
from visual_r1.prompts.prompts import Prompter

REAL = "VISUAL_R1_GEOMETRY3K"
real = pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no folder")
# As hiyouga/geometry3k has them.
SCHEMA = Features({"images": List(Image()), "problem": Value("string"), "answer": Value("string")})
SPLITS: tuple[Any, ...] = ("train", "validation", "test")


def problems(source: str, out: Path) -> dict[str, list[Problem]]:
    preset = RunConfig(preset="geometry3k").data
    dataset = prepare(preset.model_copy(update={"source": source}), out)
    assert dataset.counts["rejected"] == 0
    return {split: list(dataset.problems(split)) for split in SPLITS}


@real
def test_real_problems_prompt_and_grade(tmp_path: Path) -> None:
    prompter = Prompter(load_processor(TINY_GEOMETRY), "think", RunConfig().model.max_pixels)
    every = [p for split in problems(os.environ[REAL], tmp_path).values() for p in split]
    assert len(every) == len(list(Path(os.environ[REAL]).rglob("data.json")))
    for problem in every:
        chunks = prompter.model_input(problem).chunks
        assert [chunk.type for chunk in chunks].count("image") == 1
        assert problem.question in prompter.processor.decode(
            [token for chunk in chunks if chunk.type == "encoded_text" for token in chunk.tokens]
        )
        said = f"<think>look</think> <answer>{problem.answer}</answer>"
        assert grade(said, problem.answer, "rounded").right
        others = [choice for choice in problem.choices if choice != problem.answer]
        for other in others:
            assert not grade(f"<answer>{other}</answer>", problem.answer).right


@real
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_can_be_asked_with_the_real_tokenizer(family: Family, tmp_path: Path) -> None:
    processor = real_processor(family, tmp_path)
    config = RunConfig(preset="geometry3k")
    data = config.data.model_copy(update={"source": os.environ[REAL]})
    dataset = prepare(data, tmp_path)
    assert dataset.counts["rejected"] == 0
    prompter = Prompter(processor, config.prompt.template, config.model.max_pixels, "off")
    most, lengths = config.sampling.max_new_tokens, list[int]()
    sizes = dataset.sizes(None)
    for split in (split for split in SPLITS if dataset.counts[split]):
        assert fit_of(dataset, split, sizes[split], prompter, most, 4096).unfit == ()
        lengths += [prompter.model_input(one).length for one in dataset.problems(split)]
    assert len(lengths) == len(list(Path(os.environ[REAL]).rglob("data.json")))
    assert max(lengths) <= 4096 - most


@real
def test_the_schema_of_the_hub_comes_back_the_same(tmp_path: Path) -> None:
    real = problems(os.environ[REAL], tmp_path)
    folder = tmp_path / "geometry3k"
    for split, there in real.items():
        rows = [
            {
                "images": [{"bytes": data, "path": None} for data in problem.images],
                "problem": problem.problem,
                "answer": problem.answer,
            }
            for problem in there
        ]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=SCHEMA).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features == SCHEMA
    again = problems(str(folder), tmp_path)
    for split, there in real.items():
        assert len(loaded[split]) == len(there) == len(again[split]) > 0
        for row, problem, mine in zip(loaded[split], there, again[split], strict=True):
            assert (row["problem"], row["answer"]) == (problem.problem, problem.answer)
            assert len(row["images"]) == 1 and problem.problem.startswith("<image>")
            assert (mine.problem, mine.answer, mine.images) == (
                problem.problem, problem.answer, problem.images
            )  # fmt: skip


def test_the_preset_is_for_the_hub_schema() -> None:
    data = RunConfig(preset="geometry3k").data
    assert data == DataSection(source="hiyouga/geometry3k")
