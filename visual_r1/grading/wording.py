"""Words around and inside an answer to signs: `is equal to`, `square root of`, `therefore, ...`."""

import re

_APPROXIMATELY = r"(?:approximately|approx\.?|about|roughly|\\approx|\\sim(?:eq)?)(?![A-Za-z])"

# In this order; matched without regard to case.
_REWRITTEN = [
    (re.compile(pattern, re.IGNORECASE), sign)
    for pattern, sign in (
        # What leads up to an answer.
        (
            r"^(?:(?:so|thus|therefore|hence|then|finally|clearly|exactly|\\therefore|\\implies"
            r"|\\Rightarrow|we (?:get|have|find|obtain)(?: that)?|there (?:is|are))"
            r"(?![A-Za-z])[,:]?\s*)+(?=\S)",
            "",
        ),
        (
            r"^\W{0,3}(?:(?:the )?(?:final |correct )?(?:answer|ans|solution|result)\s*[:.=]"
            r"|(?:this|that|which|it) (?:gives|means|yields)(?: that)?)\s*(?=[^\s:.=])",
            "",
        ),
        (r"^it's\b", "it is"),
        (r"\b(is|are)\s*:", r"\1 "),
        (
            r"\b(?:is|are) (?:exactly )?equal to\b|\bis exactly\b"
            r"|\b(?:must|has to|should|will) (?:be|equal)\b",
            " = ",
        ),
        (r"\b(?:is|are) (?:approximately|about|roughly|nearly)(?: equal to)?\b", r" \\approx "),
        # A value and its rounding: "3√5 (≈ 6.71)", "3√5, or about 6.71".
        (rf"\(\s*(?:or\s+)?{_APPROXIMATELY}\s*([^()]+)\)$", r" \\approx \1"),
        (rf"\s*(?:,\s*or|,|\bor)\s*{_APPROXIMATELY}", r" \\approx "),
        (r"\(\s*(?:approximately|approx\.?|exact(?:ly)?|rounded)\s*\)$", ""),
        (r"^([a-z]{3,}(?:[ -][a-z]{3,}){0,4}) \(\s*(-?\d[\d.,]*)\s*\)$", r"\1 = \2"),
        (r"^(yes|no),? (?:it|they|that|this|there) (?:is|are|does|do|can)$", r"\1"),
        (r"^no,? (?:it|they|that|this|there) (?:is|are|does|do|can) ?not$", "no"),
        # Comparisons.
        (r"\b(?:is )?(?:greater|more|larger) than or equal to\b|\bis at least\b", r" \\ge "),
        (r"\b(?:is )?(?:less|smaller|fewer) than or equal to\b|\bis at most\b", r" \\le "),
        (r"(?<=\S )is (?:greater|more|larger) than\b", ">"),
        (r"(?<=\S )is (?:less|smaller|fewer) than\b", "<"),
        (r"(?<=\S )is not equal to\b", r" \\ne "),
        (r"\b(distance|angle) between ([A-Z]) and ([A-Z])\b", r"\1 \2\3"),
        (r"(?<=[a-z]{2})!+$", ""),
        # Operations.
        (r"\b(?:the )?(?:square )?root of\b", " sqrt "),
        (r"(?<=\d) root (?=\d)", " sqrt "),
        (r"\b(?:the )?cube root of\b", " cbrt "),
        (r"^(?:negative|minus) (?=\S)", "-"),
        (r"(?<=[\d)}])\s+minus\s+(?=\S)", " - "),
        (r"(?<=[\d)}])\s+plus\s+(?=\S)", " + "),
        (r"(?<=[\d)}])\s+times\s+(?=\S)", " * "),
        (r"(?<=\d) (?:divided by|over) (?=\d)", " / "),
        (r"\bper cent\b", "percent"),
        (r"(?<=[a-z.]) (?:long|tall|wide|high|deep)$", ""),
        (r"\bdegrees? (?:celsius|centigrade)\b", "°C"),
        (r"\bdegrees? fahrenheit\b", "°F"),
    )
]
# "= 12" and ": 12" go on from a question.
_EDGES = re.compile(r"^\s*[=:]\s*|[\s.]+$")
_LETTERS = re.compile(r"[A-Za-z]{2}")


def plain_words(text: str) -> str:
    """`text` with turns of phrase as the signs they stand for; the rest is left to the reading."""
    text = _EDGES.sub("", text)
    if _LETTERS.search(text):
        for pattern, sign in _REWRITTEN:
            text = pattern.sub(sign, text)
    return text.strip()
