"""How often work is begun again after failures of the server, and what never is."""

import logging
from collections.abc import Callable

import pytest

from visual_r1.backend.recovery import (
    FROM_CHECKPOINT,
    HOUR_S,
    PATIENT_PAUSES_S,
    PAUSES_S,
    Recoveries,
)
from visual_r1.errors import (
    BackendError,
    CredentialError,
    EngineError,
    EngineRefused,
    RequestRefused,
    RunError,
    ServerBusy,
)


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def recoveries(self, most: int, *, patient: bool = False) -> Recoveries:
        return Recoveries(most, patient=patient, clock=lambda: self.now, pause=self.pause)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failing(*errors: Exception) -> Callable[[], str]:
    """Work that fails with each of `errors` in turn and then succeeds."""
    left = list(errors)

    def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


def test_work_that_the_server_failed_at_is_begun_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    died = EngineError("The engine ended. The same command goes on from the last checkpoint.")
    with caplog.at_level(logging.WARNING):
        work = failing(died, BackendError("It is lost"))
        assert clock.recoveries(3).run(work, "work", FROM_CHECKPOINT) == "done"
        question = failing(BackendError("No answer"))
        assert clock.recoveries(3).run(question, "the question") == "done"
    assert clock.pauses == [*PAUSES_S[:2], PAUSES_S[0]]
    assert caplog.messages == [
        "The engine ended. Recovering: work goes on from the last checkpoint.",
        "It is lost. Recovering: work goes on from the last checkpoint in 1 s.",
        "No answer. Recovering: the question is begun again.",
    ]


@pytest.mark.parametrize(
    "error",
    [CredentialError("no"), EngineRefused("no"), RequestRefused("no"), RunError("no"), KeyError()],
    ids=lambda error: type(error).__name__,
)
def test_what_would_be_the_same_again_is_raised_at_once(clock: Clock, error: Exception) -> None:
    with pytest.raises(type(error)):
        clock.recoveries(3).run(failing(error), "work")
    assert clock.pauses == []


def test_the_budget_is_for_an_hour_and_for_all_work_together(clock: Clock) -> None:
    recoveries = clock.recoveries(2)
    assert recoveries.run(failing(BackendError("a")), "work") == "done"
    clock.now = HOUR_S / 2
    assert recoveries.run(failing(BackendError("b")), "work") == "done"
    with pytest.raises(BackendError, match=r"after 2 recoveries within an hour .*: c\. What is"):
        recoveries.run(failing(BackendError("c")), "work")
    clock.now = HOUR_S + 1  # the first one no longer counts
    assert recoveries.run(failing(BackendError("d")), "work") == "done"


def test_a_distant_server_is_given_more_time(clock: Clock) -> None:
    recoveries = clock.recoveries(10, patient=True)
    recoveries.run(failing(*[BackendError("gone")] * 7), "work")
    last = PATIENT_PAUSES_S[-1]
    assert clock.pauses == [*PATIENT_PAUSES_S, last, last]
    recoveries.run(failing(BackendError("gone")), "work")
    assert clock.pauses[-1] == PATIENT_PAUSES_S[0]


def test_a_busy_server_is_given_the_time_that_it_asks_for(clock: Clock) -> None:
    work = failing(ServerBusy("Busy.", 100.0), ServerBusy("Busy.", 1.0), ServerBusy("Busy."))
    assert clock.recoveries(12, patient=True).run(work, "the first call") == "done"
    assert clock.pauses == [100.0, PATIENT_PAUSES_S[1], PATIENT_PAUSES_S[2]]


@pytest.mark.parametrize("asked_s", [HOUR_S + 1, 1000.0, 400.0])
def test_and_not_more_than_an_hour_of_it(clock: Clock, asked_s: float) -> None:
    work = failing(*(ServerBusy("Busy.", asked_s) for _ in range(50)))
    with pytest.raises(ServerBusy):
        clock.recoveries(12, patient=True).run(work, "the first call")
    assert HOUR_S - asked_s < clock.now <= HOUR_S


def test_what_passes_can_be_said(clock: Clock) -> None:
    with pytest.raises(BackendError, match="Gone"):
        clock.recoveries(12).run(
            failing(BackendError("Gone.")), "it", passes=lambda error: isinstance(error, ServerBusy)
        )
    assert clock.pauses == []
