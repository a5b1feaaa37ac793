"""Text from outside in a prompt: words and never control, whatever templates make of it.

A tokenizer finds its added tokens (`<|im_end|>`, but `<think>`, `<tool_call>` and `<|fim_prefix|>`
as well, which are not called special) by their names, wherever they stand. A name that begins with
text from outside is cut behind its first character, and both sides are tokenised apart; all other
text keeps its tokens. Where a name stands is looked for when the text is whole: a template may have
joined two halves.

For that, a character that can begin a name travels through the templates as a stand-in of private
use, which says whose it is; so do image markers. Last, the tokens are counted: where more control
came out than the templates put in (a tokenizer may fold case and width before it looks), the
characters of the outside text are tokenised one by one.
"""

import re
from collections import Counter
from collections.abc import Iterator

from visual_r1.data.problem import IMAGE_MARKER
from visual_r1.models.processor import Processor

# An image's place, an image marker that is only text, a seam (both sides of it are tokenised
# apart), and what makes an escape of the next character.
IMAGE_PLACE, PLAIN_MARKER, SEAM, _ESCAPE = "\ue0a0", "\ue0a1", "\ue0a2", "\ue0a3"
_FIRST_STAND_IN = 0xE0B0
_FIRST_NUMBER = 0xE200  # behind `_ESCAPE`: which reserved character is meant


class OutsideText:
    """Marks text from outside for the templates of one model, and tokenises what they made."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._ids = processor.added_tokens
        # As the tokenizer does: the leftmost, and of those the longest.
        names = sorted(self._ids, key=lambda name: (-len(name), name))
        any_name = "|".join(map(re.escape, names)) or "(?!)"
        self._name = re.compile(any_name, re.DOTALL)
        self._start = re.compile(f"(?={any_name})", re.DOTALL)
        # Spaces are left as they are: templates trim them.
        spaced = "|".join(re.escape(name) for name in names if name[0].isspace()) or "(?!)"
        self._spaced = re.compile(f"(?={spaced})(.)", re.DOTALL)
        firsts = sorted({name[0] for name in names if not name[0].isspace()})
        stand_ins = {first: chr(_FIRST_STAND_IN + i) for i, first in enumerate(firsts)}
        reserved = [IMAGE_PLACE, PLAIN_MARKER, SEAM, _ESCAPE, *stand_ins.values()]
        escapes = {one: _ESCAPE + chr(_FIRST_NUMBER + i) for i, one in enumerate(reserved)}
        self._escaped, self._standing = str.maketrans(escapes), str.maketrans(stand_ins)
        self._meant = {
            **{escape: one for one, escape in escapes.items()},
            **{stand_in: first for first, stand_in in stand_ins.items()},
            PLAIN_MARKER: IMAGE_MARKER,
        }
        self._marked = re.compile("|".join(map(re.escape, self._meant)))
        self._edge = ""

    def guard_against(self, template: str | None) -> None:
        """Look at a template's text in which each outside text is a `SEAM`; None is not known.

        Where the beginning of a name stands before one, it could be completed: then outside texts
        begin with a seam of their own.
        """
        before = [] if template is None else template.split(SEAM)[:-1]
        halves = {name[:end] for name in self._ids for end in range(1, len(name))}
        if template is None or any(text.endswith(half) for text in before for half in halves):
            self._edge = SEAM

    def names_tokens(self, text: str) -> bool:
        """Whether the name of an added token stands in `text`."""
        return self._name.search(text) is not None

    def mark(self, text: str, image: str, *, apart: bool = False) -> str:
        """`text` for a template; its image markers become `image`.

        `apart` puts a seam between all of its characters.
        """
        parts = text.split(IMAGE_MARKER)
        if apart:
            marked = (SEAM.join(one.translate(self._escaped) for one in part) for part in parts)
            return SEAM + (SEAM + image + SEAM).join(marked).translate(self._standing) + SEAM
        text = image.join(part.translate(self._escaped) for part in parts)
        text = self._spaced.sub(rf"\1{SEAM}", text.translate(self._standing))
        return self._edge + text if text else text

    def encode(self, text: str) -> list[int] | None:
        """Tokens of chat text without images; None where outside text came out as control."""
        tokens: list[int] = []
        allowed: Counter[int] = Counter()
        for piece, outside in self._pieces(text):
            tokens += self._processor.encode(piece)
            found = self._name.finditer(piece)
            allowed.update(self._ids[one[0]] for one in found if one.start() not in outside)
        control = Counter(token for token in tokens if token in self._processor.added_ids)
        return None if control - allowed else tokens

    def _pieces(self, text: str) -> Iterator[tuple[str, set[int]]]:
        """What is tokenised apart, as it was meant, with the places where outside text may begin a
        name."""
        for part in text.split(SEAM):
            plain, outside = self._as_meant(part)
            begin = 0
            starts = self._start.finditer(plain) if outside else ()
            cuts = [found.start() + 1 for found in starts if found.start() in outside]
            for end in (*cuts, len(plain)):
                if end > begin:
                    yield plain[begin:end], {place - begin for place in outside}
                begin = end

    def _as_meant(self, part: str) -> tuple[str, set[int]]:
        pieces: list[str] = []
        outside: set[int] = set()
        length = end = 0
        for found in self._marked.finditer(part):
            pieces += [part[end : found.start()], self._meant[found[0]]]
            outside.add(length + found.start() - end)
            length += found.start() - end + len(pieces[-1])
            end = found.end()
        return "".join([*pieces, part[end:]]), outside
