"""A model's tokenizer, chat template and image arithmetic, without torchvision and without pixels.

transformers' own processors of vision models want a video processor, and that wants torchvision.
Prompts need less: text to tokens, messages to text, and how many visual tokens an image of a size
becomes.
"""

import json
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file  # pyright: ignore[reportUnknownVariableType]

from visual_r1.errors import ModelError
from visual_r1.models import Thinking, model_path
from visual_r1.models.families import ImageGrid, PromptFormat, prompt_format
from visual_r1.opening import read_file


def _byte_alphabet() -> dict[str, int]:
    """Characters to the bytes that they stand for in byte-level BPE (Radford et al., 2019): what
    is printable in Latin-1 stands for itself, the others come behind, from 256 on."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _byte_alphabet()


class _Tokenizer(Protocol):
    """What is used of a transformers tokenizer, typed."""

    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]: ...

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str: ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **variables: Any,
    ) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...


class Processor:
    """The text and image arithmetic of one model; see `load_processor`. Threads may share it."""

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerFast,
        prompt_format: PromptFormat,
        grid: ImageGrid,
    ) -> None:
        """Look up the format's special tokens. Raises `ModelError` when the tokenizer lacks one."""
        self.name = name
        self.tokenizer = tokenizer
        self._text = cast(_Tokenizer, tokenizer)
        self.grid = grid
        # A fast tokenizer is one object in Rust: a thread that sets it up while another uses it
        # fails with "Already borrowed" (huggingface/transformers#47085).
        self._one_thread = threading.Lock()
        vocabulary = self._text.get_vocab()

        def token_id(token: str) -> int:
            if token not in vocabulary:
                raise ModelError(
                    f"the tokenizer of {name!r} has no token {token}; "
                    f"use a {prompt_format.title} model (a hub id or a folder)."
                )
            return vocabulary[token]

        self.image_token = prompt_format.image_token
        """What stands in an image's place in the text of a chat."""
        self.image_token_id = token_id(prompt_format.image_token)
        self.vision_start_id = token_id(prompt_format.vision_start)
        self.vision_end_id = token_id(prompt_format.vision_end)
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        self.added_tokens = {str(token): number for number, token in added.items()}
        """Ids of what the tokenizer finds by name wherever it stands, called special or not."""
        self.added_ids = frozenset(self.added_tokens.values())
        self._added_names = {number: name for name, number in self.added_tokens.items()}
        self.stop_token_ids = [token_id(token) for token in prompt_format.stop_tokens]

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`; nothing is added, and names such as `<|im_end|>` become their ids."""
        with self._one_thread:
            # How long a prompt may be is for the server to say.
            return self._text.encode(text, add_special_tokens=False, verbose=False)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has by itself; names of special tokens count as text."""
        with self._one_thread:
            found = self.tokenizer(
                list(texts),
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )
        return [len(tokens) for tokens in cast("list[list[int]]", found["input_ids"])]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens included."""
        with self._one_thread:
            return self._text.decode(
                list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to the text, in bytes: of a character beyond ASCII maybe a part.

        The texts of tokens joined are those that `decode` makes of them all.
        """
        if (name := self._added_names.get(token)) is not None:
            return name.encode()
        spelt = self._text.convert_ids_to_tokens(token)
        # Tokenizers by bytes spell each byte as a character of this alphabet.
        if spelt is not None and all(character in _BYTES for character in spelt):
            return bytes(_BYTES[character] for character in spelt)
        return self.decode([token]).encode()

    def chat(self, messages: list[dict[str, Any]], thinking: Thinking = "default") -> str:
        """`messages` as the model's chat text, up to where the assistant begins to write.

        `thinking` reaches the chat template as `enable_thinking`, which is left undefined at its
        default; a template that does not know it writes the same either way. Raises `ModelError`
        where the template refuses the chat.
        """
        told = {} if thinking == "default" else {"enable_thinking": thinking == "on"}
        try:
            return self._text.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **told
            )
        except jinja2.TemplateError as error:
            raise ModelError(
                f"the chat template of {self.name!r} refuses this chat ({error}): leave out the "
                "part of the prompt template that it has no place for, such as [system]."
            ) from error

    def image_tokens(self, width: int, height: int) -> int:
        """How many image tokens the model's processor makes of an image of this size."""
        return self.grid.tokens(width, height)


@cache
def load_processor(name: str) -> Processor:
    """The processor of the shipped model, a folder or a hub id; loaded once.

    Raises `ModelError` when there is no such model, or when it is of no family that is known here
    (see `families`).
    """
    path = model_path(name)
    settings, file = _image_settings(path)
    if settings is None:
        raise ModelError(
            f"{name!r} has no settings of images ({file}, or image_processor in {_WHOLE}): it "
            "reads text alone, or is neither a folder nor a model of the hub that can be reached; "
            "check --model.name."
        )
    try:
        tokenizer = cast(
            PreTrainedTokenizerFast,
            AutoTokenizer.from_pretrained(path),  # pyright: ignore[reportUnknownMemberType]
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"the tokenizer of {name!r} cannot be loaded: {error}") from error
    text = cast(_Tokenizer, tokenizer)
    if text.chat_template is None:
        older = _json(path, "chat_template.json") or _json(path, _WHOLE) or {}
        text.chat_template = older.get("chat_template")
    if text.chat_template is None:
        raise ModelError(f"{name!r} has no chat template; use an Instruct or Thinking variant.")
    found = prompt_format((_json(path, "config.json") or {}).get("model_type"))
    try:
        grid = found.image_grid(settings)
    except KeyError as error:
        raise ModelError(f"{file} of {name!r} lacks {error}; use a {found.title} model.") from error
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{file} of {name!r} has a setting of images that is no number ({error}); use a "
            f"{found.title} model."
        ) from error
    return Processor(name, tokenizer, found, grid)


# transformers 5 saves a processor as the one file that holds the settings of its parts; older ones
# wrote those of images into a file of their own.
_WHOLE = "processor_config.json"


def _image_settings(path: str) -> tuple[dict[str, Any] | None, str]:
    """The settings of images, None where there are none, and the file they are read from.

    As transformers does, and so the engine: where both files have them, the one of all parts wins.
    """
    within = (_json(path, _WHOLE) or {}).get("image_processor")
    if isinstance(within, dict):
        return cast("dict[str, Any]", within), _WHOLE
    file = "preprocessor_config.json"
    return _json(path, file), file


def _json(path: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a model folder or hub repository; None where there is none."""
    try:
        found = cached_file(path, file, _raise_exceptions_for_missing_entries=False)  # pyright: ignore[reportUnknownVariableType]
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    try:
        content = json.loads(read_file(Path(found)).decode("utf-8"))
    except OSError as error:
        raise ModelError(f"{found} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{found} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{found} is no JSON object; get that file of the model anew.")
    return cast("dict[str, Any]", content)
