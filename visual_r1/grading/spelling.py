"""From what a model or a textbook writes to a short list of tokens.

LaTeX, Unicode and plain spelling of the same thing end as the same tokens: `\\dfrac{1}{2}`,
`½` and `\\frac { 1 } { 2 }`; `30^{\\circ}`, `30º` and `30°`; `1{,}200` and `1,200`.
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


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8),
    "⅞": (7, 8), "⅐": (1, 7), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "θ": "theta", "ϑ": "theta",
    "λ": "lambda", "μ": "mu", "φ": "phi", "ϕ": "phi", "ψ": "psi", "ω": "omega", "ρ": "rho",
    "σ": "sigma", "τ": "tau",
}  # fmt: skip

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‒‐‑﹣－", "-"),
        **dict.fromkeys("×·⋅∙•∗＊", "*"),
        **dict.fromkeys("÷⁄∕", "/"),
        **dict.fromkeys("°º˚", "°"),
        **dict.fromkeys("∠∡∢", " \\angle "),
        **dict.fromkeys("△Δ▵", " \\triangle "),
        **dict.fromkeys("⊙◯○", " \\odot "),
        **dict.fromkeys("≈≃≅≐", " \\approx "),
        **dict.fromkeys("≤⩽≦", " \\le "),
        **dict.fromkeys("≥⩾≧", " \\ge "),
        **dict.fromkeys("'’′", "'"),
        **dict.fromkeys("\u200b\u200c\u200d\ufeff\u2061\u2062", ""),
        "√": " \\surd ",
        "∛": " \\cbrt ",
        "≠": " \\ne ",
        "π": " \\pi ",
        "∞": " \\infty ",
        "±": " \\pm ",
        "∪": " \\cup ",
        "∈": " \\in ",
        "∶": ":",
        **{glyph: f" \\frac{{{top}}}{{{low}}}" for glyph, (top, low) in _VULGAR.items()},
        **{glyph: f" \\{name} " for glyph, name in _GREEK.items()},
    }
)

_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge",
    "leqslant": "le", "geqslant": "ge", "thickapprox": "approx", "simeq": "approx",
    "sphericalangle": "angle", "measuredangle": "angle", "overarc": "widehat", "arc": "widehat",
    "vartheta": "theta", "varphi": "phi", "bigcirc": "odot", "vartriangle": "triangle",
    "bigtriangleup": "triangle",
}  # fmt: skip

_OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "bullet": "*", "div": "/", "colon": ":", "lt": "<",
    "gt": ">", "degree": "°", "lvert": "|", "rvert": "|", "vert": "|", "lbrack": "[",
    "rbrack": "]", "lparen": "(", "rparen": ")",
}  # fmt: skip

# Commands that change how things look and nothing else.
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|scriptstyle|limits|tiny|small"
    r"|normalsize|large|Large|LARGE|huge|Huge|quad|qquad|thinspace|enspace|hspace|bf|rm|it|Rightarrow"
    r"|implies|therefore)(?![A-Za-z])|\\[,;:> ]|~|\\\\"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt"
    r"|operatorname|mbox|bm|boldsymbol|emph)\s*\{([^{}]*)\}"
)
_DEGREE = re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\^\s*\{?\s*°\s*\}?")
_THOUSANDS = re.compile(
    r"(?<![\d.,}])(\d{1,3})((?:,\d{3})+|(?:\{,\}\d{3})+|(?:\\,\d{3})+)(?=(?:\.\d+)?(?!\d|,\d))"
)
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SUBSCRIPT_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MOST_BOXES = 3
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.A-Za-z]))?)"
    r"|\\(?P<command>[A-Za-z]+)"
    r"|(?P<escaped>\\[{}])"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<symbol><=|>=|[-+*/^_(){}\[\]|<>=,;:°%'])"
)


def canonical(text: str) -> str:
    """Bring `text` to plain characters and a small set of LaTeX commands.

    Raises:
        Unreadable: longer than `MAX_CHARACTERS` once the white space around it is gone.
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"longer than {MAX_CHARACTERS} characters")
    text = _without_markdown(text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
    text = text.replace("\\$", " \\dollar ").replace("$", " ").replace("\\%", "%")
    text = re.sub(r"\\[()\[\]]", " ", text).replace("\\!", "")
    text = unboxed(text.strip())
    # Twice: `$12,345$, ...` and a thousand inside \text{} both become visible only afterwards.
    text = _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _LAYOUT.sub(" ", text)
    for _ in range(3):
        text = _TEXT.sub(r" \1 ", text)
    text = _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _DEGREE.sub("°", text).replace("**", "^")
    text = re.sub(r"(?<=[A-Za-z]{2})\.(?=\s|$)", "", text)  # sq. ft
    return re.sub(r"[\s.,;:]+$", "", text.strip())


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


def matching_brace(text: str, start: int) -> int | None:
    """Index of the `}` that closes the brace opened just before `start`, or None."""
    depth = 1
    for found in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.start()
    return None


def _without_markdown(text: str) -> str:
    for mark in ("**", "__", "`", "*"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            inside = text[len(mark) : -len(mark)]
            if mark not in inside:
                text = inside.strip()
    return text


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
        if name in _OPERATORS:
            return [Token("symbol", _OPERATORS[name], spaced)]
        return [Token("command", name, spaced)]
    if kind == "escaped":
        return [Token("symbol", text, spaced)]
    if kind == "symbol":
        return [Token("symbol", {"<=": "≤", ">=": "≥"}.get(text, text), spaced)]
    if kind == "number" and _takes_one_digit(before) and text.isdigit():
        # \frac12 is one half, as TeX reads it.
        return [Token("number", digit, spaced) for digit in text]
    return [Token(kind, text, spaced)]


def _takes_one_digit(before: list[Token]) -> bool:
    """Whether an unbraced argument of `\\frac` or `\\sqrt` comes next."""
    if not before:
        return False
    if before[-1].kind == "command":
        return before[-1].text in ("frac", "sqrt")
    if before[-1].text != "}":
        return False
    depth = 0
    for index in range(len(before) - 1, -1, -1):
        depth += {"}": 1, "{": -1}.get(before[index].text, 0)
        if depth == 0:
            return index > 0 and before[index - 1][:2] == ("command", "frac")
    return False
