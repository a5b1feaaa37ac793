"""Labels in front of a value (`x =`, `m∠ABC =`, `the area of triangle ABC is`), number words."""

from collections.abc import Sequence
from fractions import Fraction

from visual_r1.grading.forms import Label
from visual_r1.grading.parsing import GREEK_VARIABLES
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
     "leg", "sum", "total", "degree", "size", "midsegment", "apothem", "sine", "cosine", "tangent")
)  # fmt: skip
_FILLERS = frozenset(
    ("the", "a", "an", "of", "final", "correct", "our", "my", "so", "thus", "therefore", "hence",
     "then", "this", "that", "it", "its", "segment", "line", "triangle", "circle", "square",
     "rectangle", "parallelogram", "trapezoid", "rhombus", "kite", "polygon", "quadrilateral",
     "hexagon", "pentagon", "shaded", "region", "surface", "missing", "unknown", "and", "in",
     "for", "we", "have", "get", "m")
)  # fmt: skip
APPROXIMATORS = frozenset(("approximately", "about", "roughly", "around", "approx", "nearly"))
OPENERS = frozenset(("so", "thus", "therefore", "hence", "then", "it", "answer"))

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "fourth": 4, "fourths": 4, "quarter": 4,
    "quarters": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8,
    "tenth": 10, "tenths": 10,
}  # fmt: skip


def read_label(tokens: Sequence[Token]) -> Label | None:
    """The label that all of `tokens` make up, or None where they are something else."""
    parts = [token for token in tokens if token.text not in ("{", "}", "(", ")")]
    if not parts or len(parts) > 12:
        return None
    return _variable(parts) or _function(parts) or _points(parts) or _noun(parts)


def _variable(parts: Sequence[Token]) -> Label | None:
    first = parts[0]
    single = first.kind == "word" and len(first.text) == 1
    greek = first.kind == "command" and first.text in GREEK_VARIABLES
    if not (single or greek):
        return None
    if len(parts) == 1:
        return Label("variable", first.text)
    if len(parts) == 3 and parts[1].text == "_" and parts[2].kind != "symbol":
        return Label("variable", f"{first.text}_{parts[2].text}")
    return None


def _function(parts: Sequence[Token]) -> Label | None:
    if parts[0].text.lower() in _FUNCTIONS and 1 < len(parts) <= 3:
        return Label("function", "".join(token.text for token in parts).lower())
    return None


def _points(parts: Sequence[Token]) -> Label | None:
    """`m \\angle A B C`, `\\overline{AB}`, `RS`, `\\angle 1`: marks, then capital letters."""
    names: list[str] = []
    marked = False
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
    if not name or (len(name) < 2 and not marked):
        return None
    return Label("points", min(name, name[::-1]))


def _noun(parts: Sequence[Token]) -> Label | None:
    """`the area of triangle ABC`: known words; the last known noun in front of `of` names it."""
    noun = ""
    for token in parts:
        text = token.text.lower()
        if token.kind == "word" and text in _NOUNS:
            noun = noun or text
        elif not (
            (token.kind == "word" and (text in _FILLERS or len(text) == 1 or token.text.isupper()))
            or (token.kind == "command" and token.text in _MARKS)
        ):
            return None
    if not noun and not all(t.text.lower() in _FILLERS for t in parts):
        return None
    return Label("noun", noun if noun not in ("answer", "value", "result", "solution") else "")


def number_words(words: Sequence[str]) -> Fraction | None:
    """`twelve`, `thirty five`, `one hundred and five`, `three fourths`; None for other words."""
    if not words or len(words) > 10:
        return None
    if words[-1] in _PARTS and len(words) <= 2:
        top = 1 if len(words) == 1 or words[0] in ("a", "one") else _SMALL.get(words[0])
        return None if not top else Fraction(top, _PARTS[words[-1]])
    total = current = 0
    previous = ""
    for word in words:
        if word in _SMALL:
            tens_then_ones = previous in _TENS and 0 < _SMALL[word] < 10
            if previous and not tens_then_ones and previous not in ("and", "hundred", "thousand"):
                return None
            current += _SMALL[word]
        elif word == "hundred" and 0 < current < 10:
            current *= 100
        elif word == "thousand" and 0 < current < 1000 and not total:
            total, current = current * 1000, 0
        elif word != "and" or previous not in ("hundred", "thousand"):
            return None
        previous = word
    return None if previous == "and" else Fraction(total + current)
