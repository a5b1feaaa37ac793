"""Responses in which it is known what went wrong: values misread, conclusions missed, or neither.

A problem of the procedural generator is answered in one of many wordings, those of models that
explain (Markdown, LaTeX, tables, JSON, prose, a scan before the thought), not that of the shipped
one alone; before and behind it stands what models like to add. Drawn from a seed.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from visual_r1.data import procedural
from visual_r1.data.problem import Problem
from visual_r1.grading import extract_answer, grade
from visual_r1.hashing import stable_seed
from visual_r1.perception.judging import Given, Kind

PLANTED: tuple[Kind, ...] = ("right", "misread", "misreasoned", "both", "lucky", "form")
Values = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Planted:
    """A response to a problem, what is planted in it, and the wording that it has."""

    problem: Problem
    given: Given
    kind: Kind
    wording: str


@dataclass(frozen=True, slots=True)
class _Told:
    """What a response is to say: the values that it reads, the sum that it does, its answer."""

    read: Values
    sum: str
    answer: str
    rng: random.Random

    def thing_at_start(self, name: str) -> str:
        """The same, at the beginning of a sentence."""
        thing = self.thing(name)
        return thing[0].upper() + thing[1:]

    def thing(self, name: str, latex: bool = False) -> str:
        """How a value's name is spoken of."""
        if name in ("width", "height"):
            return f"the {name}"
        if name.islower():
            return f"the {name} angle"
        if len(name) == 2:
            name = name if self.rng.random() < 0.5 else name[::-1]
            return rf"\overline{{{name}}}" if latex else f"segment {name}"
        return rf"\angle {name}" if latex else f"angle {name}"

    @property
    def unit(self) -> str:
        """Degrees where the values are angles."""
        return "°" if all(len(n) == 1 or n in _PLACES for n in self.read) else ""

    @property
    def items(self) -> list[tuple[str, int]]:
        """The values in an order of the response's own."""
        found = list(self.read.items())
        self.rng.shuffle(found)
        return found


_PLACES = ("left", "middle", "right", "top", "bottom")


def _plain(told: _Told) -> str:
    facts = ", ".join(f"{told.thing(n)} reads {v}" for n, v in told.items)
    return f"{facts}. {told.sum}."


def _bullets(told: _Told) -> str:
    lines = "\n".join(f"- {told.thing_at_start(n)}: {v}{told.unit}" for n, v in told.items)
    return f"From the figure:\n{lines}\n\nSo the calculation is:\n{told.sum}\n"


def _bold(told: _Told) -> str:
    facts = " and ".join(f"**{told.thing(n)} = {v}{told.unit}**" for n, v in told.items)
    return f"### Step 1: Read the figure\n{facts}\n### Step 2: Calculate\n{told.sum}"


def _latex(told: _Told) -> str:
    degrees = r"^\circ" if told.unit else ""
    facts = " and ".join(f"${told.thing(n, True)} = {v}{degrees}$" for n, v in told.items)
    return f"We are given that {facts}. Therefore, $${told.sum.replace('*', chr(92) + 'times ')}$$"


def _three_letters(told: _Told) -> str:
    parts: list[str] = []
    for name, value in told.items:
        if len(name) != 1 or not name.isupper():
            return _latex(told)
        first, last = told.rng.sample([c for c in "PQRSTUVW" if c != name], 2)
        parts.append(rf"m\angle {first}{name}{last} = {value}^\circ")
    return f"The picture shows ${', '.join(parts)}$. Using the rule for this shape, {told.sum}."


def _table(told: _Told) -> str:
    rows = "\n".join(f"| {told.thing(n)} | {v}{told.unit} |" for n, v in told.items)
    return f"| Part | Value |\n|---|---|\n{rows}\n\nThen {told.sum}."


def _json(told: _Told) -> str:
    inside = ", ".join(f'"{n}": {v}' for n, v in told.items)
    return f"{{{inside}}}\n{told.sum}"


def _values_first(told: _Told) -> str:
    facts = " and ".join(f"{v}{told.unit} at {n}" for n, v in told.items)
    return f"I can see {facts}. {told.sum}."


def _respectively(told: _Told) -> str:
    names, values = zip(*told.items, strict=True)
    last = f"{', '.join(names[:-1])} and {names[-1]}"
    numbers = [f"{v}{told.unit}" for v in values]
    said = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    return f"The values of {last} are {said}, respectively. Hence {told.sum}."


def _labelled(told: _Told) -> str:
    facts = "; ".join(f"the label at {told.thing(n)} says {v}" for n, v in told.items)
    return f"Looking at the figure, {facts}. We work it out as follows: {told.sum}."


def _nameless(told: _Told) -> str:
    numbers = [f"{v}{told.unit}" for _, v in told.items]
    return f"The numbers in the figure are {', '.join(numbers[:-1])} and {numbers[-1]}. {told.sum}."


def _sum_alone(told: _Told) -> str:
    return f"{told.sum}"


def _in_words(told: _Told) -> str:
    facts = ". ".join(
        f"{told.thing_at_start(n)} measures {v}{' degrees' if told.unit else ' units'}"
        for n, v in told.items
    )
    return f"{facts}. Now we can calculate: {told.sum}."


def _corrected(told: _Told) -> str:
    (name, value), *rest = told.items
    facts = "".join(f" {told.thing_at_start(n)} is {v}{told.unit}." for n, v in rest)
    slip = value + 1 if value % 10 < 9 else value - 1
    return (
        f"{told.thing_at_start(name)} is {slip}{told.unit}. Wait, looking again, it is "
        f"{value}{told.unit}.{facts} {told.sum}."
    )


def _scanned(told: _Told) -> str:
    facts = " ".join(f"{told.thing_at_start(n)} is marked {v}{told.unit}." for n, v in told.items)
    return f"<scan>{facts}</scan>\n<think>{told.sum}.</think>"


WORDINGS: Mapping[str, Callable[[_Told], str]] = {
    "as the shipped model": _plain,
    "bullets": _bullets,
    "bold steps": _bold,
    "LaTeX": _latex,
    "angles by three letters": _three_letters,
    "table": _table,
    "JSON": _json,
    "values first": _values_first,
    "respectively": _respectively,
    "labels": _labelled,
    "without names": _nameless,
    "the sum alone": _sum_alone,
    "in words": _in_words,
    "corrected": _corrected,
    "scan, then thought": _scanned,
}
_BEFORE = (
    "",
    "",
    "Let me look at the figure carefully. ",
    "To solve this, I need what is given. ",
    "The angles of a triangle add up to 180°, and those of a quadrilateral to 360°. ",
    "First, let us identify the known values in the image.\n",
    "The figure shows a shape with two or three labels, and one value is unknown. ",
)
_BEHIND = ("", "", " That is the result.", " So the answer is {answer}.", " Check: it seems fine.")


def planted(count: int, seed: int, first: int = 0) -> Iterator[Planted]:
    """`count` responses, the wordings and what is planted in turn, the families as they come."""
    wordings = list(WORDINGS)
    for index, problem in enumerate(procedural.generate(seed, "test", first + count, first)):
        rng = random.Random(stable_seed("planted", seed, index))
        kind, wording = PLANTED[index % len(PLANTED)], wordings[rng.randrange(len(wordings))]
        yield Planted(problem, _given(problem, kind, wording, rng), kind, wording)


def _given(problem: Problem, kind: Kind, wording: str, rng: random.Random) -> Given:
    truth: dict[str, int] = problem.meta["values"]
    rule = procedural.rule_of(problem.family)
    assert rule is not None
    gold = rule([Fraction(value) for value in truth.values()])
    while True:
        read = dict(truth) if kind in ("right", "misreasoned", "form") else _misread(truth, rng)
        follows = rule([Fraction(value) for value in read.values()])
        if kind == "lucky":
            answer = gold
        else:
            answer = follows + (rng.choice((-20, -10, -1, 1, 10, 20)) if _slips(kind) else 0)
        if (kind in ("right", "lucky")) == (answer == gold) or kind == "form":
            break
    told = _Told(read, _sum_of(problem.family, read, answer), str(answer), rng)
    text = rng.choice(_BEFORE) + WORDINGS[wording](told)
    text += rng.choice(_BEHIND).format(answer=answer)
    if "<think>" not in text:
        text = f"<think>{text}</think>"
    response = f"{text}<answer>{answer}</answer>"
    if kind == "form":
        response = rng.choice((text, f"{response}<answer>{answer}</answer>", text[:-12]))
    extracted = extract_answer(response)
    return Given(response, extracted, grade(response, problem.answer).verdict)


def _slips(kind: Kind) -> bool:
    return kind in ("misreasoned", "both")


def _misread(truth: Values, rng: random.Random) -> dict[str, int]:
    """One digit of one value read as another: what a policy that sees badly does."""
    read = dict(truth)
    name = rng.choice(list(read))
    tens, ones = divmod(read[name], 10)
    if rng.random() < 0.5:
        tens = rng.choice([digit for digit in range(1, 10) if digit != tens])
    else:
        ones = rng.choice([digit for digit in range(10) if digit != ones])
    return read | {name: 10 * tens + ones}


def _sum_of(family: str, read: Values, answer: Fraction) -> str:
    """The calculation, in one step, that is said to come to the answer."""
    numbers = [str(value) for value in read.values()]
    match family:
        case "rectangle":
            return f"2 * ({numbers[0]} + {numbers[1]}) = {answer}"
        case "chords":
            return f"({numbers[0]} + {numbers[1]}) / 2 = {answer}"
        case "segment":
            return f"{numbers[1]} - {numbers[0]} = {answer}"
        case "exterior_angle" | "parallel_lines":
            return f"{' + '.join(numbers)} = {answer}"
        case _:
            whole = {"quadrilateral": 360, "right_angle": 90}.get(family, 180)
            return f"{whole} - {' - '.join(numbers)} = {answer}"
