"""Who may enter, and with how much."""

import httpx
import pytest
import tinker
from protocol_client import RawClient

from visual_r1.engine.launch import RunningEngine
from visual_r1.engine.server.app import BODY_LIMIT


@pytest.mark.parametrize("key", ["", "tml-", "tml-wrong", "äöü"])
def test_a_wrong_key_is_refused(engine: RunningEngine, key: str) -> None:
    headers = {"X-API-Key": key.encode("latin-1")}
    with httpx.Client(base_url=f"{engine.url}/api/v1", trust_env=False) as client:
        for method, path in (
            ("GET", "get_server_capabilities"),
            ("POST", "create_session"),
            ("GET", "checkpoints"),
            ("GET", "no/such/path"),
        ):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401 and "X-API-Key" in response.json()["detail"]
        assert client.get("healthz").json() == {"status": "ok"}


def test_the_sdk_names_the_key(engine: RunningEngine) -> None:
    with pytest.raises(tinker.AuthenticationError, match="X-API-Key"):
        tinker.ServiceClient(base_url=engine.url, api_key="tml-not-this-one").holder  # noqa: B018


def test_the_engine_listens_on_loopback(engine: RunningEngine) -> None:
    assert engine.url.startswith("http://127.0.0.1:")
    assert engine.api_key not in repr(engine)


def test_oversized_bodies_are_refused_and_the_connection_serves_on(raw: RawClient) -> None:
    large = b"x" * (BODY_LIMIT + 1)

    def pieces() -> object:
        for start in range(0, len(large), 1 << 20):
            yield large[start : start + (1 << 20)]

    for content in (large, pieces()):
        response = raw.http.post("forward_backward", content=content)  # type: ignore[arg-type]
        assert response.status_code == 413
        assert str(BODY_LIMIT) in response.json()["detail"]
    assert raw.http.get("get_server_capabilities").status_code == 200


def test_a_zstd_body_is_bounded_after_unpacking(raw: RawClient) -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(BODY_LIMIT + 1))
    response = raw.http.post("forward_backward", content=bomb, headers={"Content-Encoding": "zstd"})
    assert response.status_code == 400 and "unpacked" in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "training_runs/abcdef12:train:0/checkpoints/weights/..%2f..%2f..%2fx"),
        ("DELETE", "training_runs/..%2f..:train:0/checkpoints/weights/x"),
        ("DELETE", "training_runs/abcdef12:train:0/checkpoints/elsewhere/x"),
        ("GET", "download/abcdef12:train:0/x/..%2fmanifest.json?expires=1&signature=x"),
        ("PUT", "training_runs/abcdef12:train:0/checkpoints/weights/.x/ttl"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(raw: RawClient, method: str, path: str) -> None:
    body = {"ttl_seconds": 3600} if method == "PUT" else None
    assert raw.http.request(method, path, json=body).status_code in (400, 403, 404)


def test_bodies_without_sense_are_refused(raw: RawClient) -> None:
    for path, body in (
        ("create_session", {}),
        ("optim_step", {"seq_id": "one"}),
        ("weights_info", {"tinker_path": "file:///etc/passwd"}),
        ("retrieve_future", {"nothing": 1}),
    ):
        response = raw.http.post(path, json=body)
        assert 400 <= response.status_code < 423 and response.status_code not in (402, 408, 409)
        assert response.json()["detail"]
    response = raw.http.post("forward_backward", content=b"\xff\xff not protobuf")
    assert response.status_code == 400 and "ForwardBackwardRequest" in response.json()["detail"]
