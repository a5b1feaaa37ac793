"""What a program imports and loads stays, so its garbage collector need not look for garbage there.

Python's collector goes through everything that is there, again and again while a program imports,
and later once in a while, with every thread at a standstill: a quarter of a second each time in a
run's process, a fifth in the engine's (Python 3.11).

It also looks at what is new after each 700 objects that were made and not freed, so thousands of
times a step where thousands of samples come. Cycles are rare in what a run makes, hence seldom.
"""

import gc

MADE_BETWEEN = 20_000
"""Objects that are made and not freed from one look at the newest to the next."""


def collect_nothing() -> None:
    """Until `collect_what_is_new` look for no garbage: what is imported now is none."""
    gc.disable()


def collect_what_is_new() -> None:
    """From here on look for garbage again, but never at what is there now, and seldom.

    What is there now and becomes garbage in cycles later stays, so this does nothing but after
    `collect_nothing`, where a program has imported and loaded what it needs.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(MADE_BETWEEN)
        gc.enable()
