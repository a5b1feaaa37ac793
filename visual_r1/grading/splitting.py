"""A sequence of tokens into its parts."""

from collections.abc import Sequence

from visual_r1.grading.spelling import Token

_OPENING = {
    **dict.fromkeys(("(", "{", "[", "\\{", "⟨"), 1),
    **dict.fromkeys((")", "}", "]", "\\}", "⟩"), -1),
}


def split(
    tokens: Sequence[Token], separators: Sequence[str]
) -> tuple[list[Sequence[Token]], list[str]]:
    """The parts between the `separators` outside all brackets, and the separators in between."""
    parts: list[Sequence[Token]] = []
    found: list[str] = []
    depth = start = 0
    for index, token in enumerate(tokens):
        depth += _OPENING.get(token.text, 0) if token.kind == "symbol" else 0
        if depth == 0 and token.kind != "number" and token.text.lower() in separators:
            parts.append(tokens[start:index])
            found.append(token.text.lower())
            start = index + 1
    parts.append(tokens[start:])
    return parts, found


def opening(tokens: Sequence[Token]) -> int | None:
    """Index of the bracket that the last token closes, or None."""
    depth = 0
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        depth -= _OPENING.get(token.text, 0) if token.kind == "symbol" else 0
        if depth <= 0:
            return index if depth == 0 and index < len(tokens) - 1 else None
    return None
