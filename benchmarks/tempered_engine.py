"""The embedded engine with one fault: its sampler divides all logits by a temperature.

    python benchmarks/tempered_engine.py 0.7 --port 0 --home DIR

Draws and their log-probabilities are those of the policy at that temperature, the learner's are
those of the policy itself. The other flags are the engine's.
"""

import sys

from torch import Tensor

from visual_r1.engine.__main__ import run
from visual_r1.engine.compute.decode import Decoding


def main() -> None:
    temperature, flags = float(sys.argv[1]), sys.argv[2:]
    choose = Decoding.choose

    def tempered(self: Decoding, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        self.logits.div_(temperature)
        return choose(self, uniforms)

    Decoding.choose = tempered  # type: ignore[method-assign]
    run(flags)


if __name__ == "__main__":
    main()
