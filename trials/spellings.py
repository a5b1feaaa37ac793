"""Ways to spell a number, as functions of it: what the tables of `trials.hostile_ways` are made of.

A way spells a whole number and says which pieces of its text a reader must still see to read it,
one who knows the way.
"""

import random
from collections.abc import Callable, Sequence

from num2words import num2words

Spelled = tuple[str, Sequence[str]]  # the text, and the pieces without which it says nothing
Way = Callable[[int, random.Random], Spelled]


def whole(text: str) -> Spelled:
    """A spelling that says nothing once any of it is gone."""
    return text, (text,)


def words(text: str) -> Spelled:
    """A spelling in words, all of which it takes."""
    return text, tuple(text.replace("-", " ").split())


def between_digits(*fillers: str) -> Way:
    """The digits with something between them that shows as nothing, or as little."""

    def spell(value: int, rng: random.Random) -> Spelled:
        return whole(rng.choice(fillers).join(str(value)))

    return spell


def one_of(*forms: str) -> Way:
    """Forms with `{n}` and other numbers made of it; all numbers in it are its pieces."""

    def spell(value: int, rng: random.Random) -> Spelled:
        few = rng.randint(2, 9)
        names = {
            "n": value, "double": 2 * value, "fewer": value - few, "few": few, "more": value + few,
            "before": value - 1, "after": value + 1, "to180": 180 - value, "to360": 360 - value,
            "thrice": 3 * value, "squared": value * value, "half": value // 2,
            "odd": value % 2, "rest": value % 10, "tens": value // 10, "dozen": value // 12,
            "units": value % 12, "scores": value // 20, "left": value % 20,
        }  # fmt: skip
        text = rng.choice(forms)
        used = [name for name in names if f"{{{name}}}" in text]
        spelled = {
            name: num2words(number) if rng.random() < 0.3 else str(number)
            for name, number in names.items()
        }
        return text.format(**spelled), tuple(spelled[name] for name in used)

    return spell


def in_languages(*codes: str) -> Way:
    """The number in words of one of these languages."""

    def spell(value: int, rng: random.Random) -> Spelled:
        return words(num2words(value, lang=rng.choice(codes)))

    return spell


def translated(*forms: tuple[str, str]) -> Way:
    """A calculation in another language: the language of its words, and a form as in `one_of`."""

    def spell(value: int, rng: random.Random) -> Spelled:
        code, form = rng.choice(forms)
        few = rng.randint(2, 9)
        numbers = {"fewer": value - few, "few": few, "half": value // 2, "odd": value % 2}
        spelled = {name: num2words(number, lang=code) for name, number in numbers.items()}
        used = [spelled[name] for name in numbers if f"{{{name}}}" in form]
        return form.format(**spelled), tuple(word for text in used for word in text.split())

    return spell


def in_digits(alphabet: str) -> Way:
    """The digits in another alphabet of ten."""
    signs = alphabet.split()
    return lambda value, _: whole("".join(signs[int(digit)] for digit in str(value)))


def digits_from(first: int) -> Way:
    """The digits in the ten characters that begin at code point `first`."""
    return lambda value, _: whole("".join(chr(first + int(digit)) for digit in str(value)))


def any_of(*ways: Way) -> Way:
    """One of these ways, drawn for each number."""
    return lambda value, rng: rng.choice(ways)(value, rng)
