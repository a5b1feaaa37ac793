"""The grader beside math-verify and mathruler on the same labelled pairs, as Markdown tables.

    pip install -e ".[bench]"
    python benchmarks/grading.py [--cases FILE.jsonl ...] [--only visual-r1]
    python benchmarks/grading.py --published FILE.jsonl.gz

A case is one JSON line: `kind`, `mode` ("answer": `pred` is one; "response": a whole response, and
the answer is to be found in it), `ref` (the gold answer), `pred` (or `pred_parts`, a list of
[string, repeat] to join), `equal` (whether the two are the same answer) and, where it differs,
`tol_equal` (the same under `rounding="rounded"`).

A kind named hack… or dos… holds answers that must never be right; "wrong accepted" there is a hole
in the reward. Every grader runs in a process of its own that is killed when a pair takes longer
than the limit: such a pair counts as refused. The peers know nothing of `<answer>`, so only pairs
of mode "answer" go to them.

`--published` compares our verdicts with those that were published with real answers. A line holds
`gold`, `options` (the texts of the choices, none where the answer is free), `tail` (the end of the
response, with its `\\boxed{}`), `correct` and `model`. Where the two differ,
`trials/published_answers.jsonl` says who is right: a person looked at each.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "trials" / "grader_cases.jsonl"
LABELLED = HERE.parent / "trials" / "published_answers.jsonl"
Judge = Callable[[str, str], bool]
Case = dict[str, Any]


def visual_r1() -> Judge:
    from visual_r1.grading import is_equivalent

    return is_equivalent


def math_verify() -> Judge:
    """As its README has it: LaTeX in dollars, the gold answer first."""
    import logging

    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]

    logging.disable(logging.CRITICAL)
    return lambda answer, gold: bool(verify(parse(f"${gold}$"), parse(f"${answer}$")))


def mathruler() -> Judge:
    from mathruler.grader import grade_answer  # pyright: ignore[reportMissingImports]

    return lambda answer, gold: bool(grade_answer(answer, gold))


GRADERS: dict[str, Callable[[], Judge]] = {
    "visual-r1": visual_r1,
    "math-verify": math_verify,
    "mathruler": mathruler,
}
MODULES = ["math_verify", "mathruler.grader"]


def version_of(name: str) -> str:
    if name != "visual-r1":
        return version(name)
    from visual_r1.grading import GRADER_VERSION

    return f"grader {GRADER_VERSION}"


def answer_forever(name: str, connection: Connection) -> None:
    """Judge pairs until the pipe closes; what a grader raises is a refusal."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  to the end of the process
    judge = GRADERS[name]()
    connection.send("ready")
    while True:
        try:
            answer, gold = connection.recv()
        except EOFError:
            return
        began = time.perf_counter()
        try:
            right = judge(answer, gold)
        except Exception:  # noqa: BLE001  a peer may raise anything
            right = False
        connection.send((right, time.perf_counter() - began))


class Worker:
    """A grader in a process that is killed, and started anew, when it takes too long."""

    def __init__(self, name: str, limit: float) -> None:
        self.name, self.limit, self.killed = name, limit, 0
        self.start()

    def start(self) -> None:
        # A server with the grader imported once: a new worker is there at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=answer_forever, args=(self.name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        try:
            started = self.connection.poll(120) and self.connection.recv() == "ready"
        except EOFError:
            started = False
        if not started:
            raise SystemExit(f"{self.name} did not start: pip install -e '.[bench]'")

    def judge(self, answer: str, gold: str) -> tuple[bool, float]:
        """The verdict and its seconds; a refusal and the limit where it had to be killed."""
        self.connection.send((answer, gold))
        try:
            if self.connection.poll(self.limit):
                return self.connection.recv()
        except EOFError:
            pass  # it brought its process down
        self.killed += 1
        self.close()
        self.start()
        return False, self.limit

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass
class Score:
    """What one grader made of the cases."""

    pairs: Counter[str] = field(default_factory=Counter[str])
    accepted: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    seconds: list[float] = field(default_factory=list[float])
    killed: int = 0

    def add(self, kind: str, right: bool, wanted: bool, seconds: float) -> None:
        self.pairs[kind] += 1
        self.accepted[kind] += right and not wanted
        self.refused[kind] += wanted and not right
        self.seconds.append(seconds)

    def cell(self, kinds: Sequence[str]) -> str:
        n, wrong, missed = (
            sum(counts[k] for k in kinds) for counts in (self.pairs, self.accepted, self.refused)
        )
        return f"{(n - wrong - missed) / n:.3f} / {wrong} / {missed}" if n else "–"


def text_of(case: Case) -> str:
    return case["pred"] if "pred" in case else "".join(p * n for p, n in case["pred_parts"])


def score_here(cases: Sequence[Case], rounding: str) -> tuple[Score, int]:
    """Our own grader in this process, responses included; and how often it gave up."""
    from visual_r1.grading import grade, grade_answer

    score, gave_up = Score(), 0
    for case in cases:
        judge = grade if case["mode"] == "response" else grade_answer
        wanted = case["equal"] if rounding == "exact" else case.get("tol_equal", case["equal"])
        text = text_of(case)
        began = time.perf_counter()
        graded = judge(text, case["ref"], "rounded" if rounding == "rounded" else "exact")
        score.add(case["kind"], graded.right, wanted, time.perf_counter() - began)
        gave_up += graded.verdict == "gave_up"
        if graded.right != wanted:
            print(f"- {rounding}: {case['kind']} {case['ref']!r} {text[:60]!r}: {graded}")
    return score, gave_up


def score_peer(name: str, cases: Sequence[Case], limit: float) -> Score:
    score, worker = Score(), Worker(name, limit)
    for number, case in enumerate(cases, start=1):
        if number % 500 == 0:
            print(f"{name}: {number} of {len(cases)}", file=sys.stderr, flush=True)
        right, seconds = worker.judge(text_of(case), case["ref"])
        score.add(case["kind"], right, case["equal"], seconds)
    score.killed = worker.killed
    worker.close()
    return score


def is_hack(kind: str) -> bool:
    return "hack" in kind or kind.startswith("dos")


def report(scores: dict[str, Score], kinds: Sequence[str]) -> None:
    """Accuracy / wrong accepted / right refused, by kind."""
    core = [kind for kind in kinds if not is_hack(kind)]
    rows = [*((kind, [kind]) for kind in kinds), ("all core", core)]
    rows += [("all hacks", [k for k in kinds if is_hack(k)]), ("all", list(kinds))]
    ours = scores["visual-r1"]
    print("\n| kind | pairs | " + " | ".join(scores) + " |")
    print("| --- | --: |" + " --- |" * len(scores))
    for name, members in rows:
        cells = " | ".join(score.cell(members) for score in scores.values())
        print(f"| {name} | {sum(ours.pairs[k] for k in members)} | {cells} |")


def speed(cases: Sequence[Case], seconds: float = 3.0) -> float:
    """Answers a second on ordinary ones, each text new, so that no cache helps."""
    from visual_r1.grading import is_equivalent

    pairs = [
        (text_of(c), c["ref"]) for c in cases if not is_hack(c["kind"]) and c["mode"] == "answer"
    ]
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        for answer, gold in pairs:
            # A leading space is no part of an answer, and makes another text of it.
            is_equivalent(" " * (done // len(pairs) % 300) + answer, gold)
            done += 1
    return done / (time.process_time() - began)


def against_published(path: Path) -> None:
    """Our verdict on each real answer beside the published one; who is right where they differ.

    That was looked at, and stands in `LABELLED`; a difference that nobody has looked at is printed.
    """
    from visual_r1.grading import extract_answer, grade_answer

    labels = {_key(one): one for one in map(json.loads, LABELLED.read_text("utf-8").splitlines())}
    counts: Counter[tuple[str, str, str]] = Counter()
    by_kind: Counter[tuple[str, str, str, str, str]] = Counter()
    by_model: Counter[tuple[str, str]] = Counter()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            answer = extract_answer(row["tail"])
            kind = "choices" if row["options"] else "free"
            published = "right" if row["correct"] else "wrong"
            ours = "no answer"
            if answer is not None:
                ours = grade_answer(answer, row["gold"], choices=row["options"]).verdict
            counts[kind, ours, published] += 1
            by_model[row["model"], "n"] += 1
            by_model[row["model"], "published"] += row["correct"]
            by_model[row["model"], "ours"] += ours == "right"
            if ours in (published, "no answer"):
                continue
            label = labels.get(_key({**row, "answer": answer}))
            if label is None:
                print(f"- nobody has looked at: {kind}: {ours}, published {published}: "
                      f"{row['gold']!r} {answer!r} {row['options']}")  # fmt: skip
                continue
            truth = "right" if label["right"] else "wrong"
            by_kind[kind, ours, published, truth, label["kind"]] += 1
    print("\n| answers | ours | published | |\n| --- | --- | --- | --: |")
    for (kind, ours, published), count in sorted(counts.items()):
        print(f"| {kind} | {ours} | {published} | {count:,} |")
    print("\n| answers | ours | published | it is | n | what they are |")
    print("| --- | --- | --- | --- | --: | --- |")
    for (kind, ours, published, truth, what), count in sorted(by_kind.items()):
        print(f"| {kind} | {ours.replace('_', ' ')} | {published} | {truth} | {count} | {what} |")
    print("\n| model | answers | published right | ours right |\n| --- | --: | --: | --: |")
    for model in sorted({name for name, _ in by_model}):
        n, theirs, own = (by_model[model, what] for what in ("n", "published", "ours"))
        print(f"| {model} | {n:,} | {theirs} ({theirs / n:.1%}) | {own} ({own / n:.1%}) |")


def _key(row: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    return row["gold"], row["answer"], tuple(row["options"])


def warm_up() -> None:
    """Have the tables of units and signs read, which is done once, when the first is met."""
    from visual_r1.grading import is_equivalent

    began = time.process_time()
    is_equivalent("5 cm", "50 mm")
    is_equivalent("65 \u2218", "65")
    print(f"The tables of units and signs took {time.process_time() - began:.2f} s to read.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=Path, nargs="+", default=[SHIPPED])
    parser.add_argument("--only", nargs="+", choices=GRADERS, default=list(GRADERS))
    parser.add_argument("--limit", type=float, default=5.0, help="seconds a pair may take")
    parser.add_argument("--published", type=Path, help="real answers with a published verdict")
    options = parser.parse_args()
    warm_up()
    if options.published is not None:
        against_published(options.published)
        return
    lines = [line for path in options.cases for line in path.read_text("utf-8").splitlines()]
    cases: list[Case] = [json.loads(line) for line in lines]
    answers = [case for case in cases if case["mode"] == "answer"]
    kinds = list(dict.fromkeys(case["kind"] for case in cases))
    ours, gave_up = score_here(cases, "exact")
    rounded, _ = score_here(cases, "rounded")
    scores = {"visual-r1": ours}
    for name in options.only:
        if name != "visual-r1":
            scores[name] = score_peer(name, answers, options.limit)
    report(scores, kinds)
    print(
        f"\n{len(cases)} cases; ours under rounding: {rounded.cell(kinds)}; gave up on {gave_up}.\n"
    )
    print("| grader | version | pairs a second | slowest pair | killed |")
    print("| --- | --- | --: | --: | --: |")
    for name, score in scores.items():
        rate = speed(cases) if name == "visual-r1" else len(score.seconds) / sum(score.seconds)
        print(
            f"| {name} | {version_of(name)} | {rate:,.0f} | {max(score.seconds):.3f} s"
            f" | {score.killed} |"
        )
    print(f"\nPython {platform.python_version()}, {platform.machine()}, one process each.")


if __name__ == "__main__":
    main()
