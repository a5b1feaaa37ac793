"""What the blindfold lets through and what it punishes, and which measure is worth what.

    python benchmarks/blindfold.py                 the tables of masks, some minutes on one core
    python benchmarks/blindfold.py --reader 300    besides, what the shipped model reads (an engine)

Hostile scans are those of `trials.hostile_scans`: seventy ways to write an answer, of which the
rules were built with a part in sight, and of `trials.hostile_model`, which makes up its own. One
earns where it is no leak and who knows its way still reads the answer from what is left. Honest
ones are those of `trials.honest_scans`; one is punished where it is a leak or a number of the
figure is lost.

With `--reader` the measures that ask a model are tried on that many honest problems: the model
describes each figure, and reads its own description with the question, without it, and with its
numbers moved. A measure is worth its pass where it does not take the reward of honest descriptions.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from trials.blindfold_measures import DEFAULT, MEASURES, earns, is_punished
from trials.honest_scans import (
    geometry3k_like_scans,
    geometry3k_scans,
    labelled_scans,
    procedural_scans,
    unknown_to_all,
)
from trials.hostile_model import made_up_scans
from trials.hostile_scans import (
    HostileScan,
    hostile_scans,
    with_facts_in_the_question,
    without_facts,
)
from trials.hostile_ways import part_of
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.hashing import stable_seed
from visual_r1.policy.passes import Asking, Question, question, second_pass, second_question
from visual_r1.policy.policy import Policy, open_policy
from visual_r1.policy.second_pass import SecondPass, moved
from visual_r1.rewards.blindfold.masking import named_by_others

HONEST = 500
LABELLED = 200
MADE_UP_A_PROBLEM = 30
FACTS = ("known", "unknown", "in the question")


def share(found: Iterable[bool]) -> str:
    seen = list(found)
    return f"{sum(seen) / len(seen):.1%}" if seen else "-"


def tables(problems: Sequence[Problem], seed: int, geometry3k: Path | None) -> None:
    """The Markdown tables of docs/vision_sr1.md."""
    real = list(geometry3k_scans(geometry3k)) if geometry3k else []
    labelled = list(labelled_scans(LABELLED, seed))
    honest = {
        "known": [*procedural_scans(HONEST, seed), *labelled, *real],
        "unknown": [
            *geometry3k_like_scans(HONEST, seed),
            *map(unknown_to_all, (*labelled, *real)),
        ],
        "in the question": [],
    }
    scans = [
        *hostile_scans(problems, seed),
        *made_up_scans(problems, MADE_UP_A_PROBLEM * len(problems), seed),
    ]
    hostile: dict[str, list[HostileScan]] = {
        "known": scans,
        "unknown": list(map(without_facts, scans)),
        "in the question": list(map(with_facts_in_the_question, scans)),
    }
    parts = list(dict.fromkeys(part_of(one.way) for one in scans))
    counts = [sum(part_of(one.way) == part for one in scans) for part in parts]
    print(
        "| | facts |", " | ".join(map("{} (n = {})".format, parts, counts)), "| honest punished |"
    )
    print("| --- | --- |" + " ---: |" * (len(parts) + 1))
    for measure in MEASURES:
        for facts in FACTS:
            rates = [
                share(earns(one, measure) for one in hostile[facts] if part_of(one.way) == part)
                for part in parts
            ]
            of = ""
            if measure in (MEASURES[1], DEFAULT) and honest[facts]:  # the others are between them
                punished = share(is_punished(one, measure) for one in honest[facts])
                of = f"{punished} of {len(honest[facts])}"
            print(f"| {measure.name} | {facts} | {' | '.join(rates)} | {of} |", flush=True)
    print("\nEarning, by way, with all masks, and by default:")
    for way in dict.fromkeys(one.way for one in scans):
        rates = [
            share(earns(one, measure) for one in hostile[facts] if one.way == way)
            for measure in (MEASURES[1], DEFAULT)
            for facts in FACTS
        ]
        if set(rates) != {"0.0%"}:
            print(f"- {way} ({part_of(way)}): {', '.join(rates)}")
    lost = [
        (one.scan, DEFAULT.readings(one.scan, one.problem, one.scan)[:1])
        for facts in FACTS
        for one in honest[facts]
        if is_punished(one, DEFAULT)
    ]
    print(f"\nHonest, and punished by default: {len(lost)}", *lost, sep="\n- ")


def reader_table(count: int, folder: Path) -> None:
    """What the shipped model reads from its own, honest descriptions, sampled as in training."""
    config = RunConfig.model_validate(
        {"preset": "vision_sr1", "output_dir": folder, "second_pass": {"named_by": 1}}
    )
    policy = open_policy(config)
    seen: Counter[str] = Counter()
    problems = {problem.id: problem for problem in generate(77, "test", count)}
    scans: dict[tuple[str, int], SecondPass] = {}
    with open_backend(config) as backend, backend.session():
        sampler = backend.sampler(None)
        asking: Asking[tuple[str, str, int]] = Asking("descriptions", sampler=sampler)
        group = config.train.group_size
        first = (
            (("first", p.id, 0), question(policy, p, "full", 0, samples=group, temperature=1.0))
            for p in problems.values()
        )
        for (name, key, sample), asked, reply in asking.replies(first, 64):
            assert not isinstance(reply, Exception), reply
            if name == "first":
                responses = [policy.text_of(one.tokens) for one in reply.sequences]
                for index in range(len(responses)):
                    for what, follow_up in readings(policy, problems[key], responses, index):
                        asking.ask((what, key, index), follow_up)
                continue
            found = second_pass(policy, asked, reply.sequences[0])
            seen[name] += found.right
            seen[f"{name} asked"] += 1
            if name == READ:
                scans[key, sample] = found
            again = {READ: MOVED, MOVED: MOVED_AGAIN}.get(name)
            if found.right and again:
                seed = stable_seed(again, key, sample)
                other = moved(problems[key], scans[key, sample], seed)
                if isinstance(other, tuple):
                    asking.ask(
                        (again, key, sample),
                        question(
                            policy, other[0], "scan_only", seed, temperature=0.0, scan=other[1]
                        ),
                    )
                elif isinstance(other, SecondPass):
                    seen["no number, a leak"] += 1
    print("\n| the model reads its own description | right | of |")
    print("| --- | ---: | ---: |")
    for name in (READ, BLIND, HIDDEN, NAMED_ONLY, NAMED_TWICE, MOVED, MOVED_AGAIN):
        print(f"| {name} | {seen[name]} | {seen[f'{name} asked']} |")
    print(f"\nno number, a leak: {seen['no number, a leak']}")


READ = "with the question: the second pass"
BLIND = "without the question"
HIDDEN = "with the question, the facts unknown"
NAMED_ONLY = "with the question, the facts unknown, numbers that another names"
NAMED_TWICE = "with the question, the facts unknown, numbers that two others name"
MOVED = "with the question, where that was right, the numbers moved"
MOVED_AGAIN = "the same, where it stayed, moved again"


def readings(
    policy: Policy, problem: Problem, responses: Sequence[str], index: int
) -> Iterator[tuple[str, Question]]:
    """The first things to ask about the description of one of the group's responses."""
    unknown = replace(problem, meta={})
    blind = replace(problem, problem="<image>")
    ways = (
        (READ, problem, problem, None),
        (BLIND, blind, problem, None),
        (HIDDEN, unknown, unknown, None),
        (NAMED_ONLY, unknown, unknown, named_by_others(responses, 1)[index]),
        (NAMED_TWICE, unknown, unknown, named_by_others(responses, 2)[index]),
    )
    for name, shown, masked_for, named in ways:
        asked = second_question(
            policy, masked_for, responses[index], index, temperature=1.0, named=named
        )
        if isinstance(asked, Question):
            if shown is not masked_for:
                asked = question(
                    policy, shown, "scan_only", index, temperature=1.0, scan=asked.scan
                )
            yield name, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--problems", type=int, default=20, help="a way to write an answer")
    parser.add_argument("--reader", type=int, default=0, metavar="PROBLEMS")
    parser.add_argument(
        "--geometry3k", type=Path, metavar="FOLDER", help="real figures, in the Inter-GPS layout"
    )
    arguments = parser.parse_args()
    problems = [p for p in generate(5, "validation", 400) if 21 <= int(p.answer) <= 199]
    tables(problems[: arguments.problems], arguments.seed, arguments.geometry3k)
    if arguments.reader:
        with TemporaryDirectory() as folder:
            reader_table(arguments.reader, Path(folder))


if __name__ == "__main__":
    main()
