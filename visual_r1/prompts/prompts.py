"""A problem to what the model reads: template, chat text, tokens and image chunks.

The tokens are those that the model's own processor makes of the same chat: its chat template is
rendered, each image token in it becomes an image chunk that stands for as many tokens as the image
has visual tokens, and the text between is tokenised as it stands.

Text of a problem is never control: where it holds a special token's name (`<|im_end|>`), that
name is tokenised as plain text.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import tinker
from tinker.types import EncodedTextChunk, ImageChunk, ModelInputChunk

from visual_r1.data.problem import IMAGE_MARKER, Problem
from visual_r1.errors import ConfigError, DataError
from visual_r1.models.processor import Processor
from visual_r1.prompts.images import PromptImage, blank_image, prepare_image
from visual_r1.prompts.templates import load_template

ImageMode = Literal["full", "blank", "none"]

# Private-use characters that stand for what must not be taken literally while text is put
# together: an image's place, a marker that is only text, and the seam inside a special name. Where
# a problem's own text holds one of them, it travels as an escape and is restored at the end.
_IMAGE_PLACE, _PLAIN_MARKER, _SEAM = "\ue0a0", "\ue0a1", "\ue0a2"
_RESERVED = {
    character: f"\ue0a3{digit}"
    for character, digit in (
        (_IMAGE_PLACE, "0"),
        (_PLAIN_MARKER, "1"),
        (_SEAM, "2"),
        ("\ue0a3", "3"),
    )
}
_RESTORED = {escape: character for character, escape in _RESERVED.items()}
_ESCAPE = re.compile("\ue0a3[0-3]")
_RESERVED_TABLE = str.maketrans(_RESERVED)


class Prompter:
    """Builds the prompts of one model and one template.

    Args:
        processor: the model's tokenizer, chat template and image arithmetic.
        template: the name of a shipped template, or a path.
        max_pixels: larger images are scaled down to this area.
    """

    def __init__(self, processor: Processor, template: str, max_pixels: int) -> None:
        self.processor = processor
        self.template = load_template(template)
        self.max_pixels = max_pixels
        names = sorted(
            str(token)
            for token in processor.tokenizer.added_tokens_decoder.values()
            if token.special
        )
        self._special = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self.opens_think = self._opens_think()
        self.tags = self.template.tags
        if self.opens_think:  # then the thought comes first, whether or not our template names it
            self.tags = ("think", *(tag for tag in self.tags if tag != "think"))

    def model_input(
        self, problem: Problem, image: ImageMode = "full", scan: str | None = None
    ) -> tinker.ModelInput:
        """The prompt for `problem`, up to where the model begins to write.

        Args:
            problem: its `<image>` markers say where the images stand; without markers the images
                come first.
            image: full; blank (white, of the same sizes); none (no image and no marker).
            scan: what the template's `scan` variable holds.

        Raises:
            DataError: markers and images do not match in number, or an image cannot be decoded.
            ConfigError: the template wants a scan and none was given.
        """
        if scan is None and self.template.uses_scan:
            raise ConfigError(
                f"the prompt template {self.template.path} needs a scan and there is none; "
                "use a template without {{ scan }}."
            )
        images = self._images(problem, image)
        text = self._chat_text(problem, len(images), scan or "")
        chunks: list[ModelInputChunk] = []
        for index, piece in enumerate(text.split(self.processor.image_token)):
            if index:
                shown = images[index - 1]
                count = self.processor.image_tokens(shown.width, shown.height)
                chunks.append(
                    ImageChunk(data=shown.data, format=shown.format, expected_tokens=count)
                )
            tokens = self._encode(piece)
            if tokens:
                chunks.append(EncodedTextChunk(tokens=tokens))
        return tinker.ModelInput(chunks=chunks)

    def _images(self, problem: Problem, mode: ImageMode) -> Sequence[PromptImage]:
        if mode == "none":
            return ()
        try:
            images = [prepare_image(data, self.max_pixels) for data in problem.images]
        except DataError as error:
            raise DataError(f"problem {problem.id!r}: {error}") from error
        if mode == "blank":
            return [blank_image(image.width, image.height) for image in images]
        return images

    def _chat_text(self, problem: Problem, images: int, scan: str) -> str:
        """The whole chat as text; its image tokens are exactly the images, in order."""
        question = self._plain(problem.question).replace(IMAGE_MARKER, _PLAIN_MARKER)
        shown = self._plain(problem.problem).replace(IMAGE_MARKER, _IMAGE_PLACE)
        values = {
            "problem": shown if images else question,
            "question": question,
            "scan": self._plain(scan).replace(IMAGE_MARKER, _PLAIN_MARKER),
        }
        user = self.template.render("user", values).replace(IMAGE_MARKER, _IMAGE_PLACE)
        messages: list[dict[str, Any]] = []
        system = self.template.render("system", {**values, "problem": question})
        if system:
            messages.append({"role": "system", "content": system})
        messages.append({"role": "user", "content": _content(problem, user, images)})
        prefill = self.template.render("assistant", {**values, "problem": question})
        return self.processor.chat(messages) + prefill

    def _plain(self, text: str) -> str:
        """Text from outside: reserved characters escaped, names of special tokens broken up.

        A name is broken behind its first character: both halves are then tokenised apart.
        """
        text = text.translate(_RESERVED_TABLE)
        return self._special.sub(lambda found: found[0][0] + _SEAM + found[0][1:], text)

    def _encode(self, piece: str) -> list[int]:
        """Tokens of chat text; both sides of a seam are tokenised apart, so no name is whole."""
        tokens: list[int] = []
        for text in piece.split(_SEAM):
            text = text.replace(_PLAIN_MARKER, IMAGE_MARKER)
            text = _ESCAPE.sub(lambda found: _RESTORED[found[0]], text)
            tokens.extend(self.processor.encode(text))
        return tokens

    def _opens_think(self) -> bool:
        """Whether the assistant's turn begins inside `<think>`, by the template or the model."""
        values = {"problem": "", "question": "", "scan": ""}
        probe = self.processor.chat([{"role": "user", "content": _SEAM}])
        begun = probe.rpartition(_SEAM)[2] + self.template.render("assistant", values)
        return begun.rfind("<think>") > begun.rfind("</think>")


def _content(problem: Problem, user: str, images: int) -> list[dict[str, str]]:
    """The user's message as the parts a chat template takes, an image part at each place."""
    places = user.count(_IMAGE_PLACE)
    if images == 0:
        text = user.replace(_IMAGE_PLACE, "").strip()
        return [{"type": "text", "text": text}]
    if places == 0:
        return [{"type": "image"}] * images + [{"type": "text", "text": user}]
    if places != images:
        raise DataError(
            f"problem {problem.id!r} has {images} images and {places} {IMAGE_MARKER} markers "
            "in its prompt; there must be one marker an image, or none at all."
        )
    parts: list[dict[str, str]] = []
    for index, text in enumerate(user.split(_IMAGE_PLACE)):
        if index:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts
