"""The pictures of docs/images that show Prefect's pages: made here, by a browser, of a real run.

    python scripts/take_pictures.py                                  # the quickstart, whole
    python scripts/take_pictures.py --override train.steps=20        # sooner
    python scripts/take_pictures.py --server http://127.0.0.1:4200   # of a run that is there

It starts a Prefect server and a worker of its own, runs the deployment `train/quickstart`, and has
Chromium (`apt-get install chromium`) show the pages of what came of it. Look at them before they
are committed: whether a page looks right, no program says.
"""

import argparse
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from websockets.sync.client import connect

ROOT = Path(__file__).parents[1]
PREFECT = [sys.executable, "-m", "prefect"]
WITHIN_S = 300.0
FADED_IN_S = 2.0
"""Prefect's pages fade in; so long after their text is there they are as they stay."""

DRAWN_S = 15.0
"""The graph of a run is drawn on a canvas, which says nothing of when it is done."""

CHROMIUM_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars "
    "--remote-debugging-port=0"
)


class Browser:
    """Chromium with one page, told what to do over its own protocol."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            sys.exit("Chromium is not installed: apt-get install chromium")
        self._log = (folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [program, *CHROMIUM_FLAGS.split(), f"--user-data-dir={folder / 'profile'}"],
            stdout=self._log,
            stderr=self._log,
        )
        port = folder / "profile" / "DevToolsActivePort"
        wait_for(lambda: port.exists() and len(port.read_text().splitlines()) == 2, "Chromium")
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        [page] = [one for one in httpx.get(f"{address}/json").json() if one["type"] == "page"]
        self._page = connect(page["webSocketDebuggerUrl"], max_size=None)
        self._count = 0
        self._ask("Page.enable")

    def picture(
        self,
        url: str,
        path: Path,
        *,
        shows: str,
        size: tuple[int, int],
        click: str = "",
        settle_s: float = FADED_IN_S,
        corner: tuple[int, int] = (0, 0),
    ) -> None:
        """Open `url`, click on what says `click`, wait until it shows that text, take a picture.

        `corner` is where the picture begins; it has few colours, as the pages have.
        """
        width, height = size
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._ask("Page.navigate", url=url)
        if click:
            wait_for(lambda: self._clicked(click), f"{click!r} on {url}")
        text = "document.body.innerText"
        wait_for(lambda: shows in str(self._value(text)), f"{shows!r} on {url}")
        time.sleep(settle_s)
        shot = self._ask("Page.captureScreenshot", format="png")
        with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as whole:
            part = whole.convert("RGB").crop((*corner, *whole.size))
        part.quantize(128).save(path, optimize=True)
        print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {url}")

    def close(self) -> None:
        """End it."""
        self._page.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _clicked(self, text: str) -> bool:
        """Whether an element that says just that was there to be clicked."""
        find = (
            "[...document.querySelectorAll('button, a, li, label')]"
            f".find(one => one.innerText.trim() === {json.dumps(text)})"
        )
        return bool(self._value(f"(one => one ? (one.click(), true) : false)({find})"))

    def _value(self, expression: str) -> Any:
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        self._count += 1
        self._page.send(json.dumps({"id": self._count, "method": method, "params": values}))
        while True:
            answer = json.loads(self._page.recv(timeout=WITHIN_S))
            if answer.get("id") == self._count:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]


def wait_for(is_there: Any, what: str, within_s: float = WITHIN_S) -> None:
    """Wait until it is there; end the program where it never is."""
    deadline = time.monotonic() + within_s
    while not is_there():
        if time.monotonic() > deadline:
            sys.exit(f"{what} is not there after {within_s:.0f} s.")
        time.sleep(0.2)


class Server:
    """A Prefect server, by its API."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/api")

    def is_healthy(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/api/health", timeout=10).is_success
        except httpx.HTTPError:
            return False

    def find(self, what: str, **asked: Any) -> list[dict[str, Any]]:
        """What there is of a kind, such as `flow_runs`."""
        answer = httpx.post(f"{self.url}/api/{what}/filter", json=asked, timeout=60)
        return answer.raise_for_status().json()


def take(server: Server, run: str, into: Path, browser: Browser) -> None:
    """All pictures of the flow run of that id."""
    mine = {"flow_run_id": {"any_": [run]}}
    artifacts = {one["type"]: one for one in server.find("artifacts", artifacts=mine)}
    [deployment] = server.find("deployments", deployments={"name": {"any_": ["quickstart"]}})
    events = "events=visual-r1.*&events=prefect.asset.*"
    run_page = f"{server.url}/runs/flow-run/{run}"
    artifact = f"{server.url}/artifacts/artifact"
    form = f"{server.url}/deployments/deployment/{deployment['id']}/run"

    def picture(
        name: str,
        url: str,
        height: int,
        shows: str,
        click: str = "",
        corner: tuple[int, int] = (0, 0),
    ) -> None:
        path = into / f"prefect-{name}.png"
        settle_s = DRAWN_S if url == run_page else FADED_IN_S
        browser.picture(
            url,
            path,
            shows=shows,
            size=(1400, height),
            click=click,
            settle_s=settle_s,
            corner=corner,
        )

    picture("run", run_page, 1000, "-report", "Artifacts")
    picture("log", run_page, 1700, "of training left", corner=(264, 640))
    picture("report", f"{artifact}/{artifacts['markdown']['id']}", 2200, "Sample problems")
    picture("steps", f"{artifact}/{artifacts['table']['id']}", 800, "reward")
    picture("events", f"{server.url}/events?{events}", 1100, "visual-r1.finished")
    picture("form", form, 1400, "Submit")


@contextmanager
def running(arguments: list[str], env: dict[str, str], log: Path) -> Generator[None]:
    """A Prefect process for the block; what it says is in `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PREFECT, *arguments], env=env, cwd=ROOT, stdout=output, stderr=output
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_quickstart(folder: Path, overrides: dict[str, str], stack: ExitStack) -> Server:
    """A server of our own with the deployment, which a worker has run once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}")
    env = os.environ | {
        "PWD": str(ROOT),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{server.url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
    }
    start = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    stack.enter_context(running(start, env, folder / "server.log"))
    wait_for(server.is_healthy, "the Prefect server")

    def prefect(*arguments: str) -> None:
        subprocess.run([*PREFECT, *arguments], env=env, cwd=ROOT, check=True)

    prefect("work-pool", "create", "visual-r1", "--type", "process")
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    # Where it is: it stands in the pictures.
    given = {"output_dir": str(folder / "visual-r1"), "logging.wandb": False} | {
        name: json.loads(value) for name, value in overrides.items()
    }
    with running(["worker", "start", "--pool", "visual-r1"], env, folder / "worker.log"):
        params = json.dumps({"overrides": given})
        prefect("deployment", "run", "train/quickstart", "--watch", "--params", params)
    return server


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--server", help="a server whose newest run of `train` is shown")
    parser.add_argument(
        "--override", action="append", default=[], metavar="NAME=JSON", help="as train.steps=20"
    )
    given = parser.parse_args()
    overrides = dict(one.partition("=")[::2] for one in given.override)
    with ExitStack() as stack:
        # Under /tmp: its path stands in the pictures.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pictures-")))
        server = Server(given.server) if given.server else None
        server = server or run_quickstart(folder, overrides, stack)
        runs = server.find(
            "flow_runs",
            flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}},
            flows={"name": {"any_": ["train"]}},
            sort="START_TIME_DESC",
            limit=1,
        )
        if not runs:
            sys.exit(f"{server.url} has no run of `train` that is completed.")
        browser = Browser(folder)
        stack.callback(browser.close)
        given.into.mkdir(parents=True, exist_ok=True)
        take(server, runs[0]["id"], given.into, browser)


if __name__ == "__main__":
    main()
