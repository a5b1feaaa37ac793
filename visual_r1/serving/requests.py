"""A request for a chat completion, read strictly: what cannot be done is refused by its name.

Served of OpenAI's parameters are those that a Tinker server has something for, and `top_k`, which
Tinker has and OpenAI has not. Those that say nothing of the answer (`user`, `metadata`) are let
pass, any other that asks for nothing (null, empty, its neutral value) as well.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import from_json

from visual_r1.data.images import BadImage, shown_image
from visual_r1.data.rows import MAX_IMAGES
from visual_r1.prompts.chats import ChatMessage, Role
from visual_r1.serving.refusals import Refusal, invalid

MOST_ANSWERS = 128
MOST_TOP_LOGPROBS = 20
MOST_STOPS = 16
MOST_MESSAGES = 256

_SAY_NOTHING = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"),
    )
)
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
_IMAGE_URL = ', {"url": "data:image/png;base64,…"}'
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Text(_Part):
    type: Literal["text"]
    text: str


class _Url(_Part):
    url: str
    detail: Literal["auto", "high", "low"] = "auto"


class _Image(_Part):
    type: Literal["image_url"]
    image_url: _Url


def _is_list(value: object) -> str:
    return "list" if isinstance(value, list) else "text"


# Where a list is wrong, what is wrong in it is said, and not that it is no text.
_TEXT_OR_LIST = Discriminator(_is_list)
_Content = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[Annotated[_Text | _Image, Field(discriminator="type")]], Tag("list")],
    _TEXT_OR_LIST,
]
_Stop = Annotated[Annotated[str, Tag("text")] | Annotated[list[str], Tag("list")], _TEXT_OR_LIST]


class _Message(_Part):
    role: str
    content: _Content | None = None


class _StreamOptions(_Part):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The parameters that are served; ranges are OpenAI's."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    messages: list[_Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: _Stop | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @property
    def answers(self) -> int:
        """How many answers are wanted."""
        return 1 if self.n is None else self.n

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer, each once."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return list(dict.fromkeys(given))

    @property
    def longest(self) -> int | None:
        """How many tokens an answer may have at most, where the client says it."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises `Refusal` with what is wrong with it."""
    try:
        content: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(content, dict):
        raise invalid("The body is no JSON object.", code="invalid_json")
    given = cast("dict[str, Any]", content)
    served = {name: value for name, value in given.items() if name in ChatRequest.model_fields}
    for name in given.keys() - served.keys() - _SAY_NOTHING:
        if given[name] not in (None, False, [], {}, *_NEUTRAL.get(name, ())):
            raise invalid(
                f"{name} is nothing that a Tinker server can do, or not known here: leave it out.",
                *(name, "unsupported_parameter"),
            )
    try:
        request = ChatRequest.model_validate(served)
    except ValidationError as error:
        place, says = _first_fault(error, served)
        raise invalid(f"{place}: {says}.", place) from error
    _require_sense(request)
    return request


def _first_fault(error: ValidationError, given: object) -> tuple[str, str]:
    """Where the first fault is in what was `given`, and what it is.

    Among pydantic's own places are the names of the kinds that a value might have been of: those
    are nothing that the client wrote.
    """
    fault = error.errors(include_url=False, include_input=False)[0]
    kind, says = fault["type"], fault["msg"]
    place: list[str] = []
    *_, last = fault["loc"]
    for part in fault["loc"]:
        match given, part:
            case dict(), str() if part in given:
                given = cast("dict[str, object]", given)[part]
            case list(), int():
                given = cast("list[object]", given)[part]
            case _:
                continue
        place.append(str(part))
    if kind == "missing":
        place.append(str(last))
    elif kind == "union_tag_not_found":
        says = "Input should have a 'type': 'text' or 'image_url'"
    elif kind.startswith("model"):  # pydantic names our own classes
        says = "Input should be an object"
        says += _IMAGE_URL if place[-1] == "image_url" else ""
    return ".".join(place), says


def _require_sense(request: ChatRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs goes with logprobs: true.", "top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options goes with stream: true.", "stream_options")
    newer, older = request.max_completion_tokens, request.max_tokens
    if newer is not None and older is not None and newer != older:
        raise invalid(
            f"max_tokens is {older} and max_completion_tokens {newer}: give one.", "max_tokens"
        )
    if len(request.stops) > MOST_STOPS or "" in request.stops:
        raise invalid(f"stop is 1 to {MOST_STOPS} texts, none of them empty.", "stop")


def messages_of(request: ChatRequest) -> list[ChatMessage]:
    """The chat, its images decoded and mended as those of a dataset are.

    Raises `Refusal`. It takes as long as decoding takes: not for an event loop.
    """
    found: list[ChatMessage] = []
    images = 0
    for number, message in enumerate(request.messages):
        place = f"messages.{number}"
        role = _ROLES.get(message.role)
        if role is None:
            raise invalid(
                f"The role {message.role!r} is not served: there are {', '.join(_ROLES)}.",
                f"{place}.role",
            )
        content = message.content
        if content is None:
            raise invalid("A message has no content.", f"{place}.content")
        parts: list[str | bytes] = []
        for at, part in enumerate([content] if isinstance(content, str) else content):
            if isinstance(part, _Image):
                images += 1
                if images > MAX_IMAGES:
                    raise invalid(f"There are more than {MAX_IMAGES} images.", place)
                parts.append(_image(part.image_url, f"{place}.content.{at}.image_url"))
            else:
                parts.append(part if isinstance(part, str) else part.text)
        found.append(ChatMessage(role, tuple(parts)))
    return found


def _image(given: _Url, place: str) -> bytes:
    """The picture in a data: URL."""
    head, comma, data = given.url.partition(",")
    if not head.lower().startswith("data:"):
        scheme = given.url.partition(":")[0][:12]
        raise invalid(
            f"An image comes in the request, as data:image/png;base64,…: this server fetches "
            f"nothing and opens no file ({scheme!r}).",
            f"{place}.url",
        )
    if not comma or not head.lower().endswith(";base64"):
        raise invalid("The data: URL of an image is data:image/…;base64,….", f"{place}.url")
    if given.detail == "low":
        raise invalid(
            "Images are shown as the policy was trained on them: leave detail out.",
            f"{place}.detail",
        )
    try:
        return shown_image(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise invalid(f"An image is not base64: {error}.", f"{place}.url") from error
    except BadImage as error:
        raise invalid(f"An image cannot be shown: {error}.", f"{place}.url") from error


def too_long(prompt: int, longest: int, context: int) -> Refusal:
    """The refusal of a prompt of so many tokens, beyond what the context holds."""
    return invalid(
        f"The prompt has {prompt} tokens, images included, and the answer may have {longest}: "
        f"together they must fit the model's context of {context}.",
        *("messages", "context_length_exceeded"),
    )
