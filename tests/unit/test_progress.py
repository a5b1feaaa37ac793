import io
import re

import pytest
from rich.text import Text

from visual_r1.printing import Terminal
from visual_r1.progress import PlainProgress, Silent, TerminalProgress, open_progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_show_rate_time_left_and_the_newest_values() -> None:
    out, clock = io.StringIO(), Clock()
    progress = PlainProgress(out, interval_s=10, clock=clock)
    progress.start("training", 40, "steps")
    for step in range(20):
        clock.now += 1
        progress.advance(1, reward=step / 10, accuracy=0.5)
    clock.now += 20
    progress.advance(20)
    progress.finish()
    assert out.getvalue().splitlines() == [
        "training: 0 of 40 steps",
        "training: 10/40 steps, 1.0 steps/s, 30 s left, reward 0.9, accuracy 0.5",
        "training: 20/40 steps, 1.0 steps/s, 20 s left, reward 1.9, accuracy 0.5",
        "training: done in 40 s; 40/40 steps, 1.0 steps/s, reward 1.9, accuracy 0.5",
    ]


def test_what_was_done_before_counts_for_the_state_and_not_for_the_rate() -> None:
    out, clock = io.StringIO(), Clock()
    progress = PlainProgress(out, interval_s=1, clock=clock)
    progress.start("training, steps 20 to 24", 40, "steps", done=20)
    clock.now += 10
    progress.advance(5)
    assert out.getvalue().splitlines() == [
        "training, steps 20 to 24: 20 of 40 steps",
        "training, steps 20 to 24: 25/40 steps, 2.0 s/step, 30 s left",
    ]


def test_plain_summary_takes_the_place_of_the_state() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, clock=Clock())
    progress.start("export", 2, "files")
    progress.finish("runs/x/export/adapter")
    assert out.getvalue().splitlines()[-1] == "export: done in 0.0 s; runs/x/export/adapter"


def test_a_new_stage_ends_the_one_before() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, clock=Clock())
    progress.start("one", 1, "steps")
    progress.start("two", 1, "steps")
    progress.finish()
    progress.finish()
    stages = [line.split(":")[0] for line in out.getvalue().splitlines()]
    assert stages == ["one", "one", "two", "two"]


def test_long_durations_read_as_hours_and_minutes() -> None:
    out, clock = io.StringIO(), Clock()
    progress = PlainProgress(out, interval_s=1, clock=clock)
    progress.start("training", 3, "steps")
    clock.now += 3660
    progress.advance()
    clock.now += 90
    progress.finish()
    assert "2 h 02 min left" in out.getvalue()
    assert "done in 1 h 02 min" in out.getvalue()


def terminal() -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(file=out, force_terminal=True, width=160), out


def test_terminal_bar_shows_counts_and_values_and_leaves_one_line() -> None:
    console, out = terminal()
    progress = TerminalProgress(console)
    progress.start("training", 8, "steps", done=4)
    progress.advance(4, reward=0.625, accuracy=0.5)
    progress.finish()
    text = out.getvalue()
    assert "8/8" in text
    last = text.rstrip().splitlines()[-1]
    assert "training" in last
    assert "reward 0.625" in last
    assert "accuracy 0.5" in last


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_bar_is_one_line_with_all_its_numbers_however_wide_the_terminal(width: int) -> None:
    out = io.StringIO()
    progress = TerminalProgress(Terminal(file=out, force_terminal=True, width=width))
    progress.start("training, steps 40 to 44", 60, "steps", done=40)
    progress.advance(1, reward=1.234, accuracy=0.567)
    progress.advance(1, reward=1.234, accuracy=0.567)
    progress.finish()
    drawn = [Text.from_ansi(line).plain for line in re.split(r"[\r\n]", out.getvalue())]
    (line, *_) = [line for line in drawn if "42/60" in line]
    assert "train" in line
    assert re.search(r"steps?/s|s/step", line)
    assert " left" in line
    assert "reward 1.23  accuracy 0.567" in line
    assert len(line) <= width
    assert ("━" in line) is (width >= 110)


def test_values_with_brackets_in_stage_names_are_shown_as_they_are() -> None:
    console, out = terminal()
    progress = TerminalProgress(console)
    progress.start("steps [0, 4]", 1, "steps")
    progress.finish()
    assert "steps [0, 4]" in out.getvalue().rstrip().splitlines()[-1]


def test_open_progress_is_plain_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with open_progress(out) as progress:
        progress.start("evaluation", 2, "problems")
        progress.advance(2)
        progress.finish()
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().startswith("evaluation: 0 of 2 problems\n")


def test_open_progress_lets_errors_through() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), open_progress(out) as progress:
        progress.start("evaluation", 2, "problems")
        raise KeyError("x")
    assert "done" not in out.getvalue()


def test_silent_takes_everything_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Silent()
    progress.start("x", 1, "steps")
    progress.advance(1, reward=1.0)
    progress.finish("said")
    assert capsys.readouterr() == ("", "")


def test_why_nothing_moves_is_said_once_each_time() -> None:
    out = io.StringIO()
    progress = PlainProgress(out)
    progress.start("training", 4, "steps")
    for reason in ("", "paused for capacity", "paused for capacity", "", "paused for capacity"):
        progress.waiting(reason)
    assert out.getvalue().count("training: waiting: paused for capacity") == 2
