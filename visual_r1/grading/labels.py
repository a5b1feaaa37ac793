"""Labels in front of a value: `x =`, `m∠ABC =`, `the area of triangle ABC is`."""

import re
from collections.abc import Sequence
from itertools import pairwise

from visual_r1.grading.forms import Label
from visual_r1.grading.parsing import GREEK_VARIABLES
from visual_r1.grading.phrases import TAKES_BACK
from visual_r1.grading.spelling import Token

_MARKS = frozenset(
    ("angle", "triangle", "overline", "widehat", "odot", "overrightarrow", "overleftrightarrow",
     "bar", "vec", "hat", "square", "parallelogram")
)  # fmt: skip
_FUNCTIONS = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_NOUNS = frozenset(
    ("answer", "value", "result", "solution", "area", "perimeter", "circumference", "radius",
     "diameter", "length", "measure", "width", "height", "volume", "distance", "slope", "angle",
     "side", "arc", "hypotenuse", "altitude", "median", "midpoint", "probability", "ratio", "base",
     "leg", "sum", "total", "degree", "size", "midsegment", "apothem", "sine", "cosine", "tangent",
     "point", "center", "centre", "vertex", "coordinates", "equation", "number", "lengths")
)  # fmt: skip
_FILLERS = frozenset(
    ("the", "a", "an", "of", "final", "correct", "our", "my", "so", "thus", "therefore", "hence",
     "then", "this", "that", "it", "its", "segment", "line", "triangle", "circle", "square",
     "rectangle", "parallelogram", "trapezoid", "rhombus", "kite", "polygon", "quadrilateral",
     "hexagon", "pentagon", "shaded", "region", "surface", "missing", "unknown", "and", "in",
     "for", "we", "have", "has", "get", "m", "they", "these", "triangles", "lines", "figures",
     "figure", "shape", "two", "given", "required", "inscribed", "central", "whole")
)  # fmt: skip
_ARTICLES = frozenset(("the", "its", "their", "his", "her", "our", "my", "this", "each", "every"))
# Words that make another value of what they stand by.
_TURNS = frozenset(
    ("half", "twice", "double", "triple", "thrice", "third", "quarter", "negative", "minus",
     "reciprocal", "inverse", "complement", "supplement", "less", "more", "fewer", "than", "least",
     "most", "over", "under", "above", "below", "between", "root", "squared", "cubed", "times",
     "percent", "other", "another", "one", "some", "any", "first", "second", "last", "whose",
     "is", "are", "was", "error", "guess", "estimate")
)  # fmt: skip
_TURNS_OF = frozenset(("square", "cube", "power", "multiple", "part", "fraction", "rest", "out"))
_MEASURE_OF = re.compile(r"m[A-Z]{2,4}")
APPROXIMATORS = frozenset(("approximately", "about", "roughly", "around", "approx", "nearly"))
OPENERS = frozenset(("so", "thus", "therefore", "hence", "then", "it", "answer"))


def read_label(tokens: Sequence[Token]) -> Label | None:
    """The label that all of `tokens` make up, or None where they are something else."""
    if len(tokens) > 24:
        return None
    called = _called(tokens) or _ratio(tokens)
    parts = [token for token in tokens if token.text not in ("{", "}", "(", ")", "[", "]", "|")]
    if called is not None or not parts or len(parts) > 12:
        return called
    if len(parts) == 1 and _MEASURE_OF.fullmatch(parts[0].text):  # mAB
        parts = [parts[0]._replace(text=parts[0].text[1:])]
    variable = _variable(parts)
    if variable is not None:
        return variable
    if parts[0].text.lower() in _FUNCTIONS and 1 < len(parts) <= 3:
        return Label("function", "".join(token.text for token in parts).lower())
    name = points_name(parts)
    return _noun(parts) if name is None else Label("points", min(name, name[::-1]))


def _called(tokens: Sequence[Token]) -> Label | None:
    """`f(2)`, `f(x)`; `(x, y)`, the name of a pair."""
    texts = [token.text for token in tokens]
    if len(texts) < 4 or texts[-1] != ")":
        return None
    named = tokens[0].kind == "word" and len(texts[0]) == 1 and texts[1] == "("
    if named and len(texts) == 4 and tokens[2].kind in ("word", "number"):
        return Label("function", "".join(texts))
    names = texts[1:-1:2]
    between = texts[2:-1:2]
    if (
        texts[0] == "("
        and set(between) == {","}
        and all(len(n) == 1 and n.isalpha() for n in names)
    ):
        return Label("tuple", ",".join(names))
    return None


def _ratio(tokens: Sequence[Token]) -> Label | None:
    """`AB : BC`, `AB/BC`, `\\frac{AB}{BC}`: what the ratio is of."""
    texts = [t.text for t in tokens if t.text not in ("{", "}", "overline", "(", ")")]
    if len(texts) == 3 and texts[0] == "frac":
        texts = [texts[1], ":", texts[2]]
    if len(texts) < 3 or len(texts) % 2 == 0 or not set(texts[1::2]) <= {":", "/", "to"}:
        return None
    names = texts[::2]
    if not all(n.isalpha() and len(n) <= 3 and (n.isupper() or len(n) == 1) for n in names):
        return None
    return Label("ratio", ":".join(min(name, name[::-1]) for name in names))


def _variable(parts: Sequence[Token]) -> Label | None:
    first = parts[0]
    single = first.kind == "word" and len(first.text) == 1
    greek = first.kind == "command" and first.text in GREEK_VARIABLES
    if not (single or greek):
        return None
    if len(parts) == 1:
        return Label("variable", first.text)
    index = parts[2:]
    named = all(t.kind in ("word", "number") or t.text in _MARKS for t in index)
    if parts[1].text == "_" and 0 < len(index) <= 5 and named:
        return Label("variable", f"{first.text}_{''.join(t.text for t in index)}")
    return None


def points_name(parts: Sequence[Token], marked: bool = False) -> str | None:
    """The letters of `m \\angle A B C`, `\\overline{AB}`, `RS`, `\\angle 1`; None for the rest.

    A single letter, or a digit, is a name only after a mark.
    """
    names: list[str] = []
    for index, token in enumerate(parts):
        if token.kind == "command" and token.text in _MARKS:
            marked = True
        elif token.kind == "word" and token.text == "m" and index == 0:
            continue
        elif (token.kind == "word" and token.text.isupper() and len(token.text) <= 6) or (
            marked and (token.text.isdigit() or (token.kind == "word" and len(token.text) == 1))
        ):
            names.append(token.text)
        elif token.kind == "symbol" and token.text == "'" and names:
            names[-1] += "'"
        else:
            return None
    name = "".join(names)
    return name if len(name) > 1 or (name and marked) else None


def _noun(parts: Sequence[Token]) -> Label | None:
    """`the area of triangle ABC`: the first known noun names it.

    Behind an article any words will do (`the cost of the pizza`), as long as none of them turns the
    value into another one (`half of the area`) or takes it back (`the wrong answer`).
    """
    owned = [i for i, t in enumerate(parts[:-1]) if t.text == "'" and parts[i + 1].text == "s"]
    parts = [t for i, t in enumerate(parts) if i not in owned and i - 1 not in owned]
    words = [token.text.lower() for token in parts if token.kind == "word"]
    if not words or any(
        word in _TURNS or (word in TAKES_BACK and word != "answer") for word in words
    ):
        return None
    if any(first in _TURNS_OF and then == "of" for first, then in pairwise(words)):
        return None
    noun, known = "", words[0] in _ARTICLES or bool(owned)
    for index, token in enumerate(parts):
        text = token.text.lower()
        if token.kind == "word" and text in _NOUNS:
            noun = noun or text
        elif token.kind == "number" and index and parts[index - 1].text.lower() == "angle":
            continue
        elif not (
            (token.kind == "word" and (known or text in _FILLERS or len(text) == 1))
            or (token.kind == "word" and token.text.isupper())
            or (token.kind == "command" and token.text in _MARKS)
        ):
            return None
    if not noun and not known and not all(t.text.lower() in _FILLERS for t in parts):
        return None
    return Label("noun", noun if noun not in ("answer", "value", "result", "solution") else "")
