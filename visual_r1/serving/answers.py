"""What a Tinker server sampled, as a chat completion: whole, or in the pieces of a stream.

Tinker gives an answer when it is complete. So a stream says nothing until then, and its pieces, a
token each, come at once: what reads streams can read it, and sees nothing earlier.

Log-probabilities are those of the model at temperature 1 over its whole vocabulary, whatever
temperature, top_p and top_k the answer was drawn with: Tinker has no others.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tinker

from visual_r1.models.processor import Processor
from visual_r1.serving.refusals import SERVER_FAILED, Refusal

# For a token that a server gave no number to: OpenAI's word for "very unlikely".
_UNLIKELY = -9999.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of an answer: what it adds to the text, its own bytes, how likely it was.

    `text` is empty where the token ends within a character. `top` are the likeliest tokens of its
    place.
    """

    token: int
    text: str
    spelt: bytes
    logprob: float | None
    top: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer, without what ended it: the stop token, or a stop text and what follows.

    `tokens` is how many were sampled, that one included.
    """

    pieces: tuple[Piece, ...]
    finish_reason: str
    tokens: int

    @property
    def text(self) -> str:
        """The whole of it."""
        return "".join(piece.text for piece in self.pieces)


def answer_of(
    processor: Processor, sequence: tinker.SampledSequence, stops: Sequence[str], *, logprobs: bool
) -> Answer:
    """The answer in a sampled sequence. Raises `Refusal` where the server left out what was wanted.

    Its text is that of all tokens, decoded together, up to the first of `stops`.
    """
    tokens = list(sequence.tokens)
    likely, tops = sequence.logprobs, sequence.topk_logprobs
    if logprobs and (likely is None or len(likely) != len(tokens)):
        raise Refusal(
            SERVER_FAILED, "The server returned no log-probabilities.", "no_logprobs", "logprobs"
        )
    shown = len(tokens)
    if tokens and tokens[-1] in processor.stop_token_ids:
        shown -= 1
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[Piece] = []
    for place, token in enumerate(tokens[:shown]):
        spelt = processor.token_bytes(token)
        text = decoder.decode(spelt, final=place == shown - 1)
        top = (tops[place] if tops is not None else None) or ()
        pieces.append(Piece(token, text, spelt, likely[place] if likely else None, top))
    kept = _until(pieces, stops)
    reason = "length" if sequence.stop_reason == "length" and len(kept) == len(pieces) else "stop"
    return Answer(tuple(kept), reason, len(tokens))


def _until(pieces: Sequence[Piece], stops: Sequence[str]) -> Sequence[Piece]:
    """The pieces up to the first stop text; the last of them is cut where it begins."""
    text = "".join(piece.text for piece in pieces)
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not found:
        return pieces
    kept: list[Piece] = []
    left = min(found)
    for piece in pieces:
        if left <= 0:
            break
        cut = piece.text[:left]
        kept.append(
            Piece(piece.token, cut, piece.spelt, piece.logprob, piece.top)
            if len(cut) < len(piece.text)
            else piece
        )
        left -= len(piece.text)
    return kept


@dataclass(frozen=True, slots=True)
class Completion:
    """The answers to one request, and what they took.

    `id` is what the client may quote, `created` seconds since 1970, `model` as it was asked for.
    `logprobs` says whether they are wanted, `prompt_tokens` counts images as the model reads them.
    """

    id: str
    created: int
    model: str
    processor: Processor
    answers: tuple[Answer, ...]
    logprobs: bool
    prompt_tokens: int
    cached_tokens: int

    def to_json(self) -> dict[str, Any]:
        """The whole, as it comes without a stream."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": answer.finish_reason,
                "logprobs": self._logprobs(answer.pieces),
            }
            for index, answer in enumerate(self.answers)
        ]
        return self._said("chat.completion", choices) | {"usage": self.usage}

    def chunks(self, *, usage: bool) -> Iterator[dict[str, Any]]:
        """The pieces of a stream behind its `beginning`, a token each, answer by answer."""
        for index, answer in enumerate(self.answers):
            for piece in answer.pieces:
                yield self._chunk(index, {"content": piece.text}, pieces=[piece])
            yield self._chunk(index, {}, finish_reason=answer.finish_reason)
        if usage:
            yield self._said("chat.completion.chunk", []) | {"usage": self.usage}

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, as OpenAI counts them: the prompt once, whatever n is."""
        sampled = sum(answer.tokens for answer in self.answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": sampled,
            "total_tokens": self.prompt_tokens + sampled,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def _said(self, kind: str, choices: Sequence[object]) -> dict[str, Any]:
        return said(self.id, self.created, self.model, kind, choices)

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        pieces: Sequence[Piece] = (),
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": self._logprobs(pieces) if pieces else None,
        }
        return self._said("chat.completion.chunk", [choice])

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            _token(piece.spelt, piece.logprob)
            | {
                "top_logprobs": [
                    _token(self.processor.token_bytes(token), logprob)
                    for token, logprob in piece.top
                ]
            }
            for piece in pieces
        ]
        return {"content": content, "refusal": None}


def _token(spelt: bytes, logprob: float | None) -> dict[str, Any]:
    return {
        "token": spelt.decode("utf-8", "replace"),
        "bytes": list(spelt),
        "logprob": _UNLIKELY if logprob is None else max(logprob, _UNLIKELY),
    }


def said(id: str, created: int, model: str, kind: str, choices: Sequence[object]) -> dict[str, Any]:
    """What completions and chunks have in common."""
    return {"id": id, "object": kind, "created": created, "model": model, "choices": choices}


def beginning(id: str, created: int, model: str, answers: int) -> Iterator[dict[str, Any]]:
    """The first chunks of a stream: who speaks, before there is anything to say."""
    for index in range(answers):
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
        yield said(id, created, model, "chat.completion.chunk", [choice])
