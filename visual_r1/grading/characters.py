"""From any script and style to plain characters: `½`, `７`, `𝟏𝟐`, `㎥`, `30∘`, `A̅B̅`, `&deg;`.

A sign that only looks like another one is that other one, by Unicode's table of confusables
(`∘` for `°`, `∆` for `Δ`); compatibility forms are what Unicode decomposes them to (`㎥`, `µ`).
Letters and digits are never taken for others that look the same: a Cyrillic В is not the choice B,
and what is circled, Roman or dotted is no digit.
"""

import html
import re
import unicodedata
from functools import cache, lru_cache
from typing import Any, cast

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

# Fractions in one character.
VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"

# Greek letters as their commands, by the names that Unicode gives them; capitals that look like
# Latin ones have no command.
_GREEK = {
    letter: unicodedata.name(letter).split()[-1].lower().replace("lamda", "lambda")
    for letter in "αβγδεζηθικλμνξπρστυφχψω"
} | {"ϑ": "theta", "ϕ": "phi", "ϵ": "epsilon", "ς": "sigma",
     "Γ": "Gamma", "Θ": "Theta", "Λ": "Lambda", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi",
     "Ω": "Omega", "Π": "Pi", "Ξ": "Xi"}  # fmt: skip

# What a sign means; `_by_look` finds those that look like one of these.
_SIGNS = {
    **dict.fromkeys("−–—‒‐‑﹣－", "-"),
    **dict.fromkeys("×·⋅∙•∗＊✕✖", "*"),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("°º˚ᵒ", "°"),
    **dict.fromkeys("∠∡∢", " \\angle "),
    **dict.fromkeys("△Δ▵▲⊿", " \\triangle "),
    **dict.fromkeys("▱", " \\parallelogram "),
    **dict.fromkeys("⊙◯○", " \\odot "),
    **dict.fromkeys("≈≃≐≒", " \\approx "),
    **dict.fromkeys("≤⩽≦", " \\le "),
    **dict.fromkeys("≥⩾≧", " \\ge "),
    **dict.fromkeys("∥‖⫽", " \\parallel "),
    **dict.fromkeys("≅≌", " \\cong "),
    **dict.fromkeys("∼∽", " \\sim "),
    **dict.fromkeys("'’′‘", "'"),
    **dict.fromkeys('"“”″„«»', '"'),
    **dict.fromkeys("，、", ","),
    **dict.fromkeys("∅⌀", " \\emptyset "),
    **dict.fromkeys("∴⇒⟹", " \\therefore "),
    **dict.fromkeys("∣｜", "|"),
    "∵": " because ",
    "。": ".",
    "…": "...",
    "√": " \\surd ",
    "∛": " \\cbrt ",
    "∜": " \\fourthroot ",
    "≠": " \\ne ",
    "≡": " \\equiv ",
    "∞": " \\infty ",
    "±": " \\pm ",
    "∪": " \\cup ",
    "∩": " \\cap ",
    "∈": " \\in ",
    "∉": " \\notin ",
    "⊥": " \\perp ",
    "⟂": " \\perp ",
    "⟨": " \\langle ",
    "⟩": " \\rangle ",
    "〈": " \\langle ",
    "〉": " \\rangle ",
    "∶": ":",
    "€": " \\euro ",
    "£": " \\sterling ",
    "₹": " \\rupee ",
    "¥": " \\yen ",
    "₩": " \\won ",
    "₽": " \\ruble ",
    "¢": " cents ",
    "‰": " / 1000 ",
    "℃": "°C",
    "℉": "°F",
    "ℝ": " R ",
    "ℤ": " Z ",
    "\u2028": "\n",
    "\u2029": "\n",
    **{
        glyph: " \\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", glyph).split("⁄"))
        for glyph in VULGAR
    },
    **{glyph: f" \\{name} " for glyph, name in _GREEK.items()},
}
_FRACTION = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})[⁄/∕]([₀₁₂₃₄₅₆₇₈₉]{1,9})")
_ROOT_INDEX = re.compile(r"(?<![\w)}\]])([²³⁴⁵⁶⁷⁸⁹])(?=\s?√)")
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SUBSCRIPT_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
# Marks over letters: a bar, an arrow, an arc; over digits: a period that repeats.
_OVER = {
    **dict.fromkeys("\u0304\u0305\u033f\u035e\u0332", "overline"),
    **dict.fromkeys("\u20d7\u20d1\u0362", "overrightarrow"),
    **dict.fromkeys("\u20e1\u034d", "overleftrightarrow"),
    **dict.fromkeys("\u0311\u0361\u0302", "widehat"),
}
_MARKS = "".join(_OVER)
_MARKED_NAME = re.compile(rf"(?:[A-Z][{_MARKS}]{{0,2}}'?){{1,6}}")
_REPEATED = re.compile(r"(?<=[\d.])((?:\d[\u0305\u0304\u0307]){1,9})")
_BAR_BEFORE = re.compile(r"[‾¯]\s?([A-Z]{2,4})[‾¯]?")
_MACRON = re.compile("[ĀĒĪŌŪȲḠ]")

# As HTML reads them, with the semicolon or without; of a number without the zeros in front.
_REFERENCE = re.compile(
    r"&(?:#(?:(?P<base>[xX])0*(?P<hex>[0-9a-fA-F]+)|0*(?P<digits>[0-9]+));?"
    r"|[^\t\n\f <&#;]{1,32};?)"
)
_MOST_DIGITS = 7
_ENTITY = re.compile(r"&(?:#\d{1,6}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_RAISED = re.compile(r"<(su[pb])>([^<>]{1,40})</\1>", re.IGNORECASE)
_LINE = re.compile(r"<br\s*/?>", re.IGNORECASE)


def plain_characters(text: str) -> str:
    """`text` in ASCII as far as it can be; a character that means nothing here stays as it is."""
    if "&" in text or "<" in text:
        text = _without_html(text)
    if text.isascii():
        return text
    text = _FRACTION.sub(
        lambda m: f" \\frac{{{m[1].translate(_SUPERSCRIPTS)}}}{{{m[2].translate(_SUBSCRIPTS)}}}",
        text,
    )
    text = _ROOT_INDEX.sub(lambda m: f" \\sqrt[{m[1].translate(_SUPERSCRIPTS)}] ", text)
    text = re.sub(r"(\\sqrt\[\d\]) \s?√", r"\1 ", text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = _with_bars(text)
    return "".join(one if one.isascii() else _plain(one) for one in text)


def unescaped(text: str) -> str:
    """`text` with the references of HTML (`&deg;`, `&#176;`, `&#xb0;`) as their characters.

    What `html.unescape` gives, for numbers of any length: Python refuses to read one beyond 4,300
    digits. No character has a number of eight digits; HTML shows U+FFFD for it.
    """
    return _REFERENCE.sub(_referred, text) if "&" in text else text


def _referred(found: re.Match[str]) -> str:
    digits = found["hex"] or found["digits"]
    if digits is None:
        return html.unescape(found[0])
    if len(digits) > _MOST_DIGITS:
        return "\ufffd"
    return html.unescape(f"&#{found['base'] or ''}{digits};")


def _without_html(text: str) -> str:
    """Signs that HTML names, raised and lowered text. A number spelled as entities stays one."""
    text = _ENTITY.sub(_named_sign, text)
    text = _RAISED.sub(lambda m: f"{'^' if m[1].lower() == 'sup' else '_'}{{{m[2]}}}", text)
    return _LINE.sub("\n", text)


def _named_sign(entity: re.Match[str]) -> str:
    sign = unescaped(entity[0])
    return entity[0] if sign.isascii() and sign.isalnum() else sign


def _with_bars(text: str) -> str:
    if not any(mark in text for mark in (*_MARKS, "\u0307", "‾", "¯")) and not _MACRON.search(text):
        return text
    text = _MACRON.sub(lambda m: unicodedata.normalize("NFD", m[0]), text)
    text = _REPEATED.sub(lambda m: f"\\overline{{{re.sub(r'[^0-9]', '', m[1])}}}", text)
    text = _BAR_BEFORE.sub(r" \\overline{\1} ", text)
    return _MARKED_NAME.sub(_marked_name, text)


def _marked_name(found: re.Match[str]) -> str:
    over = {_OVER[one] for one in found[0] if one in _OVER}
    name = "".join(one for one in found[0] if one not in _OVER)
    return f" \\{over.pop()}{{{name}}} " if len(over) == 1 and len(name) > 1 else found[0]


@lru_cache(maxsize=4096)
def _plain(one: str) -> str:
    """What one character outside ASCII means; itself where it means nothing here."""
    if one in _SIGNS:
        return _SIGNS[one]
    category = unicodedata.category(one)
    if category == "Nd":
        return str(unicodedata.decimal(one))
    if category == "Zs":
        return " "
    if category == "Cf" or "\ufe00" <= one <= "\ufe0f":
        # Shown as nothing: joiners, marks of direction, invisible operators. The overrides, which
        # turn the order of what is shown around, have no place in an answer and stay.
        return one if unicodedata.bidirectional(one) in _OVERRIDES else ""
    if category == "Pd" and one not in "〜〰":
        return "-"
    same = _decomposed(one, category)
    if same != one:
        return "".join(each if each.isascii() else _plain(each) for each in same)
    if category[0] in "SP" or (category == "Lm" and one < "\u0300"):
        return _by_look(one)
    return one


_OVERRIDES = frozenset(("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI"))


def _decomposed(one: str, category: str) -> str:
    """Another style of the same character (full width, bold), or signs that are one in print."""
    tag, closed, _ = unicodedata.decomposition(one).partition(">")
    plain = unicodedata.normalize("NFKC", one)
    if "㌀" <= one <= "㏿":  # ㎥
        return re.sub(r"(?<=[a-zμ])([23])$", r"^\1", plain)
    if plain[0] == " ":  # a mark that stands alone
        return one
    # Enumerations and numerals (⒎, Ⅶ, ①) are no digits.
    kept = tag in ("<font", "<wide", "<narrow", "<noBreak") or not closed
    if kept or (tag == "<compat" and category not in ("No", "Nl", "So")):
        return plain
    return one


def _by_look(one: str) -> str:
    """The sign that a sign looks like, by Unicode's confusables; itself where there is none."""
    for other in _confusables().get(one, ()):
        sign = other["c"]
        if sign in _SIGNS:
            return _SIGNS[sign]
        if len(sign) == 1 and sign.isascii() and not sign.isalnum():
            return sign
    return one


@cache
def _confusables() -> dict[str, list[dict[str, str]]]:
    # 0.9 MB, only where a sign is unknown.
    from confusable_homoglyphs import (  # pyright: ignore[reportMissingTypeStubs]
        confusables,
    )

    return cast(Any, confusables).confusables_data
