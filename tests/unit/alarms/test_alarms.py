"""Each alarm trips on what is planted, and none on healthy noise."""

from typing import Annotated, Any

import numpy as np
import pytest
from synthetic_runs import Row, healthy, run_through, share, validation

from visual_r1.alarms import ALARMS, Finding, look
from visual_r1.config import RewardSection, RunConfig, Weight

ONSET = 60


def ramp(row: Row, over: int = 30) -> float:
    """0 before the onset, 1 when it has run its course."""
    return float(np.clip((row["step"] - ONSET) / over, 0, 1))


def hack(row: Row, rng: np.random.Generator) -> None:
    row["format_rate"] = share(rng, 0.4 + 0.5 * ramp(row), 0.03)
    row["accuracy"] = share(rng, 0.5)


def long(row: Row, rng: np.random.Generator) -> None:
    row["response_tokens_mean"] *= 1 + ramp(row)
    row["accuracy"] = share(rng, 0.5)


def cut_off(row: Row, rng: np.random.Generator) -> None:
    row["truncated_share"] = share(rng, 0.3 * ramp(row), 0.03)


def telling(row: Row, rng: np.random.Generator) -> None:
    row["scans_with_answer"] = share(rng, 0.3 * ramp(row), 0.02)


def leaking(row: Row, rng: np.random.Generator) -> None:
    row["leaks"] = share(rng, 0.3 * ramp(row), 0.02)


def blind(row: Row, rng: np.random.Generator) -> None:
    row["question_only_accuracy"] = share(rng, 0.01 + 0.4 * ramp(row), 0.03)


def collapse(row: Row, rng: np.random.Generator) -> None:
    row["entropy"] *= 1 - 0.95 * ramp(row)
    row["accuracy"] = share(rng, 0.55)


def noise(row: Row, rng: np.random.Generator) -> None:
    row["entropy"] *= 1 + 20 * ramp(row)
    row["accuracy"] = share(rng, 0.55 * (1 - ramp(row)))


def falling(row: Row, rng: np.random.Generator) -> None:
    row["accuracy"] = share(rng, 0.7 - 0.4 * ramp(row))


def disagreeing(row: Row, rng: np.random.Generator) -> None:
    if row["step"] >= ONSET:
        row["kl_sampler_learner"] = float(rng.uniform(0.02, 0.05))


def colder(row: Row, rng: np.random.Generator) -> None:
    row["draw_ratio"] -= 0.25 * (row["step"] >= ONSET)


PLANTED = {
    "hack": (hack, "format"),
    "long": (long, "length"),
    "cut_off": (cut_off, "length"),
    "telling": (telling, "scans"),
    "leaking": (leaking, "scans"),
    "blind": (blind, "blind_gap"),
    "collapse": (collapse, "entropy"),
    "noise": (noise, "entropy"),
    "falling": (falling, "validation"),
    "disagreeing": (disagreeing, "mismatch"),
    "colder": (colder, "mismatch"),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_planted_is_found_soon_and_not_before(name: str, seed: int) -> None:
    change, alarm = PLANTED[name]
    first = next(f for f in run_through(healthy(seed, 120, change)) if f.alarm == alarm)
    assert ONSET < first.step <= ONSET + 35
    assert f"steps {ONSET - 10}" < first.seen or "to" in first.seen
    assert first.sentence.startswith(f"Alarm {alarm}: ")


@pytest.mark.parametrize("seed", range(20))
def test_healthy_runs_trip_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random(128) < 0.65
    validations: list[Row] = []
    for step in range(0, 201, 20):
        flip = rng.random(128) < 0.06
        right = np.where(flip, rng.random(128) < 0.65 + step / 800, right)
        text = "".join("1" if one else "0" for one in right)
        validations.append(validation(step, text, float(rng.binomial(128, 0.012)) / 128))
    assert run_through(healthy(seed), validations) == []


def test_format_that_is_learnt_together_with_the_answers_is_healthy() -> None:
    def learning(row: Row, rng: np.random.Generator) -> None:
        done = min(row["step"] / 40, 1)
        row["format_rate"] = share(rng, 0.2 + 0.75 * done, 0.03)
        row["accuracy"] = share(rng, 0.1 + 0.5 * done)

    assert all(run_through(healthy(seed, 120, learning)) == [] for seed in range(10))


def test_longer_answers_that_are_better_are_healthy() -> None:
    def thinking(row: Row, rng: np.random.Generator) -> None:
        done = row["step"] / 120
        row["response_tokens_mean"] *= 1 + 1.5 * done
        row["accuracy"] = share(rng, 0.4 + 0.4 * done)

    assert all(run_through(healthy(seed, 120, thinking)) == [] for seed in range(10))


def test_entropy_that_goes_with_the_mistakes_is_learning() -> None:
    def mastering(row: Row, rng: np.random.Generator) -> None:
        done = row["step"] / 120
        row["entropy"] = float(rng.normal(0.04, 0.004) * (1 - 0.9 * done))
        row["accuracy"] = share(rng, 0.5 + 0.45 * done)

    assert all(run_through(healthy(seed, 120, mastering)) == [] for seed in range(10))


def test_one_wild_step_is_no_finding() -> None:
    def wild(row: Row, rng: np.random.Generator) -> None:
        if row["step"] == ONSET:
            row |= {"kl_sampler_learner": 0.5, "accuracy": 0.0, "entropy": 3.0}
            row |= {"response_tokens_mean": 96.0, "scans_with_answer": 1.0, "truncated_share": 1.0}

    assert all(run_through(healthy(seed, 120, wild)) == [] for seed in range(10))


def test_a_component_of_ones_own_counts_by_what_it_pays() -> None:
    def own(row: Row, rng: np.random.Generator) -> None:
        row["reward_custom"] = float(rng.normal(5 + 3 * ramp(row), 0.2))
        row["accuracy"] = share(rng, 0.5)

    rows = healthy(0, 120, own)

    def findings(weight: float) -> list[Finding]:
        reward = {"custom": "mine:score", "custom_weight": weight}
        config = RunConfig.model_validate({"preset": "quickstart", "reward": reward})
        return look(config, rows, [], [], first=0, checkpoint=120)

    assert [finding.alarm for finding in findings(0.1)] == ["format"]
    assert "mine:score rose from " in findings(0.1)[0].seen
    assert findings(0.01) == []


class WithTwoMore(RewardSection):
    brevity: Annotated[float, Weight(habit=True)] = 1.0
    gravity: Annotated[float, Weight()] = 1.0


@pytest.mark.parametrize(
    ("name", "weight", "is_found"),
    [
        ("brevity", 0.5, True),
        ("brevity", 0.0, False),
        ("brevity", -1.0, False),
        ("gravity", 1, False),
    ],
)
def test_a_new_habit_in_the_table_is_watched_where_it_pays(
    name: str, weight: float, is_found: bool
) -> None:
    def own(row: Row, rng: np.random.Generator) -> None:
        row[f"reward_{name}"] = share(rng, 0.3 + 0.5 * ramp(row))
        row["accuracy"] = share(rng, 0.5)

    reward = WithTwoMore.model_validate({name: weight})
    config = RunConfig(preset="quickstart").model_copy(update={"reward": reward})
    found = look(config, healthy(0, 120, own), [], [], first=0, checkpoint=120)
    assert [finding.alarm for finding in found] == (["format"] if is_found else [])
    assert all(finding.seen.startswith("brevity rose from") for finding in found)


def test_levels_from_the_first_step_on() -> None:
    def wrong(row: Row, rng: np.random.Generator) -> None:
        row["kl_sampler_learner"] = float(rng.uniform(0.02, 0.05))
        row["scans_with_answer"] = share(rng, 0.4)

    found = run_through(healthy(0, 120, wrong))
    assert [(f.alarm, f.step, f.checkpoint) for f in found] == [
        ("scans", 9, 10),
        ("mismatch", 4, 10),
    ]
    (kl,) = run_through(healthy(0, 120, wrong), max_kl=0.1, max_scan_answers=0.6)
    assert kl.alarm == "mismatch"


def test_a_level_that_was_noted_does_not_hide_another() -> None:
    def both(row: Row, rng: np.random.Generator) -> None:
        row["kl_sampler_learner"] = float(rng.uniform(0.02, 0.05))
        row["draw_ratio"] = float(rng.normal(0.75, 0.06))

    kl, draws = run_through(healthy(0, 120, both))
    assert (kl.alarm, kl.step, draws.alarm, draws.step) == ("mismatch", 4, "mismatch", 19)
    assert "colder" in draws.seen


def test_where_nothing_is_left_to_learn_from() -> None:
    def dead(row: Row, rng: np.random.Generator) -> None:
        if row["step"] >= 5:
            row |= {"gradient_share": 0.0, "accuracy": 0.0}

    def solved(row: Row, rng: np.random.Generator) -> None:
        row |= {"gradient_share": 0.0, "accuracy": share(rng, 0.99, 0.0)}

    found, *later = run_through(healthy(0, 60, dead))
    assert (found.alarm, found.step) == ("entropy", 14)
    assert "no group of samples had any contrast" in found.seen
    # Every further window of it is told again: each of its steps is paid for.
    assert [(f.alarm, f.step) for f in later] == [("entropy", step) for step in (29, 39, 49, 59)]
    assert run_through(healthy(0, 60, solved)) == []


def test_the_limit_of_the_kl_is_lower_where_the_policy_is_sure_of_itself() -> None:
    def small(row: Row, rng: np.random.Generator) -> None:
        row["kl_sampler_learner"] = 0.001

    def unsure(row: Row, rng: np.random.Generator) -> None:
        row |= {"kl_sampler_learner": 0.001, "entropy": float(rng.normal(0.5, 0.02))}

    assert [(f.alarm, f.step) for f in run_through(healthy(0, 40, small))] == [("mismatch", 4)]
    assert run_through(healthy(0, 40, unsure)) == []


@pytest.mark.parametrize(("ratio", "word"), [(0.75, "colder"), (1.3, "hotter")])
def test_draws_of_another_temperature_from_the_first_step_on(ratio: float, word: str) -> None:
    def drawn(row: Row, rng: np.random.Generator) -> None:
        row["draw_ratio"] = float(rng.normal(ratio, 0.06))

    (found,) = run_through(healthy(0, 120, drawn))
    assert (found.alarm, found.step) == ("mismatch", 9)
    assert word in found.seen


def test_after_a_finding_the_alarm_begins_anew() -> None:
    found = run_through(healthy(0, 200, hack))
    (first,) = [finding for finding in found if finding.alarm == "format"]
    assert first.checkpoint == 10 * (first.step // 10 + 1)

    # A second hack, on top of the first, is told as well.
    def again(row: Row, rng: np.random.Generator) -> None:
        hack(row, rng)
        row["format_rate"] = share(rng, 0.3 + 0.3 * ramp(row) + 0.3 * (row["step"] >= 150), 0.03)

    twice = [f for f in run_through(healthy(0, 200, again)) if f.alarm == "format"]
    assert len(twice) == 2
    assert twice[1].step > 150


def test_a_resumed_run_finds_what_the_whole_one_finds() -> None:
    rows = healthy(1, 150, collapse)
    whole = run_through(rows)
    assert whole
    half = run_through(rows[:100])
    assert whole[: len(half)] == half
    # The same checkpoints once more, with the findings known: nothing is told twice.
    assert run_through(rows, known=whole) == whole


def test_windows_need_their_steps() -> None:
    def at_once(row: Row, rng: np.random.Generator) -> None:
        row["format_rate"] = share(rng, 0.2 if row["step"] < 10 else 0.9, 0.03)
        row["accuracy"] = share(rng, 0.5)

    rows = healthy(0, 20, at_once)
    assert run_through(rows[:19]) == []
    (found,) = run_through(rows)
    assert (found.step, found.alarm) == (19, "format")
    assert "(steps 0 to 9)" in found.seen and "(steps 10 to 19)" in found.seen
    assert run_through(healthy(0, 14, at_once), window=4)[0].step == 13


@pytest.mark.parametrize("alarm", ALARMS)
def test_off_is_off_and_pause_is_said(alarm: str) -> None:
    planted = next(change for change, name in PLANTED.values() if name == alarm)
    rows = healthy(0, 120, planted)
    assert alarm not in {f.alarm for f in run_through(rows, **{alarm: "off"})}
    actions = {f.alarm: f.action for f in run_through(rows, **{alarm: "pause"})}
    assert actions.pop(alarm) == "pause"
    assert set(actions.values()) <= {"warn"}


@pytest.mark.parametrize("lacking", [None, float("nan"), "text"])
def test_rows_without_a_value_are_left_out(lacking: Any) -> None:
    def bare(row: Row, rng: np.random.Generator) -> None:
        for name in list(row):
            if name != "step" and (lacking is not None or row["step"] % 3):
                row[name] = lacking

    assert run_through(healthy(0, 120, bare), [{"step": 20}, {"step": 40, "n": 0}]) == []


def test_rows_of_earlier_versions_have_fewer_columns() -> None:
    rows = [{"step": step, "accuracy": 0.5} for step in range(60)]
    assert run_through(rows) == []
    assert run_through([]) == []


RIGHT = "1" * 90 + "0" * 38


def test_validation_that_falls_twice_is_found() -> None:
    lost = "0" * 12 + "1" * 78 + "0" * 38
    rows = healthy(0, 60)
    steady = [validation(step, RIGHT) for step in (0, 20)]
    once = [*steady, validation(40, lost), validation(60, RIGHT)]
    assert run_through(rows, once) == []
    (found,) = run_through(rows, [*steady, validation(40, lost), validation(60, lost)])
    assert (found.alarm, found.step, found.checkpoint) == ("validation", 60, 60)
    assert "fell from 70.3% (step 20)" in found.seen or "fell from 70.3% (step 0)" in found.seen


def test_validation_is_compared_problem_by_problem() -> None:
    rows = healthy(0, 60)
    # As many points lost, but by many problems that changed both ways: that is noise.
    mixed = "0" * 30 + "1" * 60 + "1" * 20 + "0" * 18
    assert mixed.count("1") == 80
    falls = [validation(0, RIGHT), validation(40, mixed), validation(60, mixed)]
    assert run_through(rows, falls) == []
    # Without knowing which, ten points of 128 are within the noise, thirty are not.
    bare = [row | {"right": None} for row in falls]
    assert run_through(rows, bare) == []
    for row in bare[1:]:
        row["accuracy"] = 0.4
    assert [f.alarm for f in run_through(rows, bare)] == ["validation"]


def test_a_blind_gap_that_closes_is_found() -> None:
    rows = healthy(0, 60)

    def validations(blind: list[float], right: list[int]) -> list[Row]:
        return [
            validation(20 * i, "1" * n + "0" * (128 - n), share)
            for i, (share, n) in enumerate(zip(blind, right, strict=True))
        ]

    (found,) = run_through(rows, validations([0.01, 0.05, 0.2, 0.3], [80, 84, 86, 90]))
    assert (found.alarm, found.step) == ("blind_gap", 60)
    assert "from 1.0% (step 0) to 30.0% (step 60)" in found.seen
    # It rose far less than what was learnt with the image.
    assert run_through(rows, validations([0.01, 0.05, 0.1, 0.12], [60, 80, 100, 115])) == []
    assert run_through(rows, validations([0.01, 0.01, 0.01, 0.3], [80, 84, 86, 90])) == []
    no_blind = [row | {"blind_accuracy": None} for row in validations([0.01] * 4, [80] * 4)]
    assert run_through(rows, no_blind) == []


def test_draws_of_another_temperature_are_seen_also_where_few_samples_make_the_ratio_noisy() -> (
    None
):
    """4 problems x 8 samples: 0.78 with a spread of 0.17, of which no ten steps are sure."""

    def colder(row: Row, rng: np.random.Generator) -> None:
        row["draw_ratio"] = float(rng.normal(0.78, 0.17))

    seen = [run_through(healthy(seed, 60, colder)) for seed in range(20)]
    assert sum(any(one.alarm == "mismatch" for one in found) for found in seen) == 20

    def noisy(row: Row, rng: np.random.Generator) -> None:
        row["draw_ratio"] = float(rng.normal(1.02, 0.17))

    told = [run_through(healthy(seed, 60, noisy)) for seed in range(40)]
    assert (
        sum(any("colder" in one.seen or "hotter" in one.seen for one in found) for found in told)
        <= 1
    )
