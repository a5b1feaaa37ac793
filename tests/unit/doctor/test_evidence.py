"""What earlier runs show: the share of groups without contrast, by hand and simulated; whose."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import predictions, problems, write_evaluation

from visual_r1.config import RunConfig
from visual_r1.doctor.evidence import earlier_evidence, share_without_contrast, smallest_group
from visual_r1.runs.folder import open_run_folder


def test_with_enough_samples_it_is_the_share_of_subsets_that_agree() -> None:
    # Of the C(4, 2) = 6 pairs of (right, right, right, wrong), 3 agree.
    assert share_without_contrast([(3, 4)], 2) == pytest.approx(3 / 6)
    assert share_without_contrast([(3, 4), (4, 4)], 2) == pytest.approx((3 / 6 + 1) / 2)


def test_all_easy_or_all_hard_has_no_contrast_at_any_size() -> None:
    assert share_without_contrast([(8, 8), (0, 8)] * 10, 64) == pytest.approx(1.0)


def test_problems_alike_give_the_formula_at_the_mean() -> None:
    """Of 90 % right, 66 % of groups of four and 19 % of groups of sixteen agree."""
    rng = np.random.default_rng(0)
    counts = [(int(right), 3) for right in rng.binomial(3, 0.9, size=200_000)]
    assert share_without_contrast(counts, 4) == pytest.approx(0.9**4 + 0.1**4, abs=0.01)
    assert share_without_contrast(counts, 16) == pytest.approx(0.9**16, abs=0.02)


def test_spread_out_problems_are_seen_to_be_so() -> None:
    """p uniform on [0, 1]: E[p^G + (1 - p)^G] = 2 / (G + 1), not 2 · 0.5^G."""
    rng = np.random.default_rng(0)
    counts = [(int(rng.binomial(4, p)), 4) for p in rng.uniform(size=100_000)]
    assert share_without_contrast(counts, 16) == pytest.approx(2 / 17, abs=0.01)


def test_single_samples_say_nothing() -> None:
    assert share_without_contrast([(1, 1), (0, 1)], 8) is None
    assert share_without_contrast([], 8) is None


@given(
    st.lists(
        st.integers(2, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
        min_size=1,
        max_size=20,
    ),
    st.integers(2, 32),
)
def test_it_is_a_share_and_falls_with_the_group(counts: list[tuple[int, int]], size: int) -> None:
    smaller = share_without_contrast(counts, size)
    larger = share_without_contrast(counts, 40)
    assert smaller is not None
    assert larger is not None
    assert -1e-9 <= smaller <= 1 + 1e-9
    if size > max(samples for _, samples in counts):  # both by the same estimate
        assert larger <= smaller + 1e-9


def test_the_smallest_group_that_will_do() -> None:
    counts = [(7, 8)] * 50
    assert smallest_group(counts, 0.4, (4, 8, 16)) == 8
    assert smallest_group([(8, 8)] * 50, 0.5, (4, 8, 16)) is None


def test_what_the_base_model_gets_right_is_no_evidence_for_another_start(tmp_path: Path) -> None:
    def run(name: str, start: str | None) -> RunConfig:
        return RunConfig.model_validate(
            {
                "preset": "quickstart",
                "run": {"name": name},
                "output_dir": tmp_path,
                "model": {"start_from": start},
            }
        )

    plain, asked = run("plain", None), problems(8)
    with open_run_folder(plain) as run_dir:
        made = predictions(asked, 0.5, seed=0)
        write_evaluation(run_dir / "evaluations/baseline", asked, made)
    other = earlier_evidence(run("other", None))
    assert other is not None
    assert other.where == "the baseline of plain"
    assert earlier_evidence(run("warm", "tinker://ID/weights/step-000010")) is None
