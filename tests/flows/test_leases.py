"""A lease that cannot be renewed ends no run."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow_engine
from prefect.settings import PREFECT_API_URL, temporary_settings

Answer = Callable[[int], tuple[int, bytes]]
"""Of the number of a renewal, from 1, what the server says of it."""


@contextmanager
def server_that(answer: Answer) -> Generator[tuple[str, Callable[[int], bool]]]:
    """In the place of Prefect's; its address, and what waits for so many renewals to be asked."""
    asked, more = list[int](), threading.Condition()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            with more:
                asked.append(len(asked) + 1)
                status, body = answer(asked[-1])
                more.notify_all()
            self._answer(status, body)

        def do_GET(self) -> None:
            self._answer(404 if "csrf" in self.path else 200, b"{}")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    def have_come(count: int) -> bool:
        with more:
            return more.wait_for(lambda: len(asked) >= count, 60)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", have_come
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body"), [(410, b'{"detail": "Lease not found"}'), (500, b"<html>"), (404, b"")]
)
def test_a_run_goes_on_where_its_lease_is_lost(
    status: int,
    body: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect's own would throw into the block after its third try."""
    from tasks import leases

    said: list[str] = []
    monkeypatch.setattr(leases.logger, "handle", lambda record: said.append(record.getMessage()))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    lost = 4
    with (
        server_that(lambda number: (status, body) if number <= lost else (204, b"")) as server,
        temporary_settings({PREFECT_API_URL: server[0]}),
        leases.renewed(uuid4(), 300.0, again_after_s=0.01),
    ):
        assert server[1](lost + 1), "it is tried again until it succeeds"
    (once,) = said
    assert "another may begin beside it" in once


def test_a_flow_of_ours_has_its_lease_renewed_so() -> None:
    from flows.train_flow import train
    from tasks import leases

    assert train.name == "train"
    assert getattr(flow_engine, "maintain_concurrency_lease", None) is leases.renewed
