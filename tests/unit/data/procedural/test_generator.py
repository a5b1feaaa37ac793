"""The generator: the same problems from the same numbers, and splits that share no values."""

import hashlib
import io
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from visual_r1.data.procedural import (
    FAMILIES,
    capacity,
    fresh_values,
    generate,
    problem,
    split_of,
    value_count,
)
from visual_r1.data.procedural.family import Style
from visual_r1.data.procedural.polygons import POLYGONS
from visual_r1.data.procedural.raster import render
from visual_r1.errors import DataError

SPLITS = ("train", "validation", "test")


def values_of(problem):
    """The problem's family and numbers, without what belongs to what."""
    return problem.family, tuple(sorted(problem.meta["values"].values()))


def pixels(problem):
    return np.asarray(Image.open(io.BytesIO(problem.images[0])).convert("RGB"))


def test_there_are_at_least_six_families_and_each_takes_its_turn():
    assert len(FAMILIES) >= 6
    assert [p.family for p in generate(3, "test", len(FAMILIES))] == list(FAMILIES)


def test_a_problem_depends_on_seed_split_and_number_alone():
    first = list(generate(5, "train", 40))
    assert list(generate(5, "train", 25)) == first[:25]
    assert problem(5, "train", 31) == first[31]
    assert list(generate(6, "train", 40)) != first
    assert [p.problem for p in generate(5, "validation", 40)] != [p.problem for p in first]


def test_no_seed_puts_the_values_of_one_split_into_another():
    seen = {
        split: {values_of(p) for seed in range(3) for p in generate(seed, split, 180)}
        for split in SPLITS
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_the_shares_of_the_splits_are_about_70_10_20():
    owners = [split_of("triangle", (a, b)) for a in range(20, 90) for b in range(a, 90)]
    for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert owners.count(split) / len(owners) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_come_again_are_drawn_otherwise(family):
    """Problem by problem through all rounds of one value tuple."""
    a_round = len(FAMILIES) * value_count(family, "validation")
    rounds = capacity("validation") // fresh_values("validation")
    first = FAMILIES.index(family)
    again = [problem(0, "validation", first + a_round * i) for i in range(rounds)]
    assert len({values_of(p) for p in again}) == 1
    assert len({(p.problem, p.images) for p in again}) == rounds > 50


def test_the_first_problems_all_have_values_of_their_own():
    drawn = [
        (p.family, tuple(p.meta["facts"]))
        for p in generate(1, "validation", fresh_values("validation"))
        if p.family in ("rectangle", "chords", "parallel_lines")
    ]
    assert len(set(drawn)) == len(drawn)


def test_too_many_problems_is_a_clear_error():
    with pytest.raises(DataError, match="ask for fewer"):
        generate(0, "test", capacity("test") + 1)
    assert len(list(islice(generate(0, "test", capacity("test")), 2))) == 2


def test_no_constant_guess_is_right_in_5_percent_of_the_problems():
    problems = list(generate(2, "train", 1800))
    best = 0
    for family in FAMILIES:
        answers = [p.answer for p in problems if p.family == family]
        best += max(answers.count(a) for a in set(answers))
    assert best / len(problems) < 0.05  # of 200 a family: a bound from above


def test_the_numbers_are_in_the_picture():
    """Two problems that differ in one drawn number differ in pixels, and only where it stands."""
    style = Style(("A", "B", "C", "D"), False, False, (0,) * 8, 0, 0)
    rectangle = next(f for f in POLYGONS if f.name == "rectangle")
    one, two = (render(rectangle.figure(v, style).sketch) for v in ((34, 21), (35, 21)))
    rows, columns = np.nonzero((one != two).any(axis=2))
    assert rows.size
    assert columns.min() >= 60 and columns.max() < 73 and rows.min() >= 83


def test_images_are_small_rgb_pngs_on_white():
    for p in generate(0, "test", 18):
        image = Image.open(io.BytesIO(p.images[0]))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (96, 96))
        assert (pixels(p) == 255).all(axis=2).mean() > 0.6


def test_pixels_are_the_same_on_every_machine():
    digest = hashlib.blake2b(digest_size=8)
    for p in generate(0, "test", 90):
        digest.update(pixels(p).tobytes())
    assert digest.hexdigest() == "2e0245673a8be517"


def test_sources_ids_and_markers():
    problems = list(generate(4, "validation", 30))
    assert len({p.id for p in problems}) == 30
    for p in problems:
        assert p.source == "procedural"
        assert p.problem.startswith("<image>") and p.problem.count("<image>") == 1
        assert len(p.images) == 1
