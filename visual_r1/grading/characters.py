"""Unicode to plain characters and a small set of LaTeX commands: `½`, `7²`, `−`, `√`, `∠`, `𝟏𝟐`."""

import re
import unicodedata

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


def plain_characters(text: str) -> str:
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
