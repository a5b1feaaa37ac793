"""Which rows cannot be asked about at a run's settings, found before anything is asked.

A prompt and the longest answer must fit the model's context, and the model must be able to see each
figure. Both follow from the sizes that a dataset keeps (`data.sizes`): no figure is opened. Of text
first its bytes are counted, for no token holds less than one. Where that bound is too long, the
text of the row is read and cut into tokens by itself, and where that is near the limit, or beyond
it, the whole prompt is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import IMAGE_MARKER, Problem, Split
from visual_r1.data.sizes import Sides, SplitSizes
from visual_r1.errors import DataError
from visual_r1.prompts.prompts import Prompter

# A text that no template holds, to see how often a problem's text stands in its prompt.
_PROBE = "zqxjkvbw"
# By how many tokens, at each place where a text meets a figure or the template, the whole may
# differ from the sum of its parts.
_SEAM_TOKENS = 8
# So many prompts beyond the limit are built, for their exact length; the others are told about.
_MOST_BUILT = 1000
_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class UnfitRow:
    """A row that cannot be asked about: number `place` of its split, and why."""

    split: Split
    place: int
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class SplitFit:
    """What was found of `rows` rows: the `unfit`, and how long the prompts are.

    `image_tokens` [rows] are those of the figures; `most_tokens` [rows] is what no prompt exceeds,
    the exact length where that decided.
    """

    rows: int
    unfit: tuple[UnfitRow, ...]
    image_tokens: NDArray[np.int64]
    most_tokens: NDArray[np.int64]


def fit_of(
    dataset: Dataset,
    split: Split,
    sizes: SplitSizes,
    prompter: Prompter,
    max_new_tokens: int,
    context: int | None,
) -> SplitFit:
    """Look at every row of a split.

    Args:
        dataset: the text of rows that are near the limit is read from it.
        split: which split.
        sizes: of its rows.
        prompter: of the run.
        max_new_tokens: of an answer.
        context: how many tokens the model's context holds; None where the server does not say.

    Raises `DataError` where the dataset is damaged.
    """
    tokens_of = lru_cache(maxsize=None)(prompter.image_tokens)
    unfit: dict[int, str] = {}
    image_tokens = np.zeros(len(sizes), np.int64)
    for place in range(len(sizes)):
        try:
            image_tokens[place] = sum(tokens_of(*one) for one in sizes.sides_of(place))
        except DataError as error:
            unfit[place] = str(error)
    most = image_tokens + _text_bound(prompter, sizes)
    if context is not None:
        room = context - max_new_tokens
        near = [int(place) for place in np.flatnonzero(most > room) if place not in unfit]
        for place, length in _lengths(dataset, split, sizes, prompter, near, room).items():
            most[place] = length.tokens
            if length.tokens > room:
                unfit[place] = _too_long(sizes.sides_of(place), length, max_new_tokens, context)
    rows = tuple(UnfitRow(split, at, sizes.ids[at], unfit[at]) for at in sorted(unfit))
    return SplitFit(len(sizes), rows, image_tokens, most)


class _Length(NamedTuple):
    tokens: int
    exact: bool


def _text_bound(prompter: Prompter, sizes: SplitSizes) -> NDArray[np.int64]:
    """What the text around and in each problem takes at most, in tokens."""
    around = _around(prompter, sizes, lambda text: len(text.encode()))
    return around + _copies(prompter) * sizes.text_bytes


def _around(prompter: Prompter, sizes: SplitSizes, size: Callable[[str], int]) -> NDArray[np.int64]:
    """The `size` of the prompt of each row without its problem, which depends on its figures'
    number alone."""
    counts, of_row = np.unique(np.diff(sizes.starts), return_inverse=True)
    texts = [prompter.chat_text(_textless(int(count), ""), int(count)) for count in counts]
    return np.array([size(text) for text in texts], np.int64)[of_row]


def _copies(prompter: Prompter) -> int:
    """How often the template shows the problem's text."""
    return max(prompter.chat_text(_textless(1, _PROBE), 1).count(_PROBE), 1)


def _textless(figures: int, text: str) -> Problem:
    return Problem("", (), IMAGE_MARKER * figures + text, "")


def _lengths(
    dataset: Dataset,
    split: Split,
    sizes: SplitSizes,
    prompter: Prompter,
    places: Sequence[int],
    room: int,
) -> dict[int, _Length]:
    """How long the prompts of some rows are; all texts are read where there are any.

    Those that surely fit have the most that they may be, those beyond the first `_MOST_BUILT` that
    surely do not about what they are.
    """
    wanted, found, built = set(places), dict[int, _Length](), 0
    if not wanted:
        return found
    image_token = prompter.processor.image_token
    around = _around(
        prompter,
        sizes,
        lambda text: sum(len(prompter.processor.encode(part)) for part in text.split(image_token)),
    )
    copies = _copies(prompter)
    rows = (
        (place, problem)
        for place, problem in enumerate(dataset.problems(split).without_figures())
        if place in wanted
    )
    while some := list(islice(rows, _TEXTS_AT_ONCE)):
        texts = prompter.processor.lengths([problem.problem for _, problem in some])
        for (place, problem), text in zip(some, texts, strict=True):
            sides = sizes.sides_of(place)
            figures = sum(prompter.image_tokens(*one) for one in sides)
            about = figures + int(around[place]) + copies * text
            doubt = _SEAM_TOKENS * (copies + len(sides))
            certain = not prompter.names_tokens(problem.problem)
            if certain and about + doubt <= room:
                found[place] = _Length(about + doubt, exact=False)
            elif certain and about - doubt > room and built >= _MOST_BUILT:
                found[place] = _Length(about, exact=False)
            else:
                found[place] = _Length(prompter.length(problem, sides), exact=True)
                built += found[place].tokens > room
    return found


def _too_long(sides: Sequence[Sides], length: _Length, answer: int, context: int) -> str:
    shown = ", ".join(f"{wide} x {high}" for wide, high in sides[:3])
    more = f" and {len(sides) - 3} more" if len(sides) > 3 else ""
    about = "" if length.exact else "about "
    return (
        f"its prompt has {about}{length.tokens} tokens with figures of {shown}{more} pixels, and "
        f"with an answer of {answer} that is more than the {context} of the model's context"
    )
