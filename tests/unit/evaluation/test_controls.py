"""The controls' figures against hand-counted tables, and the interval of seeing by simulation."""

import math

import numpy as np
import pytest
from made_up import answer, predictions, problems, with_scans

from visual_r1.evaluation.controls import count_controls, paired_ratio_ci, seeing_of
from visual_r1.evaluation.prediction import Prediction
from visual_r1.evaluation.statistics import Pairs, exact_mcnemar, paired_difference_ci, wilson


def asked(greedy: list[bool], **others: list[bool | None]) -> list[Prediction]:
    """Predictions that are right as it says, in the passes that are named."""
    made: list[Prediction] = []
    for place, right in enumerate(greedy):
        given = {
            name: None if found[place] is None else answer(bool(found[place]))
            for name, found in others.items()
        }
        made.append(
            Prediction(
                id=str(place),
                family="",
                greedy=answer(right),
                blind=given.pop("blind", None),
                sampled=(),
                failures={},
                **given,  # type: ignore[arg-type]
            )
        )
    return made


def test_each_control_is_paired_with_the_greedy_answers() -> None:
    greedy = [True] * 6 + [False] * 4
    swapped: list[bool | None] = [True, None] + [False] * 4 + [True] * 1 + [False] * 3
    found = count_controls(asked(greedy, other_image=swapped))
    one = found.by_name["other_image"]
    pairs = Pairs(both=1, gained=4, lost=1, neither=3)
    assert list(found.by_name) == ["other_image"]
    assert (one.n, one.correct, one.paired) == (9, 2, 9)
    assert one.accuracy_ci95 == wilson(2, 9)
    assert one.outcomes == {
        "both": 1 / 9,
        "image_only": 4 / 9,
        "without_only": 1 / 9,
        "neither": 3 / 9,
    }
    assert one.outcomes_ci95["image_only"] == wilson(4, 9)
    assert one.difference == pytest.approx(5 / 9 - 2 / 9)
    assert one.difference_ci95 == paired_difference_ci(pairs)
    assert one.p_value == exact_mcnemar(4, 1)
    assert found.seeing is not None
    assert (found.seeing.without, found.seeing.n) == ("other_image", 9)
    assert found.seeing.value == pytest.approx(1 - 2 / 5)


def test_seeing_is_of_the_white_picture_where_that_was_asked() -> None:
    greedy: list[bool] = [True, True, False, False]
    found = count_controls(
        asked(greedy, blind=[True, False, False, False], other_image=[False] * 4)
    )
    assert found.seeing is not None
    assert (found.seeing.without, found.seeing.value) == ("blind", 0.5)


def test_of_no_control_and_of_nothing_right_there_is_no_figure() -> None:
    assert count_controls(asked([True, False])).by_name == {}
    assert count_controls(asked([True, False])).seeing is None
    nothing = count_controls(asked([False] * 3, blind=[True, False, False]))
    assert nothing.seeing is None
    assert nothing.by_name["blind"].accuracy == pytest.approx(1 / 3)


def test_scans_and_questions_alone_are_controls_too() -> None:
    of = problems(40)
    found = count_controls(with_scans(predictions(of, 0.6, seed=1), 0.5, seed=2))
    assert list(found.by_name) == ["blind", "question_only", "scan_only"]
    assert 0.2 < found.by_name["scan_only"].accuracy < 0.8
    assert set(found.roundings) == {"greedy", "blind", "sampled"}
    assert found.roundings["sampled"].answers == 40 * 8


@pytest.mark.parametrize(
    ("cells", "published"),
    [
        # Cavo et al. (2012) in Fagerland, Lydersen and Laake (2014): 65 of 161, and 75.
        (Pairs(both=59, lost=6, gained=16, neither=80), (0.7579, 0.9910)),
    ],
)
def test_the_ratio_s_interval_is_the_published_one(
    cells: Pairs, published: tuple[float, float]
) -> None:
    assert paired_ratio_ci(cells) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize("n", [64, 512])
@pytest.mark.parametrize(
    ("with_it", "without", "both"),
    [(0.8, 0.1, 0.09), (0.5, 0.4, 0.3), (0.6, 0.6, 0.5), (0.9, 0.02, 0.02)],
)
def test_the_interval_of_seeing_covers_the_truth_as_often_as_it_says(
    n: int, with_it: float, without: float, both: float
) -> None:
    rng = np.random.default_rng(0)
    shares = [both, with_it - both, without - both, 1 - with_it - without + both]
    truth, covered, draws = 1 - without / with_it, 0, 1000
    for cells in rng.multinomial(n, shares, size=draws):
        found = seeing_of(Pairs(*map(int, cells)), "blind")
        assert found is not None
        low, high = found.ci95
        covered += (-math.inf if low is None else low) <= truth <= high
    # 94.9 to 96.1 % with 20,000 draws; three standard errors of these on either side.
    assert 0.93 <= covered / draws <= 0.98


def test_where_nothing_is_right_without_the_picture_the_end_is_no_certainty() -> None:
    found = seeing_of(Pairs(both=0, gained=40, lost=0, neither=10), "blind")
    assert found is not None
    assert found.value == 1.0
    assert found.ci95[0] is not None
    assert 0.85 < found.ci95[0] < 1.0
    assert found.ci95[1] == pytest.approx(1.0)
