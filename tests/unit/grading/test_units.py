"""Units by themselves, as the blindfold asks for them."""

import pytest

from visual_r1.grading.spelling import canonical, tokenise
from visual_r1.grading.units import ANY, Unit, in_conflict, read_unit, split_unit


def unit_of(text: str) -> Unit | None:
    return read_unit(tokenise(canonical(text)))


@pytest.mark.parametrize("word", ["cm", "feet", "degrees", "kilometers", "ohms", "dollars"])
def test_a_unit_measures_something(word: str) -> None:
    unit = unit_of(word)
    assert unit is not None and unit.measures


@pytest.mark.parametrize("word", ["sides", "units", "triangles", "people", "children", "squares"])
def test_what_is_only_counted_measures_nothing(word: str) -> None:
    assert unit_of(word) == ANY


@pytest.mark.parametrize("word", ["lines", "is", "less", "exact", "a", "ab", "MN", "cd", "x"])
def test_other_words_are_no_units_without_a_number(word: str) -> None:
    assert unit_of(word) is None


def test_behind_a_number_a_plural_is_what_is_counted() -> None:
    (_, apples), (_, oranges), (_, units) = (
        split_unit(tokenise(f"5 {name}")) for name in ("apples", "oranges", "units")
    )
    assert in_conflict(apples, oranges)
    assert units == ANY and not in_conflict(apples, units)
