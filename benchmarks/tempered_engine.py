"""The embedded engine with one fault: its sampler divides all logits by a temperature.

    python benchmarks/tempered_engine.py 0.7 --port 0 --home DIR

Draws and their log-probabilities are those of the policy at that temperature, the learner's are
those of the policy itself. The other flags are the engine's.
"""

import sys
from typing import Any

from visual_r1.engine.__main__ import run
from visual_r1.engine.compute import decode

Decoding: Any = decode._Decoding  # a fault is planted where nobody is meant to reach


def main() -> None:
    temperature, flags = float(sys.argv[1]), sys.argv[2:]
    draw = Decoding._draw

    def tempered(self: Any) -> Any:
        self._logits = self._logits / temperature
        return draw(self)

    Decoding._draw = tempered
    run(flags)


if __name__ == "__main__":
    main()
