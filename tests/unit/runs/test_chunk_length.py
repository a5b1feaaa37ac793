"""How long a chunk should be."""

import math

from visual_r1.runs.chunk_length import DEATH_EVERY_S, best_steps, chunk_in_words


def lost_a_day(steps: float, step_s: float, checkpoint_s: float) -> float:
    """Seconds lost a day: half a chunk by one death, and all that is saved."""
    chunk_s = steps * step_s
    return chunk_s / 2 + checkpoint_s * DEATH_EVERY_S / (chunk_s + checkpoint_s)


def test_no_other_number_of_steps_loses_less() -> None:
    for step_s, checkpoint_s in ((0.5, 0.2), (20.0, 3.0), (90.0, 40.0)):
        best = best_steps(step_s, checkpoint_s)
        least = lost_a_day(best, step_s, checkpoint_s)
        for factor in (0.5, 0.8, 1.25, 2.0):
            assert lost_a_day(best * factor, step_s, checkpoint_s) >= 0.999 * least
    assert best_steps(1e9, 0.2) == 1
    assert math.isclose(best_steps(60.0, 20.0) * 60, 1859, rel_tol=0.02)


def test_what_is_said() -> None:
    says, advice = chunk_in_words(50, 60.0, 2.0)
    assert (
        says
        == "a chunk of 50 steps takes 50 min 0 s, its checkpoint 2.0 s; a kill loses at most that"
    )
    assert advice.startswith("--train.chunk_steps 10 (10 min 0 s a chunk)")
    assert not chunk_in_words(5, 1.0, 0.2)[1]  # shorter than the best, and it saves 4 % of its time
    assert "--train.chunk_steps 416" in chunk_in_words(5, 1.0, 1.0)[1]
