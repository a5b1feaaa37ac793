"""Whose picture is shown in a problem's place."""

import io
from collections import Counter
from dataclasses import replace

import pytest
from made_up import problems
from PIL import Image

from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.errors import DataError
from visual_r1.evaluation.other_images import other_places
from visual_r1.grading import is_equivalent

DRAWN = list(generate(5, "test", 200))


def doubled(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        larger = image.resize((2 * image.width, 2 * image.height))
    out = io.BytesIO()
    larger.save(out, format="PNG")
    return out.getvalue()


def test_another_picture_another_answer_and_the_same_family() -> None:
    others = other_places(DRAWN, len(DRAWN))
    for one, place in zip(DRAWN, others, strict=True):
        assert place is not None
        other = DRAWN[place]
        assert not set(other.images) & set(one.images)
        assert not is_equivalent(other.answer, one.answer, "rounded")
        assert other.family == one.family
    # Not the same few for all.
    assert max(Counter(others).values()) <= 6


def test_it_does_not_change_with_the_number_or_the_order_of_the_problems() -> None:
    others = other_places(DRAWN, len(DRAWN))
    assert other_places(DRAWN, 20) == others[:20]
    backwards = DRAWN[::-1]
    again = other_places(backwards, len(backwards))[::-1]
    assert [backwards[p].id for p in again if p is not None] == [
        DRAWN[p].id for p in others if p is not None
    ]


def test_pictures_of_a_like_size_are_preferred() -> None:
    small, others = list(generate(1, "test", 40)), generate(2, "test", 40)
    large = [replace(one, id=f"large-{one.id}", images=(doubled(one.images[0]),)) for one in others]
    mixed = [replace(one, meta={"family": "one"}) for one in (*small, *large)]
    others = other_places(mixed, len(mixed))
    for place, other in enumerate(others):
        assert other is not None
        assert (place < 40) == (other < 40)


def test_the_same_picture_under_another_name_is_its_own() -> None:
    [one, *rest] = problems(3)
    twin = replace(one, id="twin", answer="77")
    others = other_places([one, twin, *rest], 2)
    assert all(place is not None and place > 1 for place in others)


def test_without_a_like_one_of_the_family_any_is_taken_and_without_any_none_is() -> None:
    [one, *rest] = problems(5)
    alone = replace(one, meta={"family": "alone"})
    [place] = other_places([alone, *rest], 1)
    assert place is not None
    blind = Problem("text", (), "Find x.", "3")
    assert other_places([blind, *problems(2)], 3)[0] is None
    two = replace(one, id="two", images=one.images * 2, problem="<image><image>")
    assert other_places([two, *rest], 1 + len(rest))[0] is None
    with pytest.raises(DataError, match="leave other_image out"):
        other_places([one], 1)
