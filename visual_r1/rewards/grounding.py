"""Components of the reward that read the response's words: format and visual grounding.

Grounded is a response that names at least `GROUNDED_THINGS` different things of the figure. Three
kinds of things count, each once however often and in whatever spelling it is named:

1. Listed words (`FIGURE_WORDS`), as whole words, singular or plural: shapes, their parts, and how
   lines lie. Words that a text-only solver needs as well are left out: quantities that are asked
   for (area, perimeter, length), and talk about looking (figure, picture, see), which is free to
   say.
2. Symbols, in Unicode or LaTeX: ∠ △ ⊙ ∥ ⊥ °. A symbol and its word are the same thing: `angle` and
   `∠` count once.
3. What tells one part of the figure from another, directly beside a listed word or symbol: the
   letters of a point, segment or shape after it (`angle A`, `∠ABC`, `segment AC`), or its place in
   front of it (`top angle`, `left side`). Letters or places elsewhere do not count.

So "angle A reads 74, angle B reads 44" names three things (angle, A, B), "width 29, height 35" two,
and "the angle is an angle" one. Words that were copied from the question were not seen in the
figure, and do not count: spans of it do not, and of a response that has three of the words by
which the question names things, or all, in whatever order and with whatever between them, nothing
counts that the question names.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate

from visual_r1.grading.characters import unescaped

GROUNDED_THINGS = 2
# A span of this many words that the question has too was copied; of a shorter question, all of it.
COPIED_WORDS = 4
SHORTEST_QUESTION = 3
# Pieces of this many words, with at most one word changed, added or left out between them, are
# one copy: changing single words of the question does not make it the model's own.
_PIECE = 2
_Piece = tuple[int, int, int]  # where it stands in the response, in the question, its words

FIGURE_WORDS: dict[str, tuple[str, ...]] = {
    # shapes
    "angle": ("angles", "∠", "\\angle", "\\measuredangle", "\\sphericalangle"),
    "triangle": ("triangles", "△", "\\triangle", "\\vartriangle"),
    "circle": ("circles", "⊙", "\\odot", "\\bigcirc"),
    "semicircle": ("semicircles",),
    "square": ("squares",),
    "rectangle": ("rectangles",),
    "rhombus": ("rhombuses", "rhombi"),
    "parallelogram": ("parallelograms", "\\parallelogram"),
    "trapezoid": ("trapezoids", "trapezium"),
    "kite": ("kites",),
    "quadrilateral": ("quadrilaterals",),
    "polygon": ("polygons",),
    "pentagon": ("pentagons",),
    "hexagon": ("hexagons",),
    "octagon": ("octagons",),
    "cylinder": ("cylinders",),
    "cone": ("cones",),
    "sphere": ("spheres",),
    "prism": ("prisms",),
    "pyramid": ("pyramids",),
    # parts
    "point": ("points",),
    "vertex": ("vertices", "vertexes"),
    "side": ("sides",),
    "edge": ("edges",),
    "base": ("bases",),
    "leg": ("legs",),
    "hypotenuse": ("hypotenuses",),
    "altitude": ("altitudes",),
    "median": ("medians",),
    "midpoint": ("midpoints",),
    "midsegment": ("midsegments",),
    "bisector": ("bisectors",),
    "diagonal": ("diagonals",),
    "height": ("heights",),
    "width": ("widths",),
    "radius": ("radii", "radiuses"),
    "diameter": ("diameters",),
    "center": ("centers", "centre", "centres"),
    "arc": ("arcs", "\\widehat", "\\overarc", "\\arc"),
    "chord": ("chords",),
    "sector": ("sectors",),
    "tangent": ("tangents",),
    "secant": ("secants",),
    "line": ("lines", "\\overleftrightarrow"),
    "segment": ("segments", "\\overline"),
    "ray": ("rays", "\\overrightarrow"),
    "transversal": ("transversals",),
    "intersection": ("intersections", "intersect", "intersects"),
    # how they lie
    "parallel": ("∥", "\\parallel"),
    "perpendicular": ("⊥", "\\perp"),
    "°": ("\\circ", "\\degree"),
}
_THING = {
    spelling: thing for thing, others in FIGURE_WORDS.items() for spelling in (thing, *others)
}
_NAMELESS = frozenset(("parallel", "perpendicular", "°", "intersection"))
_PLACES = frozenset(("top", "bottom", "left", "right", "middle", "upper", "lower"))
_MOST_LETTERS = 6

_WORD = re.compile(r"\\?[A-Za-z]+|\d+(?:\.\d+)?|[∠△⊙∥⊥°]")
# What shows as nothing in HTML, Markdown, LaTeX and on a terminal, whatever letters it is of.
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>]*>"
    r"|!?\[\s*\]\([^()]*\)|^[ \t]*(?:`{3,}|~{3,})[ \t]*\w*[ \t]*$"
    r"|\\(?:[hv]?phantom|[hv]space\*?|label|(?:text)?color|begin|end)\s*\{[^{}]*\}"
    r"|\\(?:q?quad|(?:en|thin|med|thick)space|[hv]fill|newline|par|null|relax|left|right"
    r"|(?:no)?indent|displaystyle|[nrt])(?![A-Za-z])"
    r"|\\[A-Za-z]{1,20}(?= ?\{)"  # says what its argument says
    r"|\x1b\[[0-9;]*[A-Za-z]",
    re.DOTALL | re.MULTILINE,
)
_VALUES = frozenset(("INFINITY", "EMPTY SET"))
_OF_A_CHOICE = re.compile(r"(?:CIRCLED|SQUARED|PARENTHESIZED) LATIN")  # the B in its circle
_TAG = re.compile(r"<(think|scan|answer)>")
# So many of the words by which a question names things, or all of them from two on, are the
# question told again: a span of four words hardly has more.
_MOST_NAMING, _FEWEST_NAMING = 3, 2


def format_ok(
    response: str, tags: Sequence[str] = ("think", "answer"), opens_think: bool = False
) -> bool:
    """Whether each tag stands once, in order, is not empty, and nothing but space is outside.

    A tag is empty where no letter or digit is inside: spaces, punctuation, symbols, characters that
    are not assigned and fillers, which Unicode counts as letters and which show as nothing, are no
    content. Nor is markup that shows as nothing: `<br>`, `&nbsp;`, `\\quad`, `\\text{}`. Of symbols
    those are content that are a value by themselves: ∞, ∅, Ⓑ.

    Args:
        response: what the model wrote.
        tags: the tags in their order, such as `("scan", "think", "answer")`.
        opens_think: the prompt's template already wrote `<think>`, so the response begins inside.
            That thought may name the other tags: a model ponders what it was asked for.
    """
    rest = response
    if opens_think:
        thought, closed, rest = response.partition("</think>")
        if (
            not closed
            or "<think>" in response
            or "</think>" in rest
            or not _says_something(thought)
        ):
            return False
        tags = [tag for tag in tags if tag != "think"]
    if any(rest.count(mark) != 1 for tag in tags for mark in (f"<{tag}>", f"</{tag}>")):
        return False
    for tag in tags:
        before, _, rest = rest.partition(f"<{tag}>")
        inside, closed, rest = rest.partition(f"</{tag}>")
        if before.strip() or not _says_something(inside) or not closed:
            return False
    return not rest.strip()


def _says_something(text: str) -> bool:
    """Whether a letter, a digit or a sign that is an answer is left of `text` without markup."""
    return any(map(_is_content, unescaped(_MARKUP.sub(" ", text))))


def _is_content(character: str) -> bool:
    """Whether a character says something: a letter, digit or value that can be seen."""
    name = unicodedata.name(character, "FILLER")
    if unicodedata.category(character)[0] in "LN":
        return "FILLER" not in name
    return name in _VALUES or _OF_A_CHOICE.search(name) is not None


def visual_grounding(response: str, question: str, opens_think: bool = False) -> float:
    """1.0 where the response names at least two different things of the figure, else 0.

    Read is what stands inside closed `<think>` and `<scan>` tags before the answer begins.
    """
    text = opened(response, opens_think)
    of_question: list[str] = _WORD.findall(question)
    asked = [word.casefold() for word in of_question]
    things: set[str] = set()
    said: set[str] = set()
    start = 0
    # A tag inside of a tag is its text: a scan inside the answer is part of the answer.
    while (tag := _TAG.search(text, start)) is not None and tag[1] != "answer":
        start = text.find(f"</{tag[1]}>", tag.end())
        if start < 0:
            break
        words: list[str] = _WORD.findall(text[tag.end() : start])
        said.update(map(_in_one_spelling, words))
        own = not_copied([word.casefold() for word in words], asked)
        things |= named_things(
            [word if is_own else None for word, is_own in zip(words, own, strict=True)]
        )
    naming = {_in_one_spelling(word) for word in of_question if _names(word)}
    if len(naming & said) >= min(_MOST_NAMING, max(len(naming), _FEWEST_NAMING)):
        # Nor do its words in new company: a name or a place that it has at something else.
        of_its_own = things - named_things(of_question)
        of_its_own -= {f"name {min(word, word[::-1])}" for word in of_question}
        of_its_own -= {f"{word} place" for word in asked}
        # Of `Find angle C.` nobody can keep off; one thing more is then enough.
        if not of_its_own or len(naming) > _FEWEST_NAMING:
            things = of_its_own
    return 1.0 if len(things) >= GROUNDED_THINGS else 0.0


def _names(word: str) -> bool:
    """Whether a word of a question names something of the figure."""
    return word.casefold() in _THING or word.casefold() in _PLACES or word.isupper()


def _in_one_spelling(word: str) -> str:
    """`angles` and `∠` are the question's `angle`."""
    return _THING.get(word.casefold(), word.casefold())


def is_figure_word(word: str) -> bool:
    """Whether a word, in lower case, is one of `FIGURE_WORDS` or says where something is."""
    return word in _THING or word in _PLACES


def is_place(word: str) -> bool:
    """Whether a word, in lower case, says where in the figure something is."""
    return word in _PLACES


def opened(response: str, opens_think: bool) -> str:
    """The response with the `<think>` that the template wrote in its place."""
    return f"<think>{response}" if opens_think else response


def spoken(response: str, opens_think: bool) -> str:
    """What is said behind the thought that the template opened: nothing where it never ends."""
    return response.partition("</think>")[2] if opens_think else response


def named_things(words: Sequence[str | None]) -> set[str]:
    """The different things that `words` name; None stands where a word does not count."""
    things: set[str] = set()
    for before, word, after in zip([None, *words], words, [*words[1:], None], strict=False):
        thing = None if word is None else _THING.get(word.casefold())
        if thing is None or (word == "square" and after in ("root", "roots")):
            continue
        things.add(thing)
        if thing in _NAMELESS:
            continue
        if before is not None and before.casefold() in _PLACES:
            things.add(f"{before.casefold()} place")
        # Capitals are the name of a point, a segment or a shape, unless a listed word is shouted.
        if (
            after is not None
            and after.isascii()
            and after.isalpha()
            and after.isupper()
            and len(after) <= _MOST_LETTERS
            and after.casefold() not in _THING
        ):
            things.add(f"name {min(after, after[::-1])}")  # `AB` and `BA` are the same segment
    return things


def not_copied(words: Sequence[str], question: Sequence[str]) -> list[bool]:
    """For each of `words` whether it is the response's own; both sides with one spelling a word."""
    least = max(min(COPIED_WORDS, len(question)), SHORTEST_QUESTION)
    pieces = _common_pieces(words, question)
    followers = _followers(pieces)
    # How many words a copy has that begins with a piece; a piece that follows stands behind.
    sizes = [size for _, _, size in pieces]
    for index in range(len(pieces) - 1, -1, -1):
        following = followers[index]
        sizes[index] += 0 if following is None else sizes[following]
    copied = [size >= least for size in sizes]
    edges = [0] * (len(words) + 1)  # where copies begin (+1) and end (-1)
    for index, (start, _, size) in enumerate(pieces):
        if not copied[index]:
            continue
        edges[start] += 1
        edges[start + size] -= 1
        if (following := followers[index]) is not None:
            copied[following] = True
    return [depth == 0 for depth in accumulate(edges[:-1])]


def _followers(pieces: Sequence[_Piece]) -> list[int | None]:
    """For each piece which one goes on from it, at most one word apart on either side."""
    at = {(start, place): index for index, (start, place, _) in enumerate(pieces)}
    followers: list[int | None] = []
    for start, place, size in pieces:
        ends = ((start + size + n, place + size + m) for n in (0, 1) for m in (0, 1))
        followers.append(next((at[end] for end in ends if end in at), None))
    return followers


def _common_pieces(words: Sequence[str], question: Sequence[str]) -> list[_Piece]:
    """All longest runs of `_PIECE` or more words that both have, by their place in `words`."""
    pieces: list[_Piece] = []
    places: dict[str, list[int]] = {}
    for place, word in enumerate(question):
        places.setdefault(word, []).append(place)
    ending: dict[int, int] = {}  # place in the question -> words of the run that ends there
    for index in range(len(words) + 1):
        here = places.get(words[index], []) if index < len(words) else []
        longer = {place: ending.get(place - 1, 0) + 1 for place in here}
        for place, size in ending.items():
            if place + 1 not in longer and size >= _PIECE:
                pieces.append((index - size, place - size + 1, size))
        ending = longer
    return sorted(pieces)
