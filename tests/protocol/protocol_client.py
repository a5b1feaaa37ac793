"""What the protocol tests share: data, images, and a client that speaks raw HTTP."""

import io
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx
from PIL import Image, ImageDraw
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.proto.response_conv import deserialize_proto_response

from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.models.processor import load_processor

MODEL = TINY_GEOMETRY
TOKENS = tuple(load_processor(model_path(MODEL)).encode("the angle at A reads 74 degrees"))


def datum(
    tokens: tuple[int, ...] = TOKENS, loss: str = "cross_entropy", scale: float = 1.0
) -> types.Datum:
    """A text example of next-token targets for a loss."""
    length = len(tokens) - 1
    inputs: dict[str, Any] = {"target_tokens": list(tokens[1:])}
    if loss == "cross_entropy":
        inputs["weights"] = [scale] * length
    else:
        inputs |= {"logprobs": [-4.0] * length, "advantages": [scale] * length}
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens[:-1])), loss_fn_inputs=inputs
    )


def bad_datum() -> types.Datum:
    """Targets that do not fit the input."""
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(TOKENS)),
        loss_fn_inputs={"target_tokens": [1, 2], "weights": [1.0, 1.0]},
    )


def png(width: int = 96, height: int = 96) -> bytes:
    """A triangle."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).polygon([(10, 80), (50, 10), (85, 80)], outline="black")
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def image_prompt(
    expected_tokens: int | None = None, picture: bytes | None = None
) -> types.ModelInput:
    """Text, an image between its two marker tokens, text."""
    processor = load_processor(model_path(MODEL))
    return types.ModelInput(
        chunks=[
            types.EncodedTextChunk(tokens=[*TOKENS[:3], processor.vision_start_id]),
            types.ImageChunk(data=picture or png(), format="png", expected_tokens=expected_tokens),
            types.EncodedTextChunk(tokens=[processor.vision_end_id, *TOKENS[3:]]),
        ]
    )


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {condition}"
        time.sleep(0.02)


class RawClient:
    """One session, by hand."""

    def __init__(self, url: str, api_key: str) -> None:
        self.http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"X-API-Key": api_key}, timeout=60, trust_env=False
        )

    def __enter__(self) -> "RawClient":
        body = {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"}
        self.session = self.post("create_session", body)["session_id"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.post(f"sessions/{self.session}/finish", json={})
        self.http.close()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST JSON; the answer must be a success."""
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def model(self, number: int = 0, **lora: Any) -> str:
        """Make a model of rank 4, and wait for it."""
        body = {
            "session_id": self.session,
            "model_seq_id": number,
            "base_model": MODEL,
            "lora_config": {"rank": 4, "seed": 7} | lora,
        }
        result = self.result(self.post("create_model", body)["request_id"])
        model_id: str = result["model_id"]
        return model_id

    def forward_backward(
        self, model_id: str, seq_id: int, data: list[types.Datum], *, forward_only: bool = False
    ) -> str:
        """Send one chunk; return the id of its future."""
        request = types.ForwardBackwardRequest(
            forward_backward_input=types.ForwardBackwardInput(data=data, loss_fn="cross_entropy"),
            model_id=model_id,
            seq_id=seq_id,
        )
        message = forward_backward_request_to_proto(request)
        message.forward_only = forward_only
        response = self.http.post(
            "forward_backward",
            content=message.SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
        )
        assert response.status_code == 200, response.text
        request_id: str = response.json()["request_id"]
        return request_id

    def optim_step(self, model_id: str, seq_id: int, learning_rate: float = 1e-2) -> str:
        """Send an optimizer step; return the id of its future."""
        body = {
            "model_id": model_id,
            "seq_id": seq_id,
            "adam_params": {"learning_rate": learning_rate},
        }
        request_id: str = self.post("optim_step", body)["request_id"]
        return request_id

    def result(self, request_id: str) -> Any:
        """Wait for a future: JSON as a dictionary, protobuf as the SDK's type."""
        while True:
            response = self.http.post(
                "retrieve_future",
                json={"request_id": request_id},
                headers={"Accept": "application/x-protobuf"},
            )
            if response.status_code != 408:
                break
        assert response.status_code == 200, response.text
        if response.headers["content-type"] == "application/x-protobuf":
            kind = types.SampleResponse if ":sample:" in request_id else types.ForwardBackwardOutput
            return deserialize_proto_response(response.content, kind)
        return response.json()

    def logprobs(self, model_id: str, seq_id: int) -> list[float]:
        """What the model gives the tokens of `datum()` now."""
        output = self.result(self.forward_backward(model_id, seq_id, [datum()], forward_only=True))
        values: list[float] = output.loss_fn_outputs[0]["logprobs"].data
        return values
