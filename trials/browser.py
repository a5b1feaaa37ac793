"""Chromium with one page, told what to do over its own protocol: for tests and for pictures.

`program()` is None where it is not installed (`apt-get install chromium`). What is waited for is an
event, however long a busy machine takes to it.
"""

import base64
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from websockets.sync.client import connect

from visual_r1.pages.app import pages

WITHIN_S = 120.0
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars "
    "--remote-debugging-port=0"
)


def program() -> str | None:
    """Where Chromium is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def pages_over(folder: Path, token: str) -> Generator[str]:
    """The address of the pages over the runs in `folder`, for the block."""
    config = uvicorn.Config(pages(folder, token), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_for(is_there: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """What `is_there` returns as soon as it is true; raises `TimeoutError`."""
    deadline = time.monotonic() + within_s
    while not (found := is_there()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not there after {within_s:.0f} s")
        time.sleep(0.1)
    return found


class Page:
    """The one page of a browser."""

    def __init__(self, address: str) -> None:
        self._page = connect(address, max_size=None)
        self._count = 0
        self.said: list[str] = []
        """What scripts wrote to the console, and what the page was refused."""
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self.size(1280, 900)

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """The window's, in pixels of the style sheet."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip

    def prefers(self, scheme: str) -> None:
        """`light` or `dark`, as the system would say."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str) -> None:
        """Go there, and wait until it and its scripts are loaded."""
        self.value("window.left = true")
        self._ask("Page.navigate", url=address)
        self.wait("!window.left && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a script comes to, as JSON; raises `AssertionError` where it fails."""
        answer = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, expression: str, within_s: float = WITHIN_S) -> None:
        """Wait until it is true; a page that is just being left is asked again."""

        def is_there() -> Any:
            try:
                return self.value(f"Boolean({expression})")
            except (AssertionError, RuntimeError):
                return None

        wait_for(is_there, expression, within_s)

    def text(self, selector: str = "body") -> str:
        """What a reader sees of the first such element."""
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def press(self, *keys: str) -> None:
        """Keys one after the other, as `j`, `?`, `Enter`, `Escape`."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9}
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            common: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
            self._ask("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
            self._ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """The first such element."""
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, text: str) -> None:
        """Into the field that has the focus."""
        self._ask("Input.insertText", text=text)

    def picture(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """Leave it."""
        self._page.close()

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        self._count += 1
        self._page.send(json.dumps({"id": self._count, "method": method, "params": values}))
        while True:
            answer = json.loads(self._page.recv(timeout=WITHIN_S))
            self._hear(answer)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _hear(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Log.entryAdded":
            self.said.append(str(given["entry"]["text"]))
        elif message.get("method") == "Runtime.exceptionThrown":
            self.said.append(str(given["exceptionDetails"]))


@contextmanager
def browser(folder: Path) -> Generator[Page]:
    """A page of a new Chromium for the block; its profile and log are in `folder`."""
    path = program()
    assert path is not None, "Chromium is not installed: apt-get install chromium"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [path, *_FLAGS.split(), f"--user-data-dir={folder / 'profile'}"], stdout=log, stderr=log
        )
        try:
            port = folder / "profile" / "DevToolsActivePort"
            wait_for(lambda: port.exists() and len(port.read_text().splitlines()) == 2, "Chromium")
            address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
            [target] = wait_for(
                lambda: [one for one in httpx.get(address).json() if one["type"] == "page"],
                "its page",
            )
            page = Page(target["webSocketDebuggerUrl"])
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            process.wait()
