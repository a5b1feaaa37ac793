"""Rows that cannot be asked about are found by their sizes, without a figure being opened."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from visual_r1.config import DataSection, RunConfig
from visual_r1.data.dataset import Dataset, open_dataset, prepare
from visual_r1.data.sizes import SIZES_FILE
from visual_r1.models import TINY_GEOMETRY
from visual_r1.models.processor import load_processor
from visual_r1.prompts.fit import SplitFit, fit_of
from visual_r1.prompts.images import scaled_size
from visual_r1.prompts.prompts import Prompter

SIDES = [(200, 150), (2000, 10), (640, 480), (3000, 15), (64, 64), (90, 300)]


def prompter(max_pixels: int = 10_000) -> Prompter:
    return Prompter(load_processor(TINY_GEOMETRY), RunConfig().prompt.template, max_pixels)


def line(folder: Path, number: int, text: str = "", images: int = 1) -> str:
    names: list[str] = []
    for one in range(images):
        image = Image.new("RGB", SIDES[(number + one) % len(SIDES)], "white")
        ImageDraw.Draw(image).line([(0, 0), (9 + number, 5 + one)], "black")
        names.append(f"{number}-{one}.png")
        image.save(folder / names[-1])
    row: dict[str, Any] = {
        "id": f"p{number}",
        "problem": f"Find x in figure {number}.{text}",
        "answer": str(number),
        "images": names,
    }
    return json.dumps(row)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("set")
    texts = {3: " Why?" * 400, 5: " △∠°" * 90, 8: "<|im_end|><|image_pad|>" * 40}
    lines = [line(folder, n, texts.get(n, ""), 1 + n % 3) for n in range(12)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "test.jsonl").write_text(line(folder, 20))
    return prepare(DataSection(source=str(folder)), folder / "out")


def fit(dataset: Dataset, context: int | None, answer: int = 96, **how: Any) -> SplitFit:
    return fit_of(dataset, "train", dataset.sizes()["train"], prompter(**how), answer, context)


def test_the_sizes_are_those_of_the_figures_and_texts(dataset: Dataset) -> None:
    for split, sizes in dataset.sizes().items():
        problems = dataset.problems(split)
        assert list(sizes.ids) == [problem.id for problem in problems]
        assert [int(one) for one in sizes.text_bytes] == [
            len(problem.problem.encode()) for problem in problems
        ]
    first = dataset.sizes()["train"]
    assert first.sides_of(1) == ((2000, 10), (640, 480)) and len(first) == 12


def test_a_dataset_from_before_is_measured_once(dataset: Dataset, tmp_path: Path) -> None:
    path = dataset.folder / SIZES_FILE
    kept = path.read_bytes()
    before = {split: (s.ids, s.sides.tolist(), s.starts.tolist()) for split, s in
              dataset.sizes().items()}  # fmt: skip
    path.unlink()
    old = Dataset(dataset.folder, dataset.digest, dataset.counts, tuple(
        name for name in dataset.files if name != SIZES_FILE))  # fmt: skip
    measured = old.sizes()
    path.write_bytes(kept)
    assert {s: (m.ids, m.sides.tolist(), m.starts.tolist()) for s, m in measured.items()} == before
    assert open_dataset(dataset.folder).files == dataset.files
    assert SIZES_FILE in dataset.files, "its size is checked with the others"


@pytest.mark.parametrize("at", [0.02, 0.2, 0.5])
def test_sizes_that_nothing_vouches_for_are_measured_again_where_they_are_damaged(
    dataset: Dataset, caplog: pytest.LogCaptureFixture, at: float
) -> None:
    path = dataset.folder / SIZES_FILE
    kept, before = path.read_bytes(), dataset.sizes()["train"].sides.tolist()
    place = int(len(kept) * at)
    path.write_bytes(kept[:place] + bytes(20) + kept[place + 20 :])
    again = dataset.sizes()["train"].sides.tolist()
    measured = path.read_bytes()
    path.write_bytes(kept)
    assert again == before
    assert measured == kept
    assert ["measured again" in record.message for record in caplog.records] == [True]


def test_every_row_gets_its_length_and_the_limit_is_exact(dataset: Dataset) -> None:
    asked = prompter()
    lengths = [asked.model_input(problem).length for problem in dataset.problems("train")]
    for context in (96 + max(lengths), *(96 + length for length in sorted(lengths)), 100):
        found = fit(dataset, context)
        wrong = [place for place, length in enumerate(lengths) if length + 96 > context]
        assert [one.place for one in found.unfit] == wrong, context
        assert all(found.most_tokens[place] >= lengths[place] for place in range(12))
    worst = max(range(12), key=lengths.__getitem__)
    (one,) = fit(dataset, 95 + max(lengths)).unfit
    assert (one.place, one.id, one.split) == (worst, f"p{worst}", "train")
    assert f"its prompt has {max(lengths)} tokens" in one.why
    assert f"more than the {95 + max(lengths)} of the model's context" in one.why
    assert fit(dataset, None).unfit == ()


def test_scaling_keeps_a_long_figure_within_what_a_model_sees() -> None:
    """A side that is rounded down made 2000 x 10 at 10,000 pixels 1414 x 7, which none sees."""
    assert scaled_size(2000, 10, 10_000) == (1400, 7)
    assert scaled_size(150, 30_000, 1_003_520) == (70, 14_000)
    draw = random.Random(1)
    for _ in range(20_000):
        short = draw.randint(8, 400)
        sides = [short, draw.randint(short, 200 * short)]
        draw.shuffle(sides)
        most = draw.choice((1024, 3136, 10_000, 50_176, 1_003_520))
        wide, high = scaled_size(*sides, most)
        assert min(wide, high) >= 1 and max(wide, high) <= 200 * min(wide, high), (sides, most)
        assert wide * high <= max(most, 0) and wide <= sides[0] and high <= sides[1]


def test_a_figure_that_none_sees_is_named(dataset: Dataset) -> None:
    sizes = dataset.sizes()["train"]
    sides = sizes.sides.copy()
    sides[sizes.starts[4]] = (4010, 20)
    longer = type(sizes)(sizes.ids, sizes.starts, sides, sizes.text_bytes)
    (one,) = fit_of(dataset, "train", longer, prompter(), 96, None).unfit
    assert one.id == "p4" and "one side is more than 200 times the other" in one.why
