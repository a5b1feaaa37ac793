"""From what a model or a textbook writes to a short list of tokens.

`canonical` brings a text to plain characters and a small set of LaTeX commands, `tokenise` cuts it
up. LaTeX, Unicode and plain spelling of the same thing end as the same tokens: `\\dfrac{1}{2}`,
`½` and `\\frac { 1 } { 2 }`; `30^{\\circ}`, `30º` and `30°`; `1{,}200` and `1,200`; `√5`,
`\\sqrt{5}` and `the square root of 5`.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from visual_r1.grading.characters import plain_characters
from visual_r1.grading.eastern import in_english
from visual_r1.grading.phrases import plain_words, unwrapped

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
    r"|\\hspace\s*\{[^{}]*\}|\\(?:text)?color\s*\{[A-Za-z0-9!]*\}|\\[,;:> ]|\\\\"
)
_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|textup|mathrm|mathbf|mathit|mathsf"
    r"|mathtt|mathnormal|operatorname|mbox|bm|boldsymbol|emph)\s*\{"
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
# "This is right", said of an answer.
_TICKS = "✓✔✅☑\ufe0f \t\n"
_BOLD = re.compile(r"(?<![\w)}\].])\*\*(?=\S)([^*]+?)\*\*(?![\w({]|\\[A-Za-z])")


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """Bring `text` to plain characters and a small set of LaTeX commands.

    Raises:
        Unreadable: longer than `MAX_CHARACTERS` once the white space around it is gone.
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"longer than {MAX_CHARACTERS} characters")
    text = plain_characters(in_english(text.strip(_TICKS)))
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()
    text = _without_markdown(unwrapped(_without_markdown(text)))
    text = _TEXT_SIGN.sub(r"\\\1 ", text)
    text = _without_dollars(text).replace("\\%", "%")
    if "\\begin" in text:
        text = _ENVIRONMENT.sub(_in_brackets, text)
    text = re.sub(r"(?<=\s)&(?=\s)", "and", text)
    if "~" in text:
        text = _SIMILAR.sub(r" \\sim ", text).replace("~", " ")
    text = re.sub(r"\\+[()\[\]]", " ", text).replace("\\!", "")
    text = re.sub(r"^\\boxed\s+(?=[^\s{])", "", _with_box_opened(text.strip()))
    text = re.sub(r"\\text\s*\{([,:])\}", r"{\1}", text).replace("{:}", ":")
    text = re.sub(r"(?<=[\[{, ])'([^'\[\]]{1,40})'(?=\s*[,\]}])", r"\1", text)
    text = re.sub(r"\\Delta\s*(?=[A-Z]\s?[A-Z]\s?[A-Z])", r"\\triangle ", text)
    text = re.sub(r"\\ang\s*\{(\d[\d.]*)\}", r"\1°", text)
    text = _with_lines_listed(text)
    # Twice: `$12,345$, ...` and a thousand inside \text{} both become visible only afterwards.
    text = _THOUSANDS.sub(_joined, text)
    text = _LAYOUT.sub(" ", _ARC.sub("\\\\widehat ", text))
    text = _without_fonts(text)
    text = _SPACED_THOUSANDS.sub(_joined, _THOUSANDS.sub(_joined, text))
    # 40°30' is (40+30/60+0/3600)°.
    text = _MINUTES.sub(lambda m: f"({m[1]}+{m[2]}/60+{m[3] or 0}/3600)°", _DEGREE.sub("°", text))
    text = _TIMES.sub("*", _REPEATING.sub(_as_fraction, text))
    text = plain_words(_BOLD.sub(r"\1", text.strip()).replace("**", "^").strip())
    text = re.sub(r"(?<=[A-Z}]) ?(?:\|\||//) ?(?=[A-Z\\])", r" \\parallel ", text)
    text = re.sub(r"^([a-z]) ?(?:\|\||//) ?([a-z])$", r"\1 \\parallel \2", text)
    text = re.sub(r"(?<=[A-Za-z]{2})\.(?=\s|$|\^)", "", text)  # sq. ft, in.^2
    text = re.sub(r"(?<=\b[a-z]{2})\.(?=[a-z]{2})", " ", text)  # sq.cm
    return re.sub(r"[\s.,;:\\]+$", "", text.strip())


# As Pandoc reads dollars: what opens mathematics touches it, what closes it touches it as well, and
# no digit follows. A dollar that is neither stands for money.
_MATH = re.compile(r"\$(?=\S)([^$]*)(?<=\S)\$(?!\d)")
_MONEY = re.compile(r"\$\s*(?=[\d.])")
# All of the text, whatever blanks are at its ends; some sources escape the dollar that closes it.
_ALL_MATH = re.compile(r"\$([^$]+?)\s*\\*\$")
# LaTeX's names of signs in running text: \textdollar.
_TEXT_SIGN = re.compile(r"\\text(dollar|euro|sterling|yen|won|rupee|degree)(?![A-Za-z])")


def _without_dollars(text: str) -> str:
    if "$" not in text:
        return text
    if whole := _ALL_MATH.fullmatch(text):
        return whole[1]
    text = _MATH.sub(r" \1 ", text.replace("\\$", " \\dollar ").replace("$$", " "))
    return _MONEY.sub(r" \\dollar ", text).replace("$", " ")


# A line ends. Two backslashes in front of a command are one that was escaped, and end none.
_BREAK = re.compile(r"(?P<end>\n|\\\\(?![A-Za-z]{2}))|(?P<opens>[(\[{])|[)\]}]")
# What stands by itself: a value, or a name and what it is equal to.
_STATEMENT = re.compile(
    r"(?!(?:or|and|so|thus|hence|then|therefore|because|since|which|where|with|is|are|equals?|to"
    r"|of)\b"
    r"|\\(?:approx|sim|cdot|times|div|pm|le|ge|ne|to|cup|in|because"
    r"|therefore|implies|iff|(?:Long|long)?[Rr]ightarrow|text)(?![A-Za-z]))"
    r"(?=[A-Za-z\d\\(\[.]).*?[\d=]",
    re.IGNORECASE | re.DOTALL,
)
_GOES_ON = re.compile(r"(?:[-+*/=<>,;:^_|]|\b(?:or|and|is|are)|\\[A-Za-z]+)\s*$", re.IGNORECASE)


def _with_lines_listed(text: str) -> str:
    """`x = 10⏎y = 20` with a comma for the end of the line; what goes on in the next line does."""
    if "\n" not in text and "\\\\" not in text:
        return text
    lines = _lines(text)
    # A star in front of all of the text is gone by now.
    for bullet, first in (("- ", 0), ("* ", 1)):
        if all(line.startswith(bullet) and "=" in line for line, _ in lines[first:]):
            lines = [(line.removeprefix(bullet).strip(), end) for line, end in lines]
    out = lines[0][0]
    for (before, end), (line, _) in pairwise(lines):
        apart = _STATEMENT.match(before) and _STATEMENT.match(line) and not _GOES_ON.search(before)
        out += f", {line}" if apart else f"{end}{line}"
    return out


def _lines(text: str) -> list[tuple[str, str]]:
    """The lines that are not empty, with what ended each; in brackets none ends."""
    lines: list[tuple[str, str]] = []
    start = depth = 0
    for found in _BREAK.finditer(text):
        if not found["end"]:
            depth += 1 if found["opens"] else -1
        elif depth <= 0:
            lines.append((text[start : found.start()], found["end"]))
            start = found.end()
    lines = [(_without_markdown(line.strip()), end) for line, end in (*lines, (text[start:], ""))]
    return [line for line in lines if line[0]] or [("", "")]


# `~` is similarity between two figures, "about" in front of a number, and else TeX's blank.
_SIMILAR = re.compile(
    r"(?<=[A-Z'}])\s*~\s*(?=[A-Z]|\\(?:triangle|overline|text|mathrm|square))|^~(?=\s*[\d.])|(?<=\s)~(?=\s)"
)
_ENVIRONMENT = re.compile(
    r"\\begin\s*\{([a-zA-Z]{1,12}\*?)\}(?:\s*\{[lcr|]{1,12}\})?(.*?)\\end\s*\{\1\}", re.DOTALL
)


def _in_brackets(found: re.Match[str]) -> str:
    """A matrix as `\\matrix((1,2),(3,4))`; what only stands in lines as a list."""
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr\b", found[2])]
    rows = [row for row in rows if row]
    if "matrix" in found[1] or (found[1] == "array" and any("&" in row for row in rows)):
        cells = ("(" + ", ".join(cell.strip() for cell in row.split("&")) + ")" for row in rows)
        return f" \\matrix({', '.join(cells)}) "
    return ", ".join(row.replace("&", "") for row in rows)


def _without_fonts(text: str) -> str:
    """What stands in `\\text{}`, `\\mathbf{}` and the like, however deep the braces inside."""
    at = 0
    while (found := _FONT.search(text, at)) is not None:
        at, end = found.start(), matching_brace(text, found.end())
        if end is None:
            at = found.end()
        else:
            text = f"{text[:at]} {text[found.end() : end]} {text[end + 1 :]}"
    return text


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
                # A fence may name its language.
                text = (_LANGUAGE.sub("", inside) if mark == "```" else inside).strip()
    return text


_LANGUAGE = re.compile(r"^[A-Za-z]{2,10}[ \t]*\n")
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
