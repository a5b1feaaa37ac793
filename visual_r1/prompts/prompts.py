"""A problem to what the model reads: template, chat text, tokens and image chunks.

The tokens are those that the model's own processor makes of the same chat: its chat template is
rendered, each image token in it becomes an image chunk that stands for as many tokens as the image
has visual tokens, and the text between is tokenised as it stands.

A model may think before it answers. Its chat template opens the thought, or closes it empty, in the
words that it puts into the model's mouth; `thinking` is what it is told.

Text of a problem and of a description is never control: where it holds the name of an added token
(`<|im_end|>`, `<think>`), that name is tokenised as plain text; see `outside`. A template's own
text, that of `[system]` too, is its author's, who may well want control there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tinker
from tinker.types import EncodedTextChunk, ImageChunk, ModelInputChunk

from visual_r1.data.problem import IMAGE_MARKER, Problem
from visual_r1.errors import ConfigError, DataError
from visual_r1.hashing import stable_seed
from visual_r1.models import Thinking
from visual_r1.models.processor import Processor
from visual_r1.prompts.images import (
    PromptImage,
    blank_image,
    masked_image,
    prepare_image,
    scaled_size,
)
from visual_r1.prompts.outside import IMAGE_PLACE, PLAIN_MARKER, SEAM, OutsideText
from visual_r1.prompts.templates import VARIABLES, load_template

ImageMode = Literal["full", "blank", "masked", "none"]
Thought = Literal["none", "open", "closed"]

OPEN, CLOSE = "<think>", "</think>"
MASKED_SHARE = 0.6
"""Of a figure's patches, where it is shown masked."""


class Prompter:
    """Builds the prompts of one model and one template.

    Args:
        processor: the model's tokenizer, chat template and image arithmetic.
        template: the name of a shipped template, or a path.
        max_pixels: larger images are scaled down to this area.
        thinking: whether the model thinks before it answers (`model.thinking`). Raises
            `ConfigError` where its chat template always does the other thing.
    """

    def __init__(
        self,
        processor: Processor,
        template: str,
        max_pixels: int,
        thinking: Thinking = "default",
    ) -> None:
        self.processor = processor
        self.template = load_template(template)
        self.max_pixels = max_pixels
        self._thinking: Thinking = thinking
        require_thinking(processor, thinking)
        self._chat_opens_think = turn_begins(processor, thinking) == "open"
        self.outside = self._outside_text()
        """Marks text from outside for this template and this model."""
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
            image: full; blank (white, of the same sizes); masked (`MASKED_SHARE` of the patches
                black, by the problem's id); none (no image and no marker).
            scan: what the template's `scan` variable holds.

        Raises:
            DataError: markers and images do not match in number, an image cannot be decoded, or
                text is read as control even when its characters are tokenised one by one.
            ConfigError: the template wants a scan and none was given.
        """
        if scan is None and self.template.uses_scan:
            raise ConfigError(
                f"the prompt template {self.template.path} needs a scan and there is none; "
                "use a template without {{ scan }}."
            )
        images = self._images(problem, image)
        return with_images(self.processor, self._tokens(problem, len(images), scan or ""), images)

    def _tokens(self, problem: Problem, images: int, scan: str) -> list[list[int]]:
        """The tokens of the text before, between and behind the images.

        Raises `DataError` where text from outside would be control.
        """
        for apart in (False, True):
            text = self.chat_text(problem, images, scan, apart=apart)
            if (tokens := tokens_between(self.processor, self.outside, text)) is not None:
                return tokens
        raise DataError(
            f"problem {problem.id!r} has a character that {self.processor.name} reads as control, "
            "and so cannot be asked: leave that problem out."
        )

    def length(self, problem: Problem, sides: Sequence[tuple[int, int]]) -> int:
        """How many tokens `model_input` makes of a problem whose figures are so wide and high.

        No figure is looked at: `problem.images` may be empty. Raises `DataError` as `model_input`,
        and where the model cannot see a figure of these sides.
        """
        text = sum(map(len, self._tokens(problem, len(sides), "")))
        return text + sum(self.image_tokens(*one) for one in sides)

    def names_tokens(self, text: str) -> bool:
        """Whether a text from outside holds names of added tokens, which a prompt cuts."""
        return self.outside.names_tokens(text)

    def image_tokens(self, width: int, height: int) -> int:
        """How many tokens a figure of these sides takes in a prompt, scaled as it is sent.

        Raises `DataError` where the model cannot see it.
        """
        return self.processor.image_tokens(*scaled_size(width, height, self.max_pixels))

    def _images(self, problem: Problem, mode: ImageMode) -> Sequence[PromptImage]:
        if mode == "none":
            return ()
        try:
            images = [prepare_image(data, self.max_pixels) for data in problem.images]
        except DataError as error:
            raise DataError(f"problem {problem.id!r}: {error}") from error
        if mode == "blank":
            return [blank_image(image.width, image.height) for image in images]
        if mode == "masked":
            seeds = (stable_seed("masked_image", problem.id, place) for place in range(len(images)))
            return [
                masked_image(image, self.processor.grid, MASKED_SHARE, seed)
                for image, seed in zip(images, seeds, strict=True)
            ]
        return images

    def chat_text(
        self, problem: Problem, images: int, scan: str = "", *, apart: bool = False
    ) -> str:
        """The whole chat as text; its image tokens are exactly the images, in order."""
        question = self.outside.mark(problem.question, PLAIN_MARKER, apart=apart)
        shown = self.outside.mark(problem.problem, IMAGE_PLACE, apart=apart)
        marked = self.outside.mark(scan, PLAIN_MARKER, apart=apart)
        what = f"problem {problem.id!r}"
        return self.asked(shown if images else question, question, images, what, scan=marked)

    def asked(
        self,
        shown: str,
        question: str,
        images: int,
        what: str,
        *,
        scan: str = "",
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The chat text that asks, in the template's words, what `outside` has marked.

        Args:
            shown: the problem, with `IMAGE_PLACE` where its images stand.
            question: the same without them.
            images: how many there are.
            what: names the problem in messages.
            scan: of a second pass.
            earlier: messages that come before it; none of them is the system's where the template
                has one.
        """
        values = {"problem": shown, "question": question, "scan": scan}
        user = self.template.render("user", values).replace(IMAGE_MARKER, IMAGE_PLACE)
        messages: list[dict[str, Any]] = []
        system = self.template.render("system", {**values, "problem": question})
        if system:
            messages.append({"role": "system", "content": system})
        messages += map(dict, earlier)
        messages.append({"role": "user", "content": _content(what, user, images)})
        prefill = self.template.render("assistant", {**values, "problem": question})
        return self._begun(self.processor.chat(messages, self._thinking), prefill)

    def _begun(self, chat: str, prefill: str) -> str:
        """The chat with the words that our template puts into the model's mouth.

        A thought that the chat template has opened is not opened a second time.
        """
        if self._chat_opens_think and prefill.startswith(OPEN):
            prefill = prefill.removeprefix(OPEN)
            prefill = prefill.removeprefix("\n") if chat.endswith("\n") else prefill
        return chat + prefill

    def _outside_text(self) -> OutsideText:
        """What marks text from outside, told of all that stands around it in a prompt."""
        outside = OutsideText(self.processor)
        outside.guard_against(_probe(self.processor, self._thinking))
        for section in self.template.sections:
            try:
                around = self.template.render(section, dict.fromkeys(VARIABLES, SEAM))
            except ConfigError:  # it wants more of a problem than this one has
                around = None
            outside.guard_against(around)
        return outside

    def _opens_think(self) -> bool:
        """Whether the assistant's turn begins inside `<think>`, by the template or the model."""
        values = {"problem": "", "question": "", "scan": ""}
        chat = _probe(self.processor, self._thinking).rpartition(SEAM)[2]
        return _thought(self._begun(chat, self.template.render("assistant", values))) == "open"


def turn_begins(processor: Processor, thinking: Thinking) -> Thought:
    """How the model's chat template begins an answer: inside a thought, behind an empty one, or
    with none."""
    return _thought(_probe(processor, thinking).rpartition(SEAM)[2])


def require_thinking(processor: Processor, thinking: Thinking) -> None:
    """Raise `ConfigError` where the model's chat template cannot be told to think, or not to."""
    if thinking == "default" or _probe(processor, "on") != _probe(processor, "off"):
        return
    always = turn_begins(processor, thinking) == "open"
    if thinking == "off" and always:
        raise ConfigError(
            f"model.thinking is off, and the chat template of {processor.name!r} opens a thought "
            "whatever it is told: take a model that can be asked without, or --model.thinking "
            "default with a larger --sampling.max_new_tokens."
        )
    if thinking == "on" and not always:
        raise ConfigError(
            f"model.thinking is on, and the chat template of {processor.name!r} knows no "
            "enable_thinking: take a model that thinks, or --model.thinking default."
        )


def _probe(processor: Processor, thinking: Thinking) -> str:
    return processor.chat([{"role": "user", "content": SEAM}], thinking)


def _thought(begun: str) -> Thought:
    opened, closed = begun.rfind(OPEN), begun.rfind(CLOSE)
    if opened > closed:
        return "open"
    return "closed" if closed >= 0 else "none"


def _content(what: str, user: str, images: int) -> list[dict[str, str]]:
    """The user's message as the parts a chat template takes, an image part at each place."""
    places = user.count(IMAGE_PLACE)
    if images == 0:
        text = user.replace(IMAGE_PLACE, "").strip()
        return [{"type": "text", "text": text}]
    if places == 0:
        return [{"type": "image"}] * images + [{"type": "text", "text": user}]
    if places != images:
        raise DataError(
            f"{what} has {images} images and {places} {IMAGE_MARKER} markers in its prompt; there "
            "must be one marker an image, or none at all."
        )
    return parts_of(user)


def parts_of(marked: str) -> list[dict[str, str]]:
    """Marked text as the parts that a chat template takes, an image part at each `IMAGE_PLACE`."""
    parts: list[dict[str, str]] = []
    for index, text in enumerate(marked.split(IMAGE_PLACE)):
        if index:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def tokens_between(processor: Processor, outside: OutsideText, chat: str) -> list[list[int]] | None:
    """The tokens of a chat's text before, between and behind its images; None where text from
    outside came out as control."""
    parts = [outside.encode(part) for part in chat.split(processor.image_token)]
    tokens = [part for part in parts if part is not None]
    return tokens if len(tokens) == len(parts) else None


def with_images(
    processor: Processor, tokens: Sequence[Sequence[int]], images: Sequence[PromptImage]
) -> tinker.ModelInput:
    """The prompt of the texts' tokens [images + 1] with an image between each two of them."""
    chunks: list[ModelInputChunk] = []
    for index, text in enumerate(tokens):
        if index:
            shown = images[index - 1]
            count = processor.image_tokens(shown.width, shown.height)
            chunks.append(ImageChunk(data=shown.data, format=shown.format, expected_tokens=count))
        if text:
            chunks.append(EncodedTextChunk(tokens=list(text)))
    return tinker.ModelInput(chunks=chunks)
