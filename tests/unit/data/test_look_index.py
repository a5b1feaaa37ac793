"""The tree of looks finds what a look at every one of them finds."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn import closest

from visual_r1.data import look_index
from visual_r1.data.fingerprint import Look
from visual_r1.data.look_index import LookIndex
from visual_r1.data.state_file import StateFile

FAR = 0.15  # nearly as far as copies may be


def drawn_look(draw: random.Random, like: Look | None = None) -> Look:
    """The look of some picture, or one that may be of a copy."""
    greys = [draw.randint(0, 255) for _ in range(256)]
    numbers = np.array([draw.gauss(0, 1) for _ in range(35)])
    if like is not None:
        spread = draw.choice((20, 36, 60))
        greys = [min(255, max(0, g + draw.randint(-spread, spread))) for g in like.greys]
        numbers *= draw.uniform(0, FAR) / np.linalg.norm(numbers)
        numbers += np.array(like.frequencies)
    unit = (numbers / np.linalg.norm(numbers)).astype(np.float16)
    return Look(96, 96, tuple(unit.tolist()), bytes(greys))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StateFile]:
    opened = StateFile(tmp_path, look_index.TABLES, 1)
    yield opened
    opened.close()


def small(file: StateFile) -> LookIndex:
    """One whose leaves are soon full."""
    return LookIndex(file, split_at=8, part=3)


@pytest.mark.parametrize("images", [1, 2])
def test_the_same_is_found_as_among_all(file: StateFile, images: int) -> None:
    draw = random.Random(images)
    index = small(file)
    problems: list[list[Look]] = []
    found = 0
    for number in range(250):
        like = draw.choice(problems) if problems and draw.random() < 0.7 else [None] * images
        looks = [drawn_look(draw, one) for one in like]
        stored = [b"".join(look.to_bytes() for look in other) for other in problems]
        expected = closest(looks, stored) if stored else []
        assert index.near(b"question", looks) == expected
        assert index.near(b"another", looks) == []
        found += len(expected)
        problems.append(looks)
        index.add(b"question", number, b"".join(look.to_bytes() for look in looks), images)
        if number == 120:
            file.commit()
            index = small(file)  # as after an interruption
    assert found > 60
    assert file.number("SELECT COUNT(*) FROM look_splits") > 10


def test_looks_that_are_all_the_same_are_kept_in_one_leaf(file: StateFile) -> None:
    index, look = small(file), drawn_look(random.Random(0))
    for number in range(50):
        index.add(b"question", number, look.to_bytes(), 1)
    assert index.near(b"question", [look]) == list(range(50))
    assert file.number("SELECT COUNT(*) FROM look_splits") == 0


def test_a_search_reads_few_of_many(file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    index = small(file)
    looks = [drawn_look(draw) for _ in range(600)]
    for number, look in enumerate(looks):
        index.add(b"question", number, look.to_bytes(), 1)
    compared: list[int] = []
    near = look_index.near

    def counted(looks: list[Look], stored: bytes) -> object:
        compared.append(len(stored) // len(looks[0].to_bytes()))
        return near(looks, stored)

    monkeypatch.setattr(look_index, "near", counted)
    for number in range(0, 600, 50):
        assert number in index.near(b"question", [looks[number]])
    assert sum(compared) < 12 * 600 / 4
