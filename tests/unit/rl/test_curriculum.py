import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampled import group_of, rollout
from scipy import stats

from visual_r1.config import CurriculumSection, RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.errors import RunError
from visual_r1.grading import Verdict
from visual_r1.policy.policy import RolloutGroup
from visual_r1.rl.batches import EpochOrder
from visual_r1.rl.curriculum import (
    CurriculumOrder,
    Measured,
    drawing_order,
    expected_contrast,
    nothing_measured,
    prospects,
)
from visual_r1.runs.curriculum_state import (
    load_measured,
    open_order,
    save_measured,
    save_order,
)
from visual_r1.runs.ledger import LedgerRow
from visual_r1.tables import write_table

SETTINGS = CurriculumSection(rule="contrast", uniform_share=0.2, prior_attempts=2.0)


def group(right: int, wrong: int, gave_up: int = 0, failed: int = 0) -> RolloutGroup:
    verdicts: list[Verdict] = ["right"] * right + ["wrong"] * wrong + ["gave_up"] * gave_up
    return group_of(*(rollout(verdict=verdict) for verdict in verdicts), failed=failed)


def measured(*attempts: tuple[float, float]) -> Measured:
    right, wrong = zip(*attempts, strict=True)
    return Measured(np.array(right, float), np.array(wrong, float))


def weights(*attempts: tuple[float, float], size: int = 8, **changes: float) -> list[float]:
    families = np.arange(len(attempts))  # each problem by itself
    settings = SETTINGS.model_copy(update=changes)
    return prospects(measured(*attempts), families, size, settings).weight_N.tolist()


@pytest.mark.parametrize(
    ("alpha", "beta", "size", "contrast"),
    [
        (1, 1, 2, 1 / 3),  # 2 E[p (1 - p)] of a uniform p
        (1, 1, 8, 7 / 9),  # all right: 1 / 9, all wrong: 1 / 9
        (2, 1, 2, 1 - 2 / 3 * 3 / 4 - 1 / 3 * 2 / 4),
        (5, 3, 3, 1 - 5 * 6 * 7 / (8 * 9 * 10) - 3 * 4 * 5 / (8 * 9 * 10)),
        (1e9, 3e9, 4, 1 - 0.25**4 - 0.75**4),  # nothing is left to be uncertain of
    ],
)
def test_expected_contrast_by_hand(alpha: float, beta: float, size: int, contrast: float) -> None:
    found = expected_contrast(np.array([float(alpha)]), np.array([float(beta)]), size)
    assert found[0] == pytest.approx(contrast)


@given(st.floats(0.01, 500), st.floats(0.01, 500), st.integers(2, 32))
def test_expected_contrast_is_a_probability(alpha: float, beta: float, size: int) -> None:
    ways = np.array([alpha, beta]), np.array([beta, alpha])
    one, other = expected_contrast(*ways, size)
    assert 0 < one <= 1
    assert one == pytest.approx(other)
    assert expected_contrast(*ways, size + 1)[0] >= one - 1e-12


def test_weights_by_hand() -> None:
    """Two families: problems 0 and 1, of which 1 was never tried, and problem 2."""
    state = measured((3, 1), (0, 0), (0, 0))
    found = prospects(state, np.array([0, 0, 1]), 2, SETTINGS)
    # m_0 = (1 + 3) / (2 + 4), m_1 = 1 / 2; α = 2 m + s, β = 2 (1 - m) + f.
    alpha, beta = [4 / 3 + 3, 4 / 3, 1], [2 / 3 + 1, 2 / 3, 1]
    assert found.pass_rate_N == pytest.approx([13 / 18, 2 / 3, 1 / 2])
    assert found.tried_N.tolist() == [True, False, False]
    contrast = [
        2 * a * b / ((a + b) * (a + b + 1)) for a, b in zip(alpha, beta, strict=True)
    ]  # G = 2: 2 E[p (1 - p)]
    assert found.contrast_N == pytest.approx(contrast)
    weight = [0.2 / 3 + 0.8 * value / sum(contrast) for value in contrast]
    assert found.weight_N == pytest.approx(weight)
    assert found.weight_N.sum() == pytest.approx(1)


def test_what_is_half_right_comes_before_the_untried_and_those_before_all_right_or_wrong() -> None:
    half, untried, all_right, all_wrong = weights((4, 4), (0, 0), (8, 0), (0, 8))
    assert half > untried > all_right
    assert all_right == pytest.approx(all_wrong)
    more = weights((4, 4), (0, 0), (80, 0), (0, 8))
    assert more[2] < all_right


def test_a_family_that_is_solved_or_hopeless_stands_back_before_its_problems_are_tried() -> None:
    state = measured((40, 0), (0, 0), (20, 20), (0, 0), (0, 40), (0, 0))
    found = prospects(state, np.array([0, 0, 1, 1, 2, 2]), 8, SETTINGS)
    solved, open_, hopeless = found.contrast_N[[1, 3, 5]]
    assert open_ > 3 * solved
    assert solved == pytest.approx(hopeless)


def test_the_uniform_share_keeps_everything_within_reach() -> None:
    hopeless = [(0.0, 1000.0), (500.0, 500.0), (1000.0, 0.0)]
    assert min(weights(*hopeless)) >= 0.2 / 3
    assert weights(*hopeless, uniform_share=1.0) == pytest.approx([1 / 3] * 3)
    only = weights(*hopeless, uniform_share=0.0)
    assert only[1] > 0.97
    assert min(only) > 0


def test_an_attempt_counts_half_after_the_half_life() -> None:
    state = nothing_measured(2).after([0], [group(6, 2)], h=4)
    assert (state.right_N.tolist(), state.wrong_N.tolist()) == ([6, 0], [2, 0])
    for _ in range(4):
        state = state.after([1], [group(1, 1)], h=4)
    assert state.right_N[0] == pytest.approx(3)
    assert state.wrong_N[0] == pytest.approx(1)
    state = state.after([0, 0], [group(1, 0), group(0, 1)], h=1e9)  # a batch larger than the split
    assert (state.right_N[0], state.wrong_N[0]) == pytest.approx((4, 2))


def test_only_what_was_graded_right_or_wrong_is_an_attempt() -> None:
    odd = group(1, 1, gave_up=4, failed=2)
    lost = replace(group(0, 0, failed=8), unscored=(rollout(verdict="right"),))
    state = nothing_measured(3).after([0, 1, 2], [odd, group(0, 0, gave_up=8), lost], h=50)
    assert state.right_N.tolist() == [1, 0, 1]  # the user's reward failed, the grader did not
    assert state.wrong_N.tolist() == [1, 0, 0]
    assert state.tried_N.tolist() == [True, False, True]


def test_rewards_do_not_matter() -> None:
    paid = group_of(rollout(9.0, "wrong"), rollout(-9.0, "right"))
    plain = group_of(rollout(0.0, "wrong"), rollout(1.0, "right"))
    found = [nothing_measured(1).after([0], [one], h=50) for one in (paid, plain)]
    assert found[0].right_N == found[1].right_N
    assert found[0].wrong_N == found[1].wrong_N


def test_the_order_is_a_function_of_seed_step_and_weights() -> None:
    weight = np.array(weights((4, 4), (0, 0), (8, 0), (0, 8), (2, 6)))
    first = drawing_order(weight, 0, 3).tolist()
    assert first == drawing_order(weight.copy(), 0, 3).tolist()
    assert sorted(first) == [0, 1, 2, 3, 4]
    orders = {tuple(drawing_order(weight, seed, step)) for seed in range(5) for step in range(5)}
    assert len(orders) > 15
    # What it is today it stays: a resumed run depends on it.
    assert first == [1, 2, 0, 4, 3]


def test_the_first_place_is_drawn_by_weight_and_the_second_from_the_rest() -> None:
    weight = np.array([0.5, 0.25, 0.15, 0.1])
    orders = [drawing_order(weight, 7, step)[:2].tolist() for step in range(4000)]
    first = Counter(order[0] for order in orders)
    assert stats.chisquare([first[i] for i in range(4)], 4000 * weight).pvalue > 1e-3
    second = Counter(order[1] for order in orders if order[0] == 0)
    expected = first[0] * weight[1:] / weight[1:].sum()
    assert stats.chisquare([second[i] for i in (1, 2, 3)], expected).pvalue > 1e-3


def config(**train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "train": {"batch_size": 4, "group_size": 4, **train},
            "curriculum": {"rule": "contrast"},
        }
    )


def order(state: Measured | None = None) -> CurriculumOrder:
    return CurriculumOrder(config(), np.arange(10) % 2, state or nothing_measured(10))


def sampled(places: list[int]) -> list[RolloutGroup]:
    """Problem i is answered right i times of 9, say."""
    return [group(place % 5, 4 - place % 5) for place in places]


def test_further_rounds_draw_other_problems_until_all_were_drawn() -> None:
    one = order()
    rounds = [one.places(3, turn) for turn in range(4)]
    assert rounds == [one.places(3, turn) for turn in range(4)]
    assert len({place for places in rounds[:2] for place in places}) == 8
    assert {place for places in rounds[:3] for place in places} == set(range(10))
    assert rounds[2][2:] == rounds[0][:2]  # and then from the front again


def test_a_step_depends_on_what_was_measured_before_it() -> None:
    one, other = order(), order()
    for step in range(6):
        assert one.places(step, 0) == other.places(step, 0)
        for same in (one, other):
            same.observe(step, sampled(same.places(step, 0)))
    other = order()
    for step in range(5):
        other.observe(step, [group(4, 0)] * 4)
    assert [one.places(6, k) for k in range(3)] != [other.places(6, k) for k in range(3)]


def test_what_the_metrics_say_of_a_draw() -> None:
    one = order()
    untried = one.observe(0, sampled([*one.places(0, 0), *one.places(0, 1)]))
    assert untried.row() == {
        "curriculum_pass_rate": 0.5,
        "curriculum_contrast": pytest.approx(0.6),  # 1 - 2/5, of a uniform pass rate
        "curriculum_untried": 1.0,
    }
    again = one.observe(1, sampled(one.places(1, 0)))
    assert again.untried < 1


def test_a_checkpoint_brings_the_state_back_to_the_last_bit(tmp_path: Path) -> None:
    whole = order()
    for step in range(4):
        whole.observe(step, sampled(whole.places(step, 0)))
    carry = save_order(tmp_path, 4, whole)
    assert carry == save_order(tmp_path, 4, whole)  # a chunk that is done again writes the same
    assert len(list((tmp_path / "curriculum").iterdir())) == 1
    resumed = order(load_measured(tmp_path, 4, carry, 10))
    for step in range(4, 8):
        assert resumed.places(step, 0) == whole.places(step, 0)
        for same in (whole, resumed):
            same.observe(step, sampled(same.places(step, 0)))
    assert save_order(tmp_path, 8, resumed) == save_order(tmp_path, 8, whole)


def test_a_state_that_has_gone_or_was_changed_is_refused(tmp_path: Path) -> None:
    state = measured((1, 2), (0, 0), (math.pi, 0))
    carry = save_measured(tmp_path, 40, state)
    path = tmp_path / carry["curriculum"]
    whole = path.read_bytes()
    loaded = load_measured(tmp_path, 40, carry, 3)
    assert loaded.right_N.tolist() == state.right_N.tolist()
    with pytest.raises(RunError, match=r"step 40 in .* carries no state of the curriculum"):
        load_measured(tmp_path, 40, {}, 3)
    with pytest.raises(RunError, match=r"step 40 needs, is missing or damaged.*resume_from_step"):
        load_measured(tmp_path, 40, carry, 2)
    other = save_measured(tmp_path, 40, measured((1, 3), (0, 0), (math.pi, 0)))
    for damage in (whole[:-9], b"", (tmp_path / other["curriculum"]).read_bytes()):
        path.write_bytes(damage)
        with pytest.raises(RunError, match="missing or damaged"):
            load_measured(tmp_path, 40, carry, 3)
    path.unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        load_measured(tmp_path, 40, carry, 3)


def test_the_configuration_chooses_and_the_families_are_those_of_the_problems(
    tmp_path: Path,
) -> None:
    data = config().data.model_copy(update={"train": 20, "validation": 1, "test": 1})
    problems = prepare(data, tmp_path).problems("train")
    families = problems.families()
    assert families == [problem.family for problem in problems]
    assert len(set(families)) > 1

    plain = open_order(RunConfig(preset="quickstart"), problems, tmp_path, None)
    assert isinstance(plain, EpochOrder)
    assert save_order(tmp_path, 3, plain) == {}
    one = open_order(config(), problems, tmp_path, None)
    assert isinstance(one, CurriculumOrder)
    assert one.needs_samples
    one.observe(0, [group(4, 0)] * 4)
    now = "2026-05-01T10:00:00+00:00"
    row = LedgerRow(1, "", "", None, "", "", "", now, 1, save_order(tmp_path, 1, one))
    again = open_order(config(), problems, tmp_path, row)
    assert again.places(1, 0) == one.places(1, 0)


def test_a_state_that_is_damaged_is_made_again_from_the_rollouts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = config().data.model_copy(update={"train": 12, "validation": 1, "test": 1})
    problems = prepare(data, tmp_path).problems("train")
    order = open_order(config(), problems, tmp_path, None)
    assert isinstance(order, CurriculumOrder)
    rows: list[dict[str, Any]] = []
    for step in range(3):
        places = order.places(step, 0)
        groups = [group(1 + place % 3, 2, gave_up=1) for place in range(len(places))]
        rows += [
            {"step": step, "group": number, "problem_id": problems[place].id, "verdict": verdict}
            for number, (place, one) in enumerate(zip(places, groups, strict=True))
            for verdict in (sample.scored.grade.verdict for sample in one.rollouts)
        ]
        order.observe(step, groups)
    (tmp_path / "rollouts").mkdir()
    write_table(tmp_path / "rollouts/chunk-00000.parquet", pa.Table.from_pylist(rows))
    now = "2026-05-01T10:00:00+00:00"
    row = LedgerRow(3, "", "", None, "", "", "", now, 3, save_order(tmp_path, 3, order))
    path = tmp_path / row.carry["curriculum"]
    whole = path.read_bytes()
    for damaged in (whole[:-9], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        caplog.clear()
        again = open_order(config(), problems, tmp_path, row)
        assert isinstance(again, CurriculumOrder)
        assert again.places(3, 0) == order.places(3, 0)
        assert path.read_bytes() == whole
        assert "made again from the rollouts, to the same figures" in caplog.text
    # Rollouts that come to something else do not stand for it.
    write_table(tmp_path / "rollouts/chunk-00000.parquet", pa.Table.from_pylist(rows[1:]))
    path.unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        open_order(config(), problems, tmp_path, row)
