"""A program that measures one thing, round by round, whenever it is told to.

Nothing but the standard library is imported here: peers run it in environments of their own. So two
programs stand ready at the same time, each with its model loaded, and take turns; what else the
machine does meets both alike.

    python PROGRAM WORK.json    # answers a line of facts when it is ready, then a line a round
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[int], dict[str, Any]]
"""One round of the work, by its number; what it counted. A key `other_cpu_seconds` is the CPU time
that processes beside this one took for it."""

Prepare = Callable[[dict[str, Any]], tuple[dict[str, Any], Run]]
"""From the work to facts about what was prepared, and the round."""


def answer_rounds(prepare: Prepare) -> None:
    """Prepare the work that the command line names, then run a round for each number on stdin."""
    # What libraries print goes to the log: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    facts, run = prepare(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        counted = run(int(line))
        own = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu + counted.pop("other_cpu_seconds", 0.0),
        }
        print(json.dumps(own | counted), file=answers, flush=True)
