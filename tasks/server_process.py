"""The temporary Prefect server as a process: `server_process.py FD` serves on the socket FD.

It ends when its standard input closes, which the death of the run does.

Prefect's own way of starting it takes a port by its number, which another program may take while
one server follows another. A socket that the run itself holds open stays, and who connects while
there is no server waits for the next.
"""

import gc
import importlib
import os
import socket
import sys
import threading

import uvicorn

_APP = "prefect.server.api.server"


def serve(listener: socket.socket) -> None:
    """Serve Prefect's API until the process is told to end."""
    # As in `visual_r1.garbage`, of which this program knows nothing.
    gc.disable()
    importlib.import_module(_APP)
    gc.freeze()
    gc.enable()
    config = uvicorn.Config(
        f"{_APP}:create_app",
        factory=True,
        log_level="error",
        lifespan="on",
        # Whose heads are bounded; by itself uvicorn would take httptools, which has no bound.
        http="h11",
    )
    uvicorn.Server(config).run(sockets=[listener])


def end_with_the_run() -> None:
    """Wait until nobody holds the other side of standard input."""
    while os.read(0, 64):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_run, daemon=True).start()
    serve(socket.socket(fileno=int(sys.argv[1])))
