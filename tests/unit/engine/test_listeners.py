"""Answers leave at once: no half of one waits for the client to acknowledge the other."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import pytest

from visual_r1.engine.process import bind as engine_port
from visual_r1.serving.serve import bind as serving_port


@pytest.mark.parametrize("bind", [partial(engine_port, "127.0.0.1", 0), partial(serving_port, 0)])
def test_what_asyncio_accepts_is_without_delay(bind: Callable[[], socket.socket]) -> None:
    async def accepted() -> int:
        listener = bind()
        delays: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            of_client: socket.socket = writer.get_extra_info("socket")
            delays.set_result(of_client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(look, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            found = await delays
            writer.close()
            return found

    assert asyncio.run(accepted())
