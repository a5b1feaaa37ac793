"""A chat of several turns to what the model reads, as any client of a chat model asks it.

It goes through the model's own chat template. Names of tokens that the tokenizer calls special
(`<|im_end|>`) are text in a client's message, whoever wrote it; other added tokens (`<think>`) are
what the tokenizer makes of them, as everywhere that chats are tokenised.

With a prompt template the last message is a problem asked in the template's words: a policy is then
asked as it was trained, and the tokens are those of `Prompter`, where nothing of a problem's text
is an added token.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import tinker

from visual_r1.errors import DataError, ModelError
from visual_r1.models import Thinking
from visual_r1.models.processor import Processor
from visual_r1.prompts.images import prepare_image
from visual_r1.prompts.outside import IMAGE_PLACE, PLAIN_MARKER, SEAM, OutsideText
from visual_r1.prompts.prompts import (
    Prompter,
    parts_of,
    require_thinking,
    tokens_between,
    with_images,
)

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A turn: texts and encoded images (PNG or JPEG) in their order."""

    role: Role
    parts: tuple[str | bytes, ...]

    @property
    def images(self) -> tuple[bytes, ...]:
        """Its images."""
        return tuple(part for part in self.parts if isinstance(part, bytes))


class ChatPrompter:
    """Builds the prompts of chats with one model.

    Args:
        processor: the model's tokenizer, chat template and image arithmetic.
        max_pixels: larger images are scaled down to this area.
        thinking: as in `Prompter`; raises `ConfigError` as that does.
        template: of prompts, by its name or path, for the last message; None leaves it as it is.
    """

    def __init__(
        self,
        processor: Processor,
        max_pixels: int,
        thinking: Thinking = "default",
        template: str | None = None,
    ) -> None:
        self._processor, self._max_pixels = processor, max_pixels
        self._thinking: Thinking = thinking
        require_thinking(processor, thinking)
        self._wraps: Prompter | None = None
        if template is not None:
            self._wraps = Prompter(processor, template, max_pixels, thinking)
        self._outside = OutsideText(processor)
        self._guard()
        added = processor.tokenizer.added_tokens_decoder.values()
        names = sorted((str(one) for one in added if not one.special), key=len, reverse=True)
        self._not_special = re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")

    def model_input(self, messages: Sequence[ChatMessage]) -> tinker.ModelInput:
        """The prompt of a chat, up to where the model begins to write.

        Raises `DataError` where the turns are not those of a chat that a user has the last word in,
        where an image cannot be decoded or the model cannot see it, and where the chat template
        leaves images out.
        """
        self._require_chat(messages)
        shown = [
            prepare_image(image, self._max_pixels)
            for message in messages
            for image in message.images
        ]
        for apart in (False, True):
            text = self._text(messages, apart=apart)
            tokens = tokens_between(self._processor, self._outside, text)
            if tokens is None:
                continue
            if len(tokens) != len(shown) + 1:
                raise DataError(
                    f"the chat template of {self._processor.name} has places for "
                    f"{len(tokens) - 1} of the {len(shown)} images of this chat."
                )
            return with_images(self._processor, tokens, shown)
        raise DataError(
            f"a message has a character that {self._processor.name} reads as control: leave it out."
        )

    def _require_chat(self, messages: Sequence[ChatMessage]) -> None:
        roles = [message.role for message in messages]
        if not roles or roles[-1] != "user":
            raise DataError("the last message must be the user's: that is what is answered.")
        if "system" in roles[1:]:
            raise DataError(
                "a system message stands first, and once: chat templates leave others out."
            )
        turns = roles[1:] if roles[0] == "system" else roles
        if turns[0] != "user" or any(one == other for one, other in pairwise(turns)):
            raise DataError("messages of user and assistant must take turns, from the user's on.")
        for message in messages:
            if message.images and message.role != "user":
                raise DataError(f"images stand in the user's messages, not the {message.role}'s.")
        template = None if self._wraps is None else self._wraps.template
        if template is not None and "system" in template.sections and roles[0] == "system":
            raise DataError(
                f"the prompt template {template.path.name} has a system message of its own, which "
                "the policy was trained with: leave yours out."
            )

    def _text(self, messages: Sequence[ChatMessage], *, apart: bool) -> str:
        if self._wraps is None:
            told = [self._told(message, apart=apart) for message in messages]
            return self._processor.chat(told, self._thinking)
        earlier = [self._told(message, apart=apart) for message in messages[:-1]]
        parts, mark = messages[-1].parts, self._wraps.outside.mark
        texts = [part for part in parts if isinstance(part, str)]
        question = mark("".join(texts).strip(), PLAIN_MARKER, apart=apart)
        shown = question
        if len(texts) < len(parts):
            shown = "".join(
                IMAGE_PLACE if isinstance(part, bytes) else mark(part, PLAIN_MARKER, apart=apart)
                for part in parts
            )
        images = len(parts) - len(texts)
        return self._wraps.asked(shown, question, images, "the last message", earlier=earlier)

    def _told(self, message: ChatMessage, *, apart: bool) -> dict[str, Any]:
        """A message as a chat template takes it."""
        marked = "".join(
            IMAGE_PLACE if isinstance(part, bytes) else self._marked(part, apart=apart)
            for part in message.parts
        )
        content = parts_of(marked) if message.role == "user" else marked
        return {"role": message.role, "content": content}

    def _marked(self, text: str, *, apart: bool) -> str:
        """The text with its special names disarmed; each second piece is another added token."""
        pieces = self._not_special.split(text)
        return "".join(
            piece if index % 2 else self._outside.mark(piece, PLAIN_MARKER, apart=apart)
            for index, piece in enumerate(pieces)
        )

    def _guard(self) -> None:
        """Tell `outside` of what a chat template writes around a message of each role."""
        turns: tuple[tuple[Role, ...], ...] = (
            ("user",),
            ("system", "user"),
            ("user", "assistant", "user"),
        )
        for roles in turns:
            messages = [{"role": role, "content": SEAM} for role in roles]
            # A template that has no place for a role says so when it is used.
            with suppress(ModelError):
                self._outside.guard_against(self._processor.chat(messages, self._thinking))
