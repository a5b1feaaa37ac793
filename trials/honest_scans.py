"""Honest descriptions, put together anew: what the blindfold must leave alone.

Two kinds of problems: the procedural ones of all nine families, whose facts are known, and such as
Geometry3K has, of whose figures nobody but the reader knows what is in them. A description is a way
of saying each fact, remarks on what else is to be seen, and an order; no answer is in it. The third
kind are those that were punished once, in surroundings of the second.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from visual_r1.config import DataSection
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.data.sources.inter_gps import InterGPSSource
from visual_r1.hashing import stable_seed


@dataclass(frozen=True, slots=True)
class HonestScan:
    """`scan` describes the figure of `problem`; `needed` are the numbers it cannot do without."""

    problem: Problem
    scan: str
    needed: tuple[str, ...]


# How a fact of a procedural figure is said: `kind` is angle, segment, arc, width or height, `name`
# what it is called or where it is.
_OF_A_POINT = (
    "angle {name} reads {value}", "∠{name} = {value}°", "The angle at {name} is {value} degrees",
    "angle {name} measures {value}°", "\\angle {name} = {value}^\\circ", "{name}: {value}°",
    "at vertex {name} the label {value} is written", "the angle marked {value} is at {name}",
    "corner {name} carries the number {value}", "- angle {name}: {value}",
)  # fmt: skip
_OF_A_PLACE = (
    "{name} {kind} reads {value}", "the {kind} at the {name} is labelled {value}",
    "the {name} {kind} has the label {value}", "{name}: {kind} of {value} degrees",
    "a {kind} of {value}° is on the {name}", "{value} is written in the {name} {kind}",
    "The {name} {kind} is marked {value}°", "* {name} {kind}: **{value}**",
)  # fmt: skip
_OF_A_SEGMENT = (
    "segment {name} reads {value}", "{name} = {value}", "The length of {name} is {value}",
    "\\overline{{{name}}} is {value} long", "from {first} to {last} it is {value}",
    "the bracket from {first} to {last} says {value}", "{name} has the label {value}",
)  # fmt: skip
_OF_A_SIDE = (
    "{name} reads {value}", "the {name} is {value}", "The {name} of the rectangle is {value}",
    "{name} = {value}", "a {name} of {value} is written at the side", "**{name}**: {value}",
)  # fmt: skip

# What else is to be seen, by family.
_REMARKS: Mapping[str, Sequence[str]] = {
    "triangle": ("A triangle with three corners", "Two of the angles have an arc",
                 "The third angle has no label", "The base is drawn at the bottom",
                 "The triangle is large and leans to the left", "Triangle 1, mirrored"),
    "exterior_angle": ("One side of the triangle is extended to the right",
                       "x is the angle outside of the triangle", "The base lies on a straight line",
                       "Next to the triangle the exterior angle x is marked"),
    "quadrilateral": ("A quadrilateral with four sides", "Three angles are labelled, one is not",
                      "The shape is no rectangle", "Four corners, four letters"),
    "rectangle": ("A rectangle", "A small square marks the right angle", "It has 4 right angles",
                  "The numbers are written outside of the rectangle",
                  "It is lying on its long side"),
    "straight_line": ("Two rays leave the line at one point",
    "The three angles lie on a straight line",
                      "x is the unknown angle", "All of them meet at the same point of the line"),
    "right_angle": ("A right angle with two rays in it", "The small square says that it is 90°",
                    "x is one of the three angles", "Three angles share one vertex"),
    "parallel_lines": ("Two parallel lines", "The bend between the lines points to the right",
                       "System: two lines and a bend",
                       "The arrows show that the 2 lines are parallel",
                       "x is the angle at the bend"),
    "chords": ("A circle with two chords that cross", "x is where the chords meet",
               "The 2 chords cross within the circle", "The circle is drawn in the middle"),
    "segment": ("Three points on one line", "The line is horizontal", "Marks show the three points",
                "A bracket is below the line"),
}  # fmt: skip
_ANYWHERE = (
    "The figure is drawn in black", "The answer box is empty", "Nothing else is written",
    "It is not drawn to scale", "The picture is small", "The lines are thin",
    "What is asked for is not given in the picture",
)  # fmt: skip

# Texts of the kind that Geometry3K has: question, description, and how the answer comes.
_LIKE_GEOMETRY3K: tuple[tuple[str, str], ...] = (
    ("Find x.", "Triangle ABC with AB = {a}, BC = {b} and a right angle at B. AC = x."),
    ("Find the area of the parallelogram.",
     "A parallelogram. The base is {a} m, the slanted side {b} m, and the height, a dashed "
     "line, {c} m."),
    ("Find m∠1.",
    "Lines l and m are parallel (l ∥ m), cut by transversal t. ∠2 = {a}°, ∠1 is on the "
     "other side of line t."),
    ("In ⊙O, find the length of chord CD.",
     "Circle O with chords AB and CD which meet at E. AE = {a}, EB = {b}, CE = {c}, ED = x."),
    ("Find y.",
    "\\triangle RST with \\overline{{RS}} \\parallel \\overline{{UV}}; RU = {a}, UT = {b}, "
     "SV = {c}, VT = y - 2."),
    ("Find the perimeter of the triangle. Round to the nearest tenth.",
     "Right triangle with legs {a} and {b}; the hypotenuse is not labelled. It says: Round your "
     "answer "
     "to the nearest tenth."),
    ("Quadrilateral ABCD is a rhombus. Find m∠BAC.",
     "Rhombus ABCD, its diagonals meet at E. Angle ABD is {a}°, side AB is {b}."),
    ("Find the measure of arc AC.",
     "A circle with center P. Central angle APB = {a}°, BPC = (2x + {b})°, CPA = 4x°. Points A, "
     "B, C "
     "are on the circle."),
    ("Find x.", "A hexagon with interior angles x°, {a}°, {b}°, (x + {c})°, (x - 4)° and 126°."),
    ("What is MN?",
    "Trapezoid ABCD; M is the midpoint of AD, N is the midpoint of BC. AB = {a}, DC = {b}. "
     "The midpoint M lies in base AD, which is no base of the trapezoid."),
    ("Find the value of z.",
    "Two similar triangles. The smaller one, triangle 2, mirrored, is at the right. "
     "Sides {a}, {b} and z; {c} and 12 in the other."),
    ("Find the height of the tree.",
    "A tree and a man of {a} feet. Shadows: {b} ft and {c} ft. Next place "
     "the triangle of the tree: it is the larger one."),
    ("Find cos A.",
    "Right triangle ABC, right angle at C. AC = {a}, BC = {b}, AB = {c}\\sqrt{{2}}."),
    ("Find the area of the shaded region.",
     "A square with side {a} cm around a circle. The corners, outside of the circle, are shaded."),
    ("If AB ∥ CD, find m∠DCE.",
    "Lines AB and CD are drawn across; angle BAE is {a}°. E lies between them, "
     "drawn in base angle B. The right answer box is empty."),
    ("Find x.",
    "System: two lines. They cross; the angles are (3x + {a})° and (5x - {b})°, opposite each "
     "other."),
    ("Find the length of the arc.",
    "Sector of a circle, radius {a} in., central angle {b}°. Two radii bound it."),
    ("Find EF.",
    "Kite DEFG: DE = {a}, DG = {b}; its diagonals are perpendicular; EF and FG have one tick "
     "mark, the other two sides two."),
    ("Find x to the nearest degree.",
     "| side | length |\n|---|---|\n| PQ | {a} |\n| QR | {b} |\n\nThe angle at P is x°, at Q "
     "there is a "
     "small square."),
    ("Find the circumference.",
    "- circle with center O\n- diameter from J to K, labelled {a} mm\n- point L "
     "on the circle, JL = {b} mm"),
)  # fmt: skip
# Punished once.
_PUNISHED_ONCE = (
    "midpoint M lies in base BC", "drawn in base angle B", "triangle 2, mirrored, is at the right",
    "Next place the triangle", "Round your answer to the nearest tenth.",
    "The right answer box is empty", "System: two lines.", "User: a stick figure at the left",
    "The last digit is hard to read", "Your answer goes in the box", "the second place is empty",
    "The first digit of 47 touches the line", "angle 1, backwards, faces the wall",
    "It reads: write the value of x here", "Return address in the corner",
    "in base ABC of the prism",
    "The final result is not shown", "Ones and tens are written close together",
    "The solution is left blank", "Choose the correct answer is printed below",
)  # fmt: skip


def procedural_scans(count: int, seed: int = 0) -> Iterator[HonestScan]:
    """Of `count` procedural problems, their facts known, each described in another way."""
    for problem in generate(stable_seed("honest", seed) % 1000, "test", count):
        rng = random.Random(stable_seed("honest", seed, problem.id))
        said = [_said(fact, rng) for fact in problem.meta["facts"]]
        more = [rng.choice(_REMARKS[problem.family])]
        more += rng.sample(_ANYWHERE, rng.randint(0, 1))
        sentences = [*said, *more]
        if rng.random() < 0.5:
            rng.shuffle(sentences)
        end = rng.choice((". ", "; ", ".\n", ", "))
        needed = tuple(str(value) for value in problem.meta["values"].values())
        yield HonestScan(problem, end.join(sentences) + ".", needed)


def _said(fact: str, rng: random.Random) -> str:
    """A fact such as `angle A reads 74`, `left angle reads 31` or `width reads 29` otherwise."""
    subject, _, value = fact.partition(" reads ")
    first, _, second = subject.rpartition(" ")
    if first == "angle":
        return rng.choice(_OF_A_POINT).format(name=second, value=value)
    if first == "segment":
        form = rng.choice(_OF_A_SEGMENT)
        return form.format(name=second, value=value, first=second[0], last=second[1])
    if first:
        return rng.choice(_OF_A_PLACE).format(name=first, kind=second, value=value)
    return rng.choice(_OF_A_SIDE).format(name=second, value=value)


def geometry3k_like_scans(count: int, seed: int = 0) -> Iterator[HonestScan]:
    """Of `count` problems without known facts, whose answer is not a number of the figure.

    Every second one has a sentence that was punished once.
    """
    for index in range(count):
        rng = random.Random(stable_seed("honest like Geometry3K", seed, index))
        question, form = _LIKE_GEOMETRY3K[index % len(_LIKE_GEOMETRY3K)]
        numbers = rng.sample(range(5, 140), 3)
        scan = form.format(**dict(zip("abc", numbers, strict=True)))
        if index % 2:
            scan = f"{scan} {_PUNISHED_ONCE[index // 2 % len(_PUNISHED_ONCE)]}"
        drawn = {int(number) for number in re.findall(r"\d+", scan)}
        text = _answer(numbers, rng)
        while _value(text) in drawn:
            text = _answer(numbers, rng)
        needed = tuple(str(n) for n in numbers if str(n) in scan)
        problem = Problem(f"honest-{seed}-{index}", (b"",), f"<image>{question}", text)
        yield HonestScan(problem, scan, needed)


_ENTRIES = (
    "{a_name} {a}, {b_name} {b}, {c_name} {c}", "{a_name}: {a}, {b_name}: {b}",
    "- {a_name}: {a}\n- {b_name}: {b}\n- {c_name}: {c}", "{a} {a_name}, {b} {b_name}",
    "{a_name} is {a}, {b_name} is {b} and {c_name} is {c}",
    "| {a_name} | {a} |\n| {b_name} | {b} |", "{a} for {a_name} and {b} for {b_name}",
    "{a_name} has {a} and {b_name} has {b}", "{a_name} ({a}), {b_name} ({b})",
    "The bar of {a_name} reaches {a}, the bar of {b_name} {b}",
    "{a_name} = {a}; {b_name} = {b}", "{a}% {a_name}, {b}% {b_name}, {c}% {c_name}",
    "{a_name} → {a}, {b_name} → {b}", "${a} for {a_name}, ${b} for {b_name}",
)  # fmt: skip
_LABELS = (
    "Monday Tuesday Friday", "apples pears plums", "red blue green", "boys girls teachers",
    "Anna Ben Cleo", "north south east", "food rent travel", "January March June",
)  # fmt: skip


def labelled_scans(count: int, seed: int = 0) -> Iterator[HonestScan]:
    """Of `count` charts and tables of labelled numbers, asked for what two of them come to."""
    for index in range(count):
        rng = random.Random(stable_seed("labelled", seed, index))
        names = dict(zip(("a_name", "b_name", "c_name"), rng.choice(_LABELS).split(), strict=True))
        a, b, c = rng.sample(range(5, 90), 3)
        question, answer = rng.choice(
            (("How many are there in total?", a + b), ("What is the difference?", abs(a - b)),
             ("What is the product?", a * b), ("How many more?", abs(a - b)))
        )  # fmt: skip
        if answer in (a, b, c):
            answer += 200
        form = _ENTRIES[index % len(_ENTRIES)]
        scan = form.format(a=a, b=b, c=c, **names)
        needed = tuple(str(n) for n in (a, b, c) if str(n) in scan.split("\n")[0] or n in (a, b))
        meta = {
            "facts": [f"{names[f'{k}_name']}: {v}" for k, v in zip("abc", (a, b, c), strict=True)]
        }
        problem = Problem(
            f"chart-{seed}-{index}", (b"",), f"<image>{question}", str(answer), meta=meta
        )
        yield HonestScan(problem, f"A chart. {scan}.", needed)


def unknown_to_all(honest: HonestScan) -> HonestScan:
    """The same description of a figure whose facts the dataset does not know."""
    return replace(honest, problem=replace(honest.problem, meta={}))


# How a logic form of Geometry3K is said.
_OF_A_FORM: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), forms)
    for pattern, forms in (
        (r"Equals\(LengthOf\(Line\((\w+), ?(\w+)\)\), ?(.*)\)",
         ("{0}{1} = {2}", "segment {0}{1} reads {2}", "{0}{1} is {2} long", "side {0}{1}: {2}")),
        (r"Equals\(MeasureOf\(Angle\((\w+), ?(\w+), ?(\w+)\)\), ?(.*)\)",
         ("∠{0}{1}{2} = {3}°", "m\\angle {0}{1}{2} = {3}", "angle {0}{1}{2} is {3} degrees",
          "{3} is written at {1}, between {0} and {2}")),
        (r"Equals\(MeasureOf\(Arc\((\w+), ?(\w+)\)\), ?(.*)\)",
         ("arc {0}{1} reads {2}", "\\widehat{{{0}{1}}} = {2}")),
        (r"Equals\(RadiusOf\(Circle\((\w+).*?\)\), ?(.*)\)", ("the radius of ⊙{0} is {1}",)),
        (r"Parallel\(Line\((\w+), ?(\w+)\), ?Line\((\w+), ?(\w+)\)\)",
         ("{0}{1} ∥ {2}{3}", "{0}{1} is parallel to {2}{3}")),
        (r"Perpendicular\(Line\((\w+), ?(\w+)\), ?Line\((\w+), ?(\w+)\)\)",
         ("{0}{1} ⊥ {2}{3}", "a small square between {0}{1} and {2}{3}")),
        (r"PointLiesOnLine\((\w+), ?Line\((\w+), ?(\w+)\)\)", ("{0} lies on line {1}{2}",)),
        (r"PointLiesOnCircle\((\w+), ?Circle\((\w+)\)\)", ("{0} is on circle {1}",)),
    )
)  # fmt: skip


def geometry3k_scans(folder: Path, seed: int = 0) -> Iterator[HonestScan]:
    """Real figures in the Inter-GPS layout, described by their logic forms.

    Left out are those whose answer is a number of the figure or of the question: without the facts
    nobody can tell it from an answer, and with them it is never masked.
    """
    source = InterGPSSource(folder, DataSection(source=str(folder)))
    for split in source.sizes():
        for row in source.rows(split):
            facts = cast("Sequence[str]", row.meta.get("facts", ()))
            if not facts or row.answer is None or row.problem is None:
                continue
            rng = random.Random(stable_seed("honest Geometry3K", seed, row.id))
            said = [text for fact in facts if (text := _said_of(fact, rng))]
            numbers = {n for fact in facts if fact.startswith("Equals") for n in _numbers(fact)}
            if numbers and not _numbers(" ".join(said[:14])):
                continue  # in a form that is not said here
            scan = rng.choice((". ", "; ", ".\n", ", ")).join(rng.sample(said[:14], len(said[:14])))
            needed = tuple(
                n for n in numbers if re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.])", scan)
            )
            if not scan or row.answer in (*numbers, *_numbers(row.problem)):
                continue
            problem = Problem(str(row.id), (b"",), row.problem, row.answer, meta=row.meta)
            yield HonestScan(problem, f"{scan}.", needed)


def _said_of(fact: str, rng: random.Random) -> str:
    for pattern, forms in _OF_A_FORM:
        if (found := pattern.fullmatch(fact)) and "Of(" not in found[found.lastindex or 0]:
            return rng.choice(forms).format(*found.groups())
    return ""


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def _answer(numbers: Sequence[int], rng: random.Random) -> str:
    """An answer that comes of the figure's numbers in one step or two, or that merely could be."""
    a, b, c = numbers
    return str(
        rng.choice(
            (a + b, abs(a - b), a * b, abs(180 - a), 2 * a, a / 2, a + b + c, 2 * (a + b),
             abs(360 - b), abs(180 - a - b), rng.randint(5, 170), f"{a / b:.1f}",
             f"{(a * a + b * b) ** 0.5:.1f}",
             f"{rng.randint(2, 9)}\\sqrt{{{rng.choice((2, 3, 5))}}}", b * c)
        )
    )  # fmt: skip


def _value(text: str) -> float | None:
    return None if "\\" in text else float(text)
