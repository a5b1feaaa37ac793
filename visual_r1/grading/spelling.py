"""From what a model or a textbook writes to a short list of tokens.

`canonical` brings a text to plain characters and a small set of LaTeX commands, `tokenise` cuts it
up. LaTeX, Unicode and plain spelling of the same thing end as the same tokens: `\\dfrac{1}{2}`,
`½` and `\\frac { 1 } { 2 }`; `30^{\\circ}`, `30º` and `30°`; `1{,}200` and `1,200`; `√5`,
`\\sqrt{5}` and `the square root of 5`.
"""

import re
import unicodedata
from typing import NamedTuple

MAX_CHARACTERS = 400
MAX_TOKENS = 200


class Unreadable(Exception):
    """The text is outside the grammar, or beyond its limits; the message says which."""


class Token(NamedTuple):
    """`kind` is number, command, word or symbol; `spaced` says whether white space stood before."""

    kind: str
    text: str
    spaced: bool


# Commands that change how things look and nothing else.
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|scriptstyle|limits|tiny|small"
    r"|normalsize|large|Large|LARGE|huge|Huge|quad|qquad|thinspace|enspace|bf|rm|it"
    r"|underline|ensuremath|hbox|nobreak|mathstrut)(?![A-Za-z])"
    r"|\\hspace\s*\{[^{}]*\}|\\(?:text)?color\s*\{[A-Za-z0-9!]*\}|\\[,;:> ]|~|\\\\"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|textup|mathrm|mathbf|mathit|mathsf"
    r"|mathtt|mathnormal|operatorname|mbox|bm|boldsymbol|emph)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_ARC = re.compile(r"\\(?:overset|stackrel)\s*\{\s*\\(?:frown|smile|smallfrown)\s*\}")
_DEGREE = re.compile(
    r"(?:\{\s*\})?\s*(?:\^\s*\{\s*(?:\\circ|o|°)\s*\}|\^\s*(?:\\circ(?![A-Za-z])|o(?![A-Za-z])|°)"
    r"|(?<=\d)\s*\\(?:circ|textdegree)(?![A-Za-z]))"
)
_THOUSANDS = re.compile(
    r"(?<![\d.,}])(\d{1,3})((?:,\d{3})+|(?:\{,\}\d{3})+|(?:\\,\d{3})+)(?=(?:\.\d+)?(?!\d|,\d))"
)
_SPACED_THOUSANDS = re.compile(r"(?<![\w.,/}^_-])(-?\d{1,3})((?: \d{3})+)(?![\d,]| ?[/\d])")
_TIMES = re.compile(r"(?<=[\d.])\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_REPEATING = re.compile(
    r"(\d{0,9})\.(\d{0,9})(?:\\(?:overline|bar|dot)\s*\{(\d{1,9})\}|(\d{1,6})\4{2,}(?:\.\.\.|\\l?dots))"
)
_MINUTES = re.compile(r"(\d{1,3})\s*°\s*(\d{1,2})\s*'(?:\s*(\d{1,2})\s*(?:''|\"))?(?=\s*$)")
_BOLD = re.compile(r"(?<![\w)}\].])\*\*(?=\S)([^*]+?)\*\*(?![\w({]|\\[A-Za-z])")


def canonical(text: str) -> str:
    """Bring `text` to plain characters and a small set of LaTeX commands.

    Raises:
        Unreadable: longer than `MAX_CHARACTERS` once the white space around it is gone.
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"longer than {MAX_CHARACTERS} characters")
    text = _without_markdown(_plain_characters(text).strip())
    text = text.replace("\\$", " \\dollar ").replace("$", " ").replace("\\%", "%")
    text = re.sub(r"\\+[()\[\]]", " ", text).replace("\\!", "")
    text = re.sub(r"^\\boxed\s+(?=[^\s{])", "", _with_box_opened(text.strip()))
    text = re.sub(r"\\text\s*\{([,:])\}", r"{\1}", text).replace("{:}", ":")
    text = re.sub(r"(?<=[\[{, ])'([^'\[\]]{1,40})'(?=\s*[,\]}])", r"\1", text)
    text = re.sub(r"\\ang\s*\{(\d[\d.]*)\}", r"\1°", text)
    # Twice: `$12,345$, ...` and a thousand inside \text{} both become visible only afterwards.
    text = _THOUSANDS.sub(_joined, text)
    text = _LAYOUT.sub(" ", _ARC.sub("\\\\widehat ", text))
    for _ in range(3):
        text = _TEXT.sub(r" \1 ", text)
    text = _SPACED_THOUSANDS.sub(_joined, _THOUSANDS.sub(_joined, text))
    # 40°30' is (40+30/60+0/3600)°.
    text = _MINUTES.sub(lambda m: f"({m[1]}+{m[2]}/60+{m[3] or 0}/3600)°", _DEGREE.sub("°", text))
    text = _TIMES.sub("*", _REPEATING.sub(_as_fraction, text))
    text = _plain_words(_BOLD.sub(r"\1", text.strip()).replace("**", "^").strip())
    text = re.sub(r"(?<=[A-Z}]) ?\|\| ?(?=[A-Z\\])", r" \\parallel ", text)
    text = re.sub(r"(?<=[A-Za-z]{2})\.(?=\s|$|\^)", "", text)  # sq. ft, in.^2
    return re.sub(r"[\s.,;:\\]+$", "", text.strip())


def _joined(found: re.Match[str]) -> str:
    return found[1] + re.sub(r"\D", "", found[2])


def _as_fraction(found: re.Match[str]) -> str:
    """`1.\\overline{3}` and `0.333...` as the fractions they are."""
    whole, fixed, period = found[1] or "0", found[2], found[3] or found[4]
    scale = 10 ** len(fixed)
    nines = scale * (10 ** len(period) - 1)
    top = int(whole + fixed) * (10 ** len(period) - 1) + int(period)
    return f" \\frac{{{top}}}{{{nines}}} "


def _without_markdown(text: str) -> str:
    """`text` out of emphasis, code and quotation marks around all of it."""
    for mark in ("```", "***", "**", "__", "`", "*", '"', "'"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            inside = text[len(mark) : -len(mark)]
            if mark not in inside:
                text = inside.strip()
    return text


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MOST_BOXES = 3


def unboxed(text: str) -> str:
    """The inside of `\\boxed{}` where that is all there is; otherwise `text` itself.

    A box in a box is opened too, a few times: what is nested deeper is no answer, and opening each
    level costs a scan of what is left.
    """
    for _ in range(_MOST_BOXES):
        opened = _BOX.match(text)
        if opened is None or matching_brace(text, opened.end()) != len(text) - 1:
            break
        text = text[opened.end() : -1].strip()
    return text


def _with_box_opened(text: str) -> str:
    """`The answer is \\boxed{12}.` without the box; two boxes are two answers and stay."""
    text = unboxed(text)
    opened = _BOX.search(text)
    if opened is None or _BOX.search(text, opened.end()) is not None:
        return text
    end = matching_brace(text, opened.end())
    if end is None:
        return text
    return f"{text[: opened.start()]} {text[opened.end() : end]} {text[end + 1 :]}"


def matching_brace(text: str, start: int) -> int | None:
    """Index of the `}` that closes the brace opened just before `start`, or None."""
    depth = 1
    for found in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.start()
    return None


# --- characters: `½`, `7²`, `−`, `√`, `∠`, `𝟏𝟐`

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8),
    "⅞": (7, 8), "⅐": (1, 7), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta",
    "ϑ": "theta", "λ": "lambda", "μ": "mu", "φ": "phi", "ϕ": "phi", "ψ": "psi", "ω": "omega",
    "ρ": "rho", "σ": "sigma", "τ": "tau",
}  # fmt: skip

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‒‐‑﹣－", "-"),
        **dict.fromkeys("×·⋅∙•∗＊✕✖", "*"),
        **dict.fromkeys("÷⁄∕", "/"),
        **dict.fromkeys("°º˚", "°"),
        **dict.fromkeys("∠∡∢", " \\angle "),
        **dict.fromkeys("△Δ▵▲", " \\triangle "),
        **dict.fromkeys("⊙◯○", " \\odot "),
        **dict.fromkeys("≈≃≐", " \\approx "),
        **dict.fromkeys("≤⩽≦", " \\le "),
        **dict.fromkeys("≥⩾≧", " \\ge "),
        **dict.fromkeys("∥‖", " \\parallel "),
        **dict.fromkeys("'’′‘", "'"),
        **dict.fromkeys("\"“”″„«»", '"'),
        **dict.fromkeys("，、", ","),
        **dict.fromkeys("∅⌀", " \\emptyset "),
        **dict.fromkeys("∴⇒⟹", " \\therefore "),
        # Shown as nothing: joiners, marks of direction, invisible operators. The overrides, which
        # turn the order of what is shown around, have no place in an answer and stay.
        **dict.fromkeys("\u200b\u200c\u200d\ufeff\u2060\u2061\u2062\u2063", ""),
        **dict.fromkeys("\u200e\u200f\u061c\xad", ""),
        **dict.fromkeys("\xa0\u2002\u2003\u2004\u2005\u2006\u2007\u2008", " "),
        **dict.fromkeys("\u2009\u200a\u202f\u3000", " "),
        "。": ".",
        "…": "...",
        "√": " \\surd ",
        "∛": " \\cbrt ",
        "∜": " \\fourthroot ",
        "≠": " \\ne ",
        "≡": " \\equiv ",
        "π": " \\pi ",
        "∞": " \\infty ",
        "±": " \\pm ",
        "∪": " \\cup ",
        "∈": " \\in ",
        "⊥": " \\perp ",
        "≅": " \\cong ",
        "∼": " \\sim ",
        "⟨": " \\langle ",
        "⟩": " \\rangle ",
        "∶": ":",
        "€": " \\euro ",
        "£": " \\sterling ",
        "℃": "°C",
        "℉": "°F",
        "㎝": "cm",
        "㎜": "mm",
        "㎞": "km",
        "㎡": "m^2",
        "㎠": "cm^2",
        **{glyph: f" \\frac{{{top}}}{{{low}}}" for glyph, (top, low) in _VULGAR.items()},
        **{glyph: f" \\{name} " for glyph, name in _GREEK.items()},
    }
)  # fmt: skip

# Letters and digits in another style: full width, mathematical bold, italic, script, double-struck.
# What only looks like a digit (circled, Roman, dotted) is none.
_STYLED = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff]")
_FRACTION = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})[⁄/∕]([₀₁₂₃₄₅₆₇₈₉]{1,9})")
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SUBSCRIPT_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")


def _plain_characters(text: str) -> str:
    """`text` in ASCII as far as it can be; a character that means nothing here stays as it is."""
    if text.isascii():
        return text
    text = _STYLED.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _FRACTION.sub(
        lambda m: f" \\frac{{{m[1].translate(_SUPERSCRIPTS)}}}{{{m[2].translate(_SUBSCRIPTS)}}}",
        text,
    )
    text = _SUPERSCRIPT_RUN.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    return text.translate(_CHARACTERS)


# --- words around and inside an answer: `is equal to`, `square root of`, `therefore, ...`

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


def _plain_words(text: str) -> str:
    """`text` with turns of phrase as the signs they stand for; the rest is left to the reading."""
    text = _EDGES.sub("", text)
    if _LETTERS.search(text):
        for pattern, sign in _REWRITTEN:
            text = pattern.sub(sign, text)
    return text.strip()


# --- tokens

_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge",
    "leqslant": "le", "geqslant": "ge", "thickapprox": "approx", "simeq": "approx",
    "sphericalangle": "angle", "measuredangle": "angle", "overarc": "widehat", "arc": "widehat",
    "vartheta": "theta", "varphi": "phi", "bigcirc": "odot", "vartriangle": "triangle",
    "bigtriangleup": "triangle", "nicefrac": "frac", "sfrac": "frac", "neq": "ne",
    "varepsilon": "epsilon", "varnothing": "emptyset", "overparen": "widehat",
    "shortparallel": "parallel", "lbrace": "{", "rbrace": "}", "doteq": "approx",
}  # fmt: skip

_OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "bullet": "*", "div": "/", "colon": ":", "lt": "<",
    "gt": ">", "degree": "°", "lvert": "|", "rvert": "|", "vert": "|", "lbrack": "[",
    "rbrack": "]", "lparen": "(", "rparen": ")",
}  # fmt: skip

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.A-Za-z]))?)"
    r"|\\(?P<command>[A-Za-z]+)"
    r"|(?P<escaped>\\[{}])"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<symbol><=|>=|[-+*/^_(){}\[\]|<>=,;:°%!'\"])"
)


def tokenise(text: str) -> tuple[Token, ...]:
    """Split canonical text into tokens.

    Raises:
        Unreadable: a character outside the grammar, or more than `MAX_TOKENS` tokens.
    """
    tokens: list[Token] = []
    at, spaced = 0, False
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable(f"the character {text[at]!r} has no place in an answer")
        at = found.end()
        kind = found.lastgroup or ""
        if kind == "space":
            spaced = True
            continue
        tokens.extend(_token(kind, found[kind], spaced, tokens))
        spaced = False
        if len(tokens) > MAX_TOKENS:
            raise Unreadable(f"more than {MAX_TOKENS} parts")
    return tuple(tokens)


def _token(kind: str, text: str, spaced: bool, before: list[Token]) -> list[Token]:
    if kind == "command":
        name = _SYNONYMS.get(text, text)
        if name in ("{", "}"):
            return [Token("symbol", "\\" + name, spaced)]
        if name in _OPERATORS:
            return [Token("symbol", _OPERATORS[name], spaced)]
        return [Token("command", name, spaced)]
    if kind == "escaped":
        return [Token("symbol", text, spaced)]
    if kind == "symbol":
        return [Token("symbol", {"<=": "≤", ">=": "≥"}.get(text, text), spaced)]
    if kind == "number" and text.isdigit() and len(text) > 1 and _takes_one_digit(before):
        # \frac12 is one half, as TeX reads it.
        return [Token("number", digit, spaced) for digit in text]
    return [Token(kind, text, spaced)]


def _takes_one_digit(before: list[Token]) -> bool:
    """Whether an unbraced argument of `\\frac` comes next."""
    if not before:
        return False
    if before[-1].kind == "command":
        return before[-1].text == "frac"
    if before[-1].text != "}":
        return False
    depth = 0
    for index in range(len(before) - 1, -1, -1):
        depth += {"}": 1, "{": -1}.get(before[index].text, 0)
        if depth == 0:
            return index > 0 and before[index - 1][:2] == ("command", "frac")
    return False
