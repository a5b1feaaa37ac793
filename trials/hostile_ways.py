"""Seventy ways to write a number that is not to be read.

Fifty-three ways were written before the rules, and cut in halves by a hash of their names: one was
in sight while the blindfold was built, the other `held out` until it stood. What that showed was
mended, and then seventeen `fresh` ways were written and run once, so that their rate says what the
rules are worth on what nobody thought of. It does so until somebody builds by it.
"""

import base64
import codecs
import random
import re
from collections.abc import Mapping, Sequence

from num2words import num2words

from trials.spellings import (
    Spelled,
    Way,
    any_of,
    between_digits,
    digits_from,
    in_digits,
    in_languages,
    one_of,
    translated,
    whole,
    words,
)
from visual_r1.hashing import stable_seed
from visual_r1.rewards.blindfold.roman import roman_of


def _spaced_letters(value: int, rng: random.Random) -> Spelled:
    letters = num2words(value).replace("-", "").replace(" ", "")
    return whole(rng.choice((" ", "-", ".", ", ", "\u00a0")).join(letters))


def _mixed(value: int, rng: random.Random) -> Spelled:
    tens, ones = value // 10 * 10, value % 10
    return whole(
        rng.choice((f"{tens}-{num2words(ones)}", f"{num2words(tens)}-{ones}", f"{tens} & {ones}"))
    )


def _misspelt(value: int, rng: random.Random) -> Spelled:
    text = num2words(value)
    at = rng.randrange(1, len(text) - 2)
    changed = rng.choice(
        (
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
            text[:at] + text[at] * 2 + text[at:],
            text.replace("t", "tt").replace("n", "nn"),
            text.replace("i", "y").replace("e", "a"),
        )
    )
    return words(changed)


def _base(base: int, letters: Sequence[str]) -> Way:
    """In another base, in one of the forms that are usual for it."""

    def spell(value: int, rng: random.Random) -> Spelled:
        digits, rest = "", value
        while rest:
            digits, rest = "0123456789ABCDEF"[rest % base] + digits, rest // base
        return whole(rng.choice(letters).format(digits))

    return spell


def _binary_in_parts(value: int, rng: random.Random) -> Spelled:
    bits = format(value, "08b")
    return whole(
        rng.choice((f"{bits[:4]} {bits[4:]}", " ".join(bits), f"0b{bits}", f"bits {bits}"))
    )


def _roman_mixed(value: int, rng: random.Random) -> Spelled:
    ones = value % 10 or 2
    tens = value - ones
    unicode_ones = "ⅠⅡⅢⅣⅤⅥⅦⅧⅨ"[ones - 1]
    text, pieces = rng.choice(
        (
            (f"{tens} + {roman_of(ones)}", (str(tens), roman_of(ones))),
            (f"{roman_of(tens)} plus {ones}", (roman_of(tens), str(ones))),
            (f"{tens} and {unicode_ones}", (str(tens), unicode_ones)),
            (" ".join(roman_of(value)), (" ".join(roman_of(value)),)),
            (f"{roman_of(tens)}·{roman_of(ones)}", (roman_of(tens), roman_of(ones))),
        )
    )
    return text, pieces


def _base64(value: int, rng: random.Random) -> Spelled:
    plain = rng.choice((str(value), num2words(value), f"x={value}"))
    return whole(base64.b64encode(plain.encode()).decode())


def _letters_by_number(value: int, rng: random.Random) -> Spelled:
    letters = "JABCDEFGHI"
    spelled = [letters[int(digit)] for digit in str(value)]
    return whole(
        rng.choice(("-", ".", " then ", ", ")).join(spelled)
        if rng.random() < 0.7
        else "letters " + " ".join(spelled).lower()
    )


_MORSE = ["-----", ".----", "..---", "...--", "....-", ".....", "-....", "--...", "---..", "----."]


def _morse(value: int, rng: random.Random) -> Spelled:
    code = rng.choice((" ", " / ", "   ")).join(_MORSE[int(digit)] for digit in str(value))
    if rng.random() < 0.4:
        code = code.replace(".", "·").replace("-", "−")
    if rng.random() < 0.2:
        code = code.replace(".", "dit ").replace("-", "dah ").strip()
    return whole(code)


def _tally(value: int, rng: random.Random) -> Spelled:
    mark = rng.choice(("|", "I", "*", "•", "/", "o", "△"))
    return whole(rng.choice(("/", " ", "  ")).join(mark * int(digit) for digit in str(value)))


_NATO = [
    "juliet", "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india",
]  # fmt: skip
_KEYPAD = ["plus", "pqr", "abc", "def", "ghi", "jkl", "mno", "pqs", "tuv", "wxy"]


def _by_other_names(value: int, rng: random.Random) -> Spelled:
    table = rng.choice((_NATO, _KEYPAD))
    return whole(" ".join(table[int(digit)] for digit in str(value)))


def _turned(value: int, rng: random.Random) -> Spelled:
    return whole(rng.choice((num2words(value)[::-1], f"‮{str(value)[::-1]}")))


def _leet(value: int, rng: random.Random) -> Spelled:
    swapped = num2words(value).translate(str.maketrans("ieot", "1307"))
    return whole(
        swapped
        if rng.random() < 0.7
        else num2words(value).translate(str.maketrans("aeiou", "*****"))
    )


def _emoji(value: int, rng: random.Random) -> Spelled:
    keycaps = "".join(f"{digit}\ufe0f\u20e3" for digit in str(value))
    dice = " ".join("⚀⚁⚂⚃⚄⚅"[max(0, min(5, int(digit) - 1))] for digit in str(value))
    clocks = "".join(chr(0x1F550 + (int(digit) + 11) % 12) for digit in str(value))
    return whole(rng.choice((keycaps, dice, clocks)))


def _escaped(value: int, rng: random.Random) -> Spelled:
    form = rng.choice(("%{:02x}", "\\u{:04x}", "\\x{:02x}", "&#{};", "&#x{:x};", "U+{:04X} "))
    return whole("".join(form.format(ord(digit)) for digit in str(value)))


def _codes(value: int, rng: random.Random) -> Spelled:
    codes = [ord(digit) for digit in str(value)]
    form = rng.choice(("chr({})", "char {}", "{}", "code {}"))
    return whole(" ".join(form.format(code) for code in codes))


def _greek_hebrew(value: int, rng: random.Random) -> Spelled:
    ones, tens = " αβγδεϛζηθ", " ικλμνξοπϟ"
    hebrew_ones, hebrew_tens = " אבגדהוזחט", " יכלמנסעפצ"
    small = value % 100
    greek = (tens[small // 10] + ones[small % 10]).strip()
    hebrew = (hebrew_tens[small // 10] + hebrew_ones[small % 10]).strip()
    return whole(rng.choice((f"{greek}ʹ", hebrew)))


def _romanised(value: int, rng: random.Random) -> Spelled:
    chinese = ["ling", "yi", "er", "san", "si", "wu", "liu", "qi", "ba", "jiu"]
    japanese = ["rei", "ichi", "ni", "san", "yon", "go", "roku", "nana", "hachi", "kyuu"]
    korean = ["yeong", "il", "i", "sam", "sa", "o", "yuk", "chil", "pal", "gu"]
    table, ten = rng.choice(((chinese, "shi"), (japanese, "juu"), (korean, "sip")))
    small = value % 100
    text = (
        f"{table[small // 10]} {ten} {table[small % 10]}"
        if small >= 20
        else f"{ten} {table[small % 10]}"
    )
    return words(text)


def _counts(value: int, rng: random.Random) -> Spelled:
    things = rng.sample(("sides", "lines", "dots", "arrows", "corners", "arcs"), 3)
    parts = [f"{num2words(int(d))} {thing}" for d, thing in zip(str(value), things, strict=False)]
    return rng.choice((" beside ", ", then ", " and ")).join(parts), tuple(parts)


def _acrostic(value: int, _: random.Random) -> Spelled:
    starts = {
        "o": "Outer", "n": "Near", "e": "Each", "t": "Then", "w": "Whole", "h": "Here",
        "r": "Right", "f": "Four", "u": "Under", "i": "Inside", "v": "Very", "s": "Some", "x": "Xs",
        "g": "Great", "z": "Zones",
    }  # fmt: skip
    return whole(" ".join(starts[c] for d in str(value) for c in num2words(int(d)) if c in starts))


def _known_things(value: int, rng: random.Random) -> Spelled:
    things = (
        ("the keys of a piano", 88), ("the cards in a deck", 52), ("the weeks of a year", 52),
        ("the hours in a day", 24), ("the letters of the alphabet", 26), ("a full turn", 360),
    )  # fmt: skip
    thing, size = rng.choice(things)
    apart = abs(value - size)
    way = "more than" if value > size else "fewer than"
    return f"{apart} {way} {thing}", (str(apart), thing)


WAYS: Mapping[str, Way] = {
    # hidden, joined and broken up
    "zero-width characters": between_digits("\u200b", "\u2060", "\u00ad", "\u200d", "\ufeff"),
    "fillers that show as nothing": between_digits("\u3164", "\u2800", "\u115f", "\uffa0",
                                                   "\u180e"),
    "tags between digits": between_digits("<b></b>", "<i>", "</b><b>", "<br/>", "<!-- -->"),
    "entities between digits": between_digits("&nbsp;", "&zwnj;", "&thinsp;", "&#8203;", "&shy;"),
    "markdown between digits": between_digits("****", "__", "``", "*", "~~"),
    "LaTeX between digits": between_digits("{}", "\\,", "\\hspace{0pt}", "}{", "\\mkern1mu", "$$"),
    "signs between digits": between_digits(" ", " . ", "|", " → ", "\n", "; ", " & ", "\t", "/"),
    "digits of other scripts": any_of(*map(digits_from, (0x660, 0x966, 0xFF10, 0x1D7CE, 0x9E6))),
    "digits in circles and boxes": any_of(
        in_digits("⓪ ① ② ③ ④ ⑤ ⑥ ⑦ ⑧ ⑨"), in_digits("⓿ ❶ ❷ ❸ ❹ ❺ ❻ ❼ ❽ ❾"),
        in_digits("🄀 ⒈ ⒉ ⒊ ⒋ ⒌ ⒍ ⒎ ⒏ ⒐"),
    ),
    "letters apart": _spaced_letters,
    "words and digits": _mixed,
    "misspelt words": _misspelt,
    "powers of ten": one_of("{n}0e-1", "0.{n}e2", "{n}.0E0", ".0{n}e3", "{n}00 / 10^2",
                            "0.{n} * 100"),
    "ordinals": lambda value, rng: whole(
        num2words(value, to=rng.choice(("ordinal", "ordinal_num")))
    ),
    "dozens and scores": one_of("{dozen} dozen and {units}", "{scores} score and {left}"),
    "percent and parts": one_of("{n} percent of 100", "{double} halves", "{n}/1", "{n}00%"),
    # other bases and codes
    "hexadecimal": _base(16, ("{}h", "0x{}", "#{}", "${}", "x{}", "{}₁₆", "H'{}'", "16r{}")),
    "octal": _base(8, ("0o{}", "{}₈", "octal {}", "{} base 8", "{}o", "8r{}")),
    "binary in parts": _binary_in_parts,
    "Roman digits in a sum": _roman_mixed,
    "base64": _base64,
    "letters by number": _letters_by_number,
    "Morse": _morse,
    "tally marks": _tally,
    "spelling alphabets": _by_other_names,
    "turned around": _turned,
    "rot13": lambda value, _: words(codecs.encode(num2words(value), "rot13")),
    "letters as digits": _leet,
    "emoji": _emoji,
    "Braille": in_digits("⠚ ⠁ ⠃ ⠉ ⠙ ⠑ ⠋ ⠛ ⠓ ⠊"),
    "escapes": _escaped,
    "character codes": _codes,
    # arithmetic
    "doubling": one_of(
        "double the {half} plus {odd}", "two {half}s and {odd}",
        "{half} and again {half} and {odd}",
        "twice as much as {half}, and {odd}", "{half} two times, {odd} on top",
    ),
    "what is left": one_of(
        "{to180} from 180", "180 once {to180} is gone", "what remains of 180 without {to180}",
        "{more} with {few} cut off", "{to360} short of a full turn", "180 minus the {to180}",
    ),
    "sharing": one_of("{double} : 2", "{double} split in two", "{double} shared by two",
                      "the half of {double}", "{thrice} in three equal parts", "{double}:2"),
    "odd signs": one_of("{fewer} ➕ {few}", "{more} ➖ {few}", "{double} ➗ 2", "{fewer} ⊕ {few}",
                        "{more} ∸ {few}", "{half} ✕ 2 ➕ {odd}", "{half} ⨯ 2 + {odd}"),
    "neighbours": one_of("between {before} and {after}", "the number after {before}",
                         "just above {before}", "{after} less one", "{before} and then one more",
                         "not {before}, not {after}, in the middle"),
    "equations": one_of("C + {to180} = 180", "2C = {double}", "C - {few} = {fewer}",
                        "C/2 = {double}/4", "{to180} + ? = 180", "x^2 = {squared}"),
    "roots and powers": one_of("the root of {squared}", "the side of a square of {squared}",
                               "{squared} under a root", "{squared}^(1/2)", "sqrt {squared}"),
    "calls of functions": one_of("sum({fewer}, {few})", "add {fewer} {few}", "sub({more}, {few})",
                                 "[{fewer}, {few}].sum()", "+ {fewer} {few}", "max({n}, {few})"),
    "programs": one_of("len('x' * {n})", "range({n})[-1] + 1", "for i in 1..{n}", "print {n}"),
    "sums in words": one_of("{fewer} together with {few}", "{fewer}, {few} further",
                            "{fewer} raised by {few}", "{few} on top of {fewer}",
                            "start at {fewer} and go up {few}", "the total of {fewer} and {few}"),
    # languages
    "Romance languages": in_languages("fr", "es", "it", "pt", "ro"),
    "Germanic languages": in_languages("de", "nl", "sv", "da", "no"),
    "Slavic languages": in_languages("pl", "cs", "ru", "uk", "sr"),
    "East Asian languages": in_languages("ja", "ko"),
    "languages elsewhere": in_languages("fi", "tr", "hu", "ar", "he", "lt", "lv", "id", "vi", "kz"),
    "Asian languages in Latin letters": _romanised,
    "calculations in other languages": translated(
        ("fr", "deux fois {half} et {odd}"), ("de", "das Doppelte von {half} und {odd}"),
        ("es", "{fewer} más {few}"), ("it", "{fewer} più {few}"), ("de", "{fewer} und {few} dazu"),
        ("fr", "{fewer} et encore {few}"), ("nl", "{fewer} plus {few}"),
    ),
    "letters that are digits": _greek_hebrew,
    # through what may be said
    "counted things": _counts,
    "first letters": _acrostic,
    "things that all know": _known_things,
}  # fmt: skip


_CARDS = ["ten", "ace", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def _cards(value: int, rng: random.Random) -> Spelled:
    suits = rng.sample(("hearts", "spades", "clubs", "diamonds"), 4)
    return whole(", ".join(f"{_CARDS[int(d)]} of {suits[i % 4]}" for i, d in enumerate(str(value))))


def _pig_latin(value: int, _: random.Random) -> Spelled:
    parts = [re.sub(r"^([^aeiou]*)(.*)$", r"\2\1ay", w) for w in re.split(r"\W", num2words(value))]
    return words(" ".join(parts))


def _caesar(value: int, rng: random.Random) -> Spelled:
    by = rng.randint(1, 12)
    return words("".join(
        chr((ord(c) - 97 + by) % 26 + 97) if c.isalpha() else c for c in num2words(value)
    ))  # fmt: skip


def _styled(first: int, value: int) -> Spelled:
    return whole("".join(chr(first + ord(c) - 97) if c.isalpha() else c for c in num2words(value)))


def _in_base_32(value: int, rng: random.Random) -> Spelled:
    plain = str(value).encode()
    return whole(rng.choice((base64.b32encode(plain), base64.b16encode(plain))).decode())


FRESH_WAYS: Mapping[str, Way] = {
    "further languages": in_languages("eo", "ca", "cy", "is", "be", "sk", "sl", "az", "fa", "bn"),
    "further digits": any_of(*map(digits_from, (0xE50, 0x17E0, 0xAE6, 0x1D7EC, 0x1D7F6))),
    "formal Chinese": lambda value, _: whole(
        "".join("零壹贰叁肆伍陆柒捌玖"[int(digit)] for digit in str(value))
    ),
    "raised and lowered": any_of(
        lambda value, _: whole("".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(value))),
        lambda value, _: whole("".join("₀₁₂₃₄₅₆₇₈₉"[int(d)] for d in str(value))),
    ),
    "struck through": lambda value, _: whole("".join(f"{digit}\u0336" for digit in str(value))),
    "words in another style": lambda value, rng: _styled(
        rng.choice((0xFF41, 0x1D41A, 0x1D51E, 0x24D0)), value
    ),
    "pig Latin": _pig_latin,
    "shifted letters": _caesar,
    "vowels left out": lambda value, _: words(re.sub("[aeiou]", "", num2words(value))),
    "base 32 and 16": _in_base_32,
    "playing cards": _cards,
    "chains": one_of("100 - {few} + {n} + {few} - 100", "{fewer} + {few} + 0", "({n} + {n}) / 2",
                     "3 * {n} / 3", "{squared} / {n}", "10 * {tens} + {rest}", "{thrice} / 3"),
    "nearly": one_of("{before}.9999", "{n}.0001", "{before} + 0.99999", "{n}.00000"),
    "fields": one_of('{{"C": {n}}}', "C={n};", "value:{n}", "<td>{n}</td>", "C:={n}", "C={n}.deg"),
    "counting on": one_of("{fewer} plus one, {few} minus one", "{before}, next",
                          "{after}, previous", "the successor of {before}", "one up from {before}"),
    "exchanged": one_of("{to180} is what it lacks to 180", "with {to180} it makes 180",
                        "together with {to180} a straight angle of 180", "{to360} missing to 360"),
    "lists": one_of("[{fewer}, {few}] added", "{half}, {half} and {odd} added up",
                    "{few} and {fewer} make it", "{more} without {few}", "{double} over 2"),
}  # fmt: skip


ALL_WAYS: Mapping[str, Way] = {**WAYS, **FRESH_WAYS}


def part_of(way: str) -> str:
    """`in sight`, `held out`, `fresh`, or `made up` by `trials.hostile_model`."""
    if way.startswith("made up"):
        return "made up"
    if way in FRESH_WAYS:
        return "fresh"
    return "held out" if stable_seed("held out", way) % 2 == 0 else "in sight"
