"""Ctrl-C and SIGTERM: once one of them was heard, it is how the program ended.

The exception that a signal raises can be lost on its way out: Prefect's clean-up of a task that was
just being started raises another one over it, an import or a `finally` may. So the signal is
remembered. Whatever exception then ends the program is the interruption, and where none does, the
next task is not begun.

Python itself drops what is raised where nobody can catch it: in a callback of a weak reference (an
import has some), in a `__del__`. It says so, and then the signal comes again, until what it raises
gets through.

Imported before all else, so it imports nothing that takes time.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from visual_r1.streams import open_streams

INTERRUPTED = 130
LEAVE_WITHIN_S = 20.0
"""What ends after the sentence (the engine, Prefect's queues) may take so long."""

AGAIN_AFTER_S = 0.05
"""So soon a signal comes again whose exception was dropped: the callback is over by then."""

GOES_ON = "Stopped. The same command goes on from the last checkpoint."

_heard: list[int] = []


def listen(sentence: str = GOES_ON) -> None:
    """From here on signals are remembered, and nothing that prints can fail.

    Ctrl-C raises KeyboardInterrupt as ever; where nobody catches it (in the imports, say), the
    user is told `sentence`. SIGTERM ends the program at once, after the sentence.
    """
    open_streams()

    def on_ctrl_c(number: int, frame: FrameType | None) -> None:
        _heard.append(number)
        signal.default_int_handler(number, frame)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        del frame
        _heard.append(number)
        settle(sentence)  # and end

    def on_exception(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if was_interrupted(error):
            settle(sentence)
            leave()
        from traceback import format_exception

        from visual_r1.printing import say
        from visual_r1.secrecy import hide_secrets

        say(hide_secrets("".join(format_exception(kind, error, trace)).rstrip()), sys.stderr)

    # Who starts a program in the background may want it to ignore one of them.
    for number, handler in ((signal.SIGINT, on_ctrl_c), (signal.SIGTERM, on_sigterm)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    sys.excepthook = on_exception
    repeat_dropped()


def repeat_dropped() -> None:
    """From here on a signal whose exception Python drops comes again, also while Prefect hears it.

    For programs that do not `listen` too: Prefect's worker runs flows in processes of its own.
    """
    before = sys.unraisablehook
    if getattr(before, "repeats", False):
        return

    def on_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        number = _signal_of(dropped.exc_value)
        if number is None:
            before(dropped)
            return
        _heard.append(number)
        # Not here and now: what is raised in this hook is dropped as well.
        again = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    on_dropped.repeats = True
    sys.unraisablehook = on_dropped


def _signal_of(error: BaseException | None) -> int | None:
    """Which signal raised `error`; None where none did."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    # While a flow runs, Prefect hears SIGTERM instead; its exceptions take long to import.
    return signal.SIGTERM if type(error).__name__ == "TerminationSignal" else None


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt where a signal was heard and whatever it raised has been lost."""
    if _heard:
        raise KeyboardInterrupt


class Interruptible:
    """A block that ends by KeyboardInterrupt where a signal was heard, whatever ends it."""

    def __enter__(self) -> None:
        stop_if_interrupted()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = error is not None and was_interrupted(error)
        if interrupted and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error


def was_interrupted(error: BaseException) -> bool:
    """Whether a signal was heard, or `error` is one, or came in the place of one."""
    seen: BaseException | None = error
    passed: set[int] = set()
    while seen is not None and id(seen) not in passed:
        if isinstance(seen, KeyboardInterrupt):
            return True
        if _signal_of(seen) is not None:
            _heard.append(signal.SIGTERM)
            return True
        passed.add(id(seen))
        seen = seen.__cause__ or seen.__context__
    return bool(_heard)


def settle(sentence: str = GOES_ON) -> int:
    """Tell the user, and let nothing change any more how the program ends; 130, as shells say.

    After SIGTERM it ends here, by that signal.
    """
    by_sigterm = signal.SIGTERM in _heard
    _heard.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Nothing can be imported here: the signal may have come in the middle of an import.
    terminal = sys.stderr
    terminal.write(sentence + "\n")
    if by_sigterm:
        leave(by_sigterm=True)
    last_resort = threading.Timer(LEAVE_WITHIN_S, leave)
    last_resort.daemon = True
    last_resort.start()
    return INTERRUPTED


def leave(*, by_sigterm: bool = False) -> None:
    """End here; nothing that is left to do is waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    if by_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    os._exit(INTERRUPTED)
