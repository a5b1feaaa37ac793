"""`ForwardBackwardRequest` in protobuf: counted before it is parsed.

Two bytes are enough for an empty message, which takes seventy once it is parsed. So the fields on
the wire are counted first, and what holds more than a request of this model can need is refused.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal

import zstandard
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from tinker.proto import tinker_public_pb2 as pb

from visual_r1.engine.server.wire import BODY_LIMIT
from visual_r1.engine.types import InvalidRequest
from visual_r1.hashing import content_digest

DATA_AT_ONCE = 1024
"""More than the SDK sends in one request."""
FIELDS_A_DATUM = 64
"""It has about 30: a piece of text, an image, four tensors."""
FIELDS_A_TOKEN = 4
"""A piece of a prompt has a token at least, and three fields or four."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def parse_forward_backward(
    body: bytes, encoding: str | None, context_length: int, limit: int = BODY_LIMIT
) -> tuple[pb.ForwardBackwardRequest, str]:
    """Parse a `ForwardBackwardRequest`; also a digest of what it says, however it was packed.

    Raises `InvalidRequest` when it is none, or larger than a request for a context of so many
    tokens can be.
    """
    if encoding == "zstd":
        try:
            # Not `decompress`: that trusts the size which the frame itself claims.
            body = zstandard.ZstdDecompressor().stream_reader(body).read(limit + 1)
        except zstandard.ZstdError as error:
            raise InvalidRequest(f"the body is not zstd: {error}.") from error
        if len(body) > limit:
            raise InvalidRequest(
                f"the body has more than {limit} bytes once unpacked: send fewer data at a time."
            )
    most = DATA_AT_ONCE * FIELDS_A_DATUM + FIELDS_A_TOKEN * context_length
    request = pb.ForwardBackwardRequest()
    try:
        if _fields(body, 0, len(body), pb.ForwardBackwardRequest.DESCRIPTOR, most) > most:
            raise InvalidRequest(
                f"the request has more than {most} fields, which no {DATA_AT_ONCE} data of a model "
                f"with a context of {context_length} tokens need: send fewer data at a time."
            )
        request.ParseFromString(body)
    except (DecodeError, _Torn) as error:
        raise InvalidRequest(f"the body is not a ForwardBackwardRequest: {error}.") from error
    return request, content_digest(request.SerializeToString(deterministic=True))


class _Torn(Exception):
    """The bytes end within a field, or are no fields."""


def _fields(body: bytes, at: int, end: int, message: Descriptor, most: int) -> int:
    """How many fields a message has on the wire, those of messages in it included.

    A packed list counts by its bytes. Stops when there are more than `most`.
    """
    inner = _inner(message)
    count = 0
    while at < end and count <= most:
        count += 1
        # Nearly all are of one byte, and a call for each would take most of the time.
        if (tag := body[at]) < 128:
            at += 1
        else:
            tag, at = _varint(body, at, end)
        kind = tag & 7
        if kind == _LENGTH:
            if at < end and (length := body[at]) < 128:
                at += 1
            else:
                length, at = _varint(body, at, end)
            if length > end - at:
                raise _Torn("it ends within a field")
            within = inner.get(tag >> 3)
            if within == "packed":
                count += length
            elif within is not None:
                count += _fields(body, at, at + length, within, most - count)
            at += length
        elif kind == _VARINT:
            _, at = _varint(body, at, end)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _Torn(f"it has a field of the kind {kind}")
    if at > end:
        raise _Torn("it ends within a field")
    return count


@cache
def _inner(message: Descriptor) -> Mapping[int, Descriptor | Literal["packed"]]:
    """By number, what the fields of a message hold more of, where they have a length: a message, or
    numbers in a list."""
    found: dict[int, Descriptor | Literal["packed"]] = {}
    for number, field in message.fields_by_number.items():
        if field.message_type is not None:
            found[number] = field.message_type
        elif field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
            found[number] = "packed"
    return found


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where what follows it begins."""
    number = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise _Torn("it ends within a number")
