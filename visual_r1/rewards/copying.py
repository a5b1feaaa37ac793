"""Which words of a response were copied from the question, and so not seen in the figure."""

from collections.abc import Sequence

# A span of this many words that the question has too was copied; of a shorter question, all of it.
COPIED_WORDS = 4
SHORTEST_QUESTION = 3
# Pieces of this many words, with at most one word changed, added or left out between them, are
# one copy: changing single words of the question does not make it the model's own.
_PIECE = 2
_Piece = tuple[int, int, int]  # where it stands in the response, in the question, its words


def not_copied(words: Sequence[str], question: Sequence[str]) -> list[bool]:
    """For each of `words` whether it is the response's own; both sides with one spelling a word."""
    own = [True] * len(words)
    least = max(min(COPIED_WORDS, len(question)), SHORTEST_QUESTION)
    pieces = _common_pieces(words, question)
    for place, piece in enumerate(pieces):
        chain = _chain(pieces, place)
        if sum(size for _, _, size in chain) >= least or piece[2] >= least:
            for start, _, size in chain:
                own[start : start + size] = [False] * size
    return own


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


def _chain(pieces: Sequence[_Piece], first: int) -> list[_Piece]:
    """The pieces that go on from `first`, at most one word apart on either side."""
    chain = [pieces[first]]
    for piece in pieces[first + 1 :]:
        start, place, size = chain[-1]
        gap = (piece[0] - start - size, piece[1] - place - size)
        if gap[0] > 1:
            break
        if 0 <= gap[0] <= 1 and 0 <= gap[1] <= 1:
            chain.append(piece)
    return chain
