"""How often the rule that tells misreading from wrong reasoning is right, on responses whose truth
is known: misread values and missed conclusions planted in many wordings.

    python benchmarks/where_it_fails.py                 # 6,000 responses, 15 wordings
    python benchmarks/where_it_fails.py --show 20       # and the first it is wrong about

Prints a Markdown table by wording and one by what was planted; docs/evaluation_quickstart.md holds
them. "Cannot be told" is counted apart: it is no mistake, and no answer either.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from trials.planted_failures import PLANTED, WORDINGS, planted
from visual_r1.evaluation.statistics import wilson
from visual_r1.perception import KINDS, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    by_wording: dict[str, Counter[str]] = {name: Counter() for name in WORDINGS}
    by_kind: dict[str, Counter[str]] = {name: Counter() for name in PLANTED}
    shown, began = 0, time.perf_counter()
    for one in planted(arguments.count, arguments.seed):
        found = judge(one.problem, one.given)
        said = "right" if found.kind == one.kind else "untold"
        if found.kind not in (one.kind, "untold"):
            said = "wrong"
        by_wording[one.wording][said] += 1
        by_kind[one.kind][found.kind] += 1
        if said != "right" and shown < arguments.show:
            shown += 1
            print(f"{one.kind} taken for {found.kind} ({one.wording}, {one.problem.family}, "
                  f"{dict(one.problem.meta['values'])}, gold {one.problem.answer})\n"
                  f"    {one.given.response!r}\n    {found.stated} {found.why}")  # fmt: skip
    seconds = time.perf_counter() - began
    print("| wording | n | right | wrong | cannot be told |", "| --- | ---: | ---: | ---: | ---: |",
          sep="\n")  # fmt: skip
    total = Counter[str]()
    for wording, times in (*by_wording.items(), ("all", total)):
        n = sum(times.values())
        total += times if times is not total else Counter()
        low, high = wilson(times["right"], n)
        print(f"| {wording} | {n} | {times['right'] / max(n, 1):.1%} [{low:.1%}, {high:.1%}] | "
              f"{times['wrong']} | {times['untold']} |")  # fmt: skip
    print(f"\n| planted, said to be | {' | '.join(KINDS)} |", "| --- " * (len(KINDS) + 1) + "|",
          sep="\n")  # fmt: skip
    for kind, times in by_kind.items():
        print(f"| {kind} | {' | '.join(str(times[name]) for name in KINDS)} |")
    print(f"\n{1000 * seconds / arguments.count:.2f} ms a response.")


if __name__ == "__main__":
    main()
