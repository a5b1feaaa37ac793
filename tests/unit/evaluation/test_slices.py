"""By what an evaluation is looked at: shares of samples in groups whose names are true."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from made_up import answer, predictions, problems, write_evaluation

from visual_r1.evaluation.slices import in_order, known_in

BOUNDS = {
    "never solved": lambda share: share == 0,
    "under 1/3": lambda share: 0 < share < Fraction(1, 3),
    "1/3 to 2/3": lambda share: Fraction(1, 3) <= share < Fraction(2, 3),
    "2/3 and more": lambda share: Fraction(2, 3) <= share < 1,
    "always solved": lambda share: share == 1,
}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 7, 12, 49])
def test_a_problem_is_in_the_group_whose_name_says_how_often_it_was_solved(
    k: int, tmp_path: Path
) -> None:
    asked = problems(k + 1)
    made = [
        replace(one, sampled=tuple(answer(place < right) for place in range(k)))
        for right, one in enumerate(predictions(asked, 0.5, seed=0, k=k))
    ]
    tmp_path.joinpath("baseline").mkdir()
    write_evaluation(tmp_path / "baseline", asked, made)
    groups = known_in(tmp_path / "baseline").groups("difficulty")
    assert set(groups) == {one.id for one in asked}
    for right, one in enumerate(asked):
        assert BOUNDS[groups[one.id]](Fraction(right, k)), (right, k, groups[one.id])


def test_they_are_read_from_the_hardest_to_the_easiest() -> None:
    assert in_order("difficulty", sorted(BOUNDS)) == list(BOUNDS)
