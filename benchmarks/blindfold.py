"""What the blindfold lets through and what it punishes, and which measure is worth what.

    python benchmarks/blindfold.py                 the tables of masks, some minutes on one core
    python benchmarks/blindfold.py --reader 300    besides, what the shipped model reads (an engine)

Hostile scans are those of `trials.hostile_scans`: seventy ways to write an answer, of which the
rules were built with a part in sight. One earns where it is no leak and who knows its way still
reads the answer from what is left. Honest ones are those of
`trials.honest_scans`; one is punished where it is a leak or a number of the figure is lost.

With `--reader` the measures that ask a model are tried on that many honest problems: the model
describes each figure, and reads its own description with the question, without it, and with its
numbers moved. A measure is worth its pass where it does not take the reward of honest descriptions.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from trials.honest_scans import HonestScan, geometry3k_like_scans, procedural_scans
from trials.hostile_scans import HostileScan, hostile_scans, without_facts
from trials.hostile_ways import FRESH_WAYS, WAYS, part_of
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.hashing import stable_seed
from visual_r1.policy.passes import Asking, Question, question, second_pass, second_question
from visual_r1.policy.policy import open_policy
from visual_r1.policy.second_pass import moved
from visual_r1.rewards.blindfold.masking import MaskedScan, mask_scan
from visual_r1.rewards.blindfold.scan_text import lexemes
from visual_r1.rewards.blindfold.stated import numbers_in, with_numbers_moved

Look = Callable[[str, Problem], str | None]
"""What is left of a scan to read; None where it is a leak."""

# What the other scans of the group name, by problem, where they are honest and can read.
NAMED: dict[str, frozenset[Fraction]] = {}

PROBLEMS_A_WAY = 40
HONEST = 500


def answers_alone(scan: str, problem: Problem) -> str | None:
    """Answers and results masked."""
    found = mask_scan(scan, problem, [problem.answer], masks="answers")
    return None if found.leak else found.text


def all_masks(scan: str, problem: Problem) -> str | None:
    """What is unstated and what is no language, too."""
    found = mask_scan(scan, problem, [problem.answer])
    return None if found.leak else found.text


def named_by_others(scan: str, problem: Problem) -> str | None:
    """All masks, and where nobody knows the facts, numbers that the group's others do not name."""
    named = NAMED[problem.id]
    found = mask_scan(scan, problem, [problem.answer], named=named)
    return None if found.leak else found.text


def one_step_away(scan: str, problem: Problem) -> str | None:
    """A leak where any two numbers of the scan come to the answer by one operation."""
    values = [token.number for token in lexemes(scan) if token.number is not None][:60]
    wanted = Fraction(problem.answer) if problem.answer.isdigit() else None
    known = [*values, *map(Fraction, (2, 90, 180, 360))]
    for index, left in enumerate(values):
        for right in known[index + 1 :]:
            if wanted in {left + right, abs(left - right), left * right} | (
                {left / right, right / left} if left and right else set()
            ):
                return None
    return answers_alone(scan, problem)


def moved_numbers(scan: str, problem: Problem) -> str | None:
    """All masks, and a leak where it can still be read once the numbers are others."""
    left = all_masks(scan, problem)
    if left is None:
        return None
    text = with_numbers_moved(left, problem.question, random.Random(0), numbers_in(problem.answer))
    if text is None:
        return left if numbers_in(problem.question) or numbers_in(left) else None
    return f"{left}\0{text}"


LOOKS: dict[str, Look] = {
    "answers masked": answers_alone,
    "all masks": all_masks,
    "all masks, named by others": named_by_others,
    "one step from the answer is a leak": one_step_away,
    "all masks, numbers moved": moved_numbers,
}


def earns(hostile: HostileScan, look: Look) -> bool:
    """Whether who knows the way still reads the answer, and is paid."""
    left = look(hostile.scan, hostile.problem)
    if left is None or "\0" not in left:
        return left is not None and hostile.is_read_from(left)
    # Paid is what is read from the scan, and not from the one with other numbers.
    before, _, after = left.partition("\0")
    return hostile.is_read_from(before) and not hostile.is_read_from(after)


def is_punished(honest: HonestScan, look: Look) -> bool:
    """Whether a number of the figure is lost, or all of it."""
    left = look(honest.scan, honest.problem)
    return left is None or any(number not in left.partition("\0")[0] for number in honest.needed)


def share(found: Iterable[bool]) -> str:
    seen = list(found)
    return f"{sum(seen) / len(seen):.1%}"


def tables(problems: Sequence[Problem], seed: int) -> None:
    """The Markdown tables of docs/vision_sr1.md."""
    honest = {
        "known": list(procedural_scans(HONEST, seed)),
        "unknown": list(geometry3k_like_scans(HONEST, seed)),
    }
    for kind in honest.values():
        NAMED.update({one.problem.id: numbers_in(" ".join(one.needed)) for one in kind})
    NAMED.update({p.id: numbers_in(" ".join(p.meta["facts"])) for p in problems})
    scans = list(hostile_scans(problems, seed))
    hostile = {"known": scans, "unknown": list(map(without_facts, scans))}
    print("| | facts | in sight | held out | fresh | honest punished |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, look in LOOKS.items():
        for facts in ("known", "unknown"):
            parts = (
                share(earns(one, look) for one in hostile[facts] if part_of(one.way) == part)
                for part in ("in sight", "held out", "fresh")
            )
            punished = share(is_punished(one, look) for one in honest[facts])
            print(f"| {name} | {facts} | {' | '.join(parts)} | {punished} |")
    print("\nEarning, by way, facts known and unknown:")
    for way in (*WAYS, *FRESH_WAYS):
        rates = [
            share(earns(one, all_masks) for one in hostile[facts] if one.way == way)
            for facts in ("known", "unknown")
        ]
        if rates != ["0.0%", "0.0%"]:
            print(f"- {way} ({part_of(way)}): {rates[0]}, {rates[1]}")
    changed = Counter(
        all_masks(one.scan, one.problem) != one.scan for kind in honest.values() for one in kind
    )
    print(f"\nhonest scans in which anything was masked: {changed[True]} of {changed.total()}")


def reader_table(count: int, folder: Path) -> None:
    """What the shipped model reads from its own, honest descriptions."""
    config = RunConfig.model_validate({"preset": "vision_sr1", "output_dir": folder})
    policy = open_policy(config)
    seen: Counter[str] = Counter()
    problems = list(generate(77, "test", count))
    by_id = {problem.id: problem for problem in problems}
    with open_backend(config) as backend, backend.session():
        sampler = backend.sampler(None)
        asking: Asking[tuple[str, str]] = Asking(sampler, "descriptions")
        first = (
            (("first", p.id), question(policy, p, "full", 0, temperature=0.0)) for p in problems
        )
        for (name, key), asked, reply in asking.replies(first, 64):
            assert not isinstance(reply, Exception), reply
            problem, sequence = by_id[key], reply.sequences[0]
            if name == "first":
                response = policy.text_of(sequence.tokens)
                second = second_question(policy, problem, response, 0, temperature=0.0)
                if isinstance(second, Question):
                    asking.ask(("second", key), second)
                    blind = replace(problem, problem="<image>")
                    asking.ask(
                        ("no question", key),
                        question(policy, blind, "scan_only", 0, temperature=0.0, scan=second.scan),
                    )
                continue
            found = second_pass(policy, asked, sequence)
            seen[name] += found.right
            seen[f"{name} asked"] += 1
            if name == "second" and found.right:
                scan = moved(problem, found, stable_seed("moved", key))
                if isinstance(scan, MaskedScan):
                    asking.ask(
                        ("moved", key),
                        question(policy, problem, "scan_only", 0, temperature=0.0, scan=scan),
                    )
    print("\n| the model is shown | right | of |")
    print("| --- | ---: | ---: |")
    for name in ("second", "no question", "moved"):
        print(f"| {name} | {seen[name]} | {seen[f'{name} asked']} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", type=int, default=0, metavar="PROBLEMS")
    arguments = parser.parse_args()
    problems = [p for p in generate(5, "validation", 400) if 21 <= int(p.answer) <= 199]
    tables(problems[:PROBLEMS_A_WAY], arguments.seed)
    if arguments.reader:
        with TemporaryDirectory() as folder:
            reader_table(arguments.reader, Path(folder))


if __name__ == "__main__":
    main()
