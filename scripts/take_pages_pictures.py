"""The pictures of docs/images that show the pages: made here, by a browser, of runs that are there.

    python scripts/take_pages_pictures.py FOLDER        # the working directory of some runs
    python scripts/take_pages_pictures.py FOLDER --run quickstart-0a1b2c3d --only run

`FOLDER` is looked at and not changed, but for a response that is scored (see docs/pages.md), which
starts an engine. Chromium is needed (`apt-get install chromium`). Look at the pictures before they
are committed: whether a page looks right, no program says.
"""

import argparse
import io
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from trials.browser import Page, browser, pages_over, program  # noqa: E402
from visual_r1.pages.place import Place  # noqa: E402

TOKEN = "pictures"
WIDTH = 1280


@dataclass(frozen=True, slots=True)
class Shot:
    """A page as it is shown: in which theme, how high, and what is done to it first."""

    name: str
    path: str
    height: int
    shows: str
    theme: str = "light"
    keys: tuple[str, ...] = ()
    scroll_to: str = ""


def shots(
    runs: list[str], run: str, alarmed: str | None, sample: tuple[int, int, int]
) -> list[Shot]:
    """What is taken of the runs, and of one of them."""
    beside = "/beside?" + "&".join(f"run={name}" for name in runs[:3])
    tokens = f"/runs/{run}/tokens?step={sample[0]}&group={sample[1]}&sample={sample[2]}"
    return [
        Shot("runs", "/", 560, "Runs", keys=("j",)),
        Shot("runs-dark", "/", 560, "Runs", theme="dark", keys=("j", "?")),
        Shot("beside", beside, 1150, "Beside each other"),
        Shot("run", f"/runs/{run}", 1130, "Curves"),
        Shot("run-dark", f"/runs/{run}", 1130, "Curves", theme="dark"),
        Shot("alarms", f"/runs/{alarmed or run}", 900, "Curves"),
        Shot("time", f"/runs/{run}", 620, "Where the time goes", scroll_to="#time"),
        *written(run),
        Shot("tokens-picture", f"{tokens}&by=image", 600, "likelier the picture"),
        Shot("tokens-logprob", f"{tokens}&by=logprob", 600, "How surprising", theme="dark"),
    ]


def written(run: str) -> list[Shot]:
    """What the policy wrote, and what became of it: of a run with both of its evaluations."""
    at = f"/runs/{run}"
    compared = f"/compare?a={run}/baseline&b={run}/final"
    return [
        Shot("rollouts", f"{at}/rollouts", 900, "newest", keys=("j",)),
        Shot("search", f"{at}/rollouts?text=46%2B&verdict=wrong", 760, "around", theme="dark"),
        Shot("group", f"{at}/group?step=30&group=3#sample-1", 900, "mean reward"),
        Shot("group-dark", f"{at}/group?step=59&group=0#sample-6", 900, "mean reward", "dark"),
        Shot("problem", f"{at}/problem?id=procedural-0-train-1497", 640, "Answers"),
        Shot("evaluations", f"{at}/evaluations", 420, "Won and lost", keys=("j",)),
        # Made by evaluate_flow.py --checkpoint final --name controls --evaluation.controls …
        Shot("controls", f"{at}/evaluations/controls", 690, "Does it look"),
        Shot(
            *("gallery", f"{at}/evaluations/final?kind=wrong", 900, "By family"),
            keys=("j",),
            scroll_to=".toolbar",
        ),
        Shot("compared", compared, 1000, "Still wrong", keys=("j",)),
        Shot("compared-dark", f"{compared}&fate=lost", 1000, "Still wrong", "dark", ("j",)),
        Shot("disputes", f"{at}/disputes", 760, "the policy", keys=("j",)),
    ]


def take(shot: Shot, page: Page, address: str, into: Path) -> None:
    """One picture."""
    page.size(WIDTH, shot.height)
    page.prefers(shot.theme)
    page.open(address + shot.path)
    page.value("sessionStorage.clear()")
    if page.value("Boolean(document.querySelector('form[method=post] button[data-key=a]'))"):
        page.press("a")  # a response that was not scored yet
        page.wait("document.readyState === 'complete' && document.querySelector('.legend')")
        page.open(address + shot.path)
    page.wait(f"document.body.innerText.includes({shot.shows!r})")
    for key in shot.keys:
        page.press(key)
    if shot.scroll_to:
        page.value(f"document.querySelector({shot.scroll_to!r}).scrollIntoView()")
    time.sleep(0.4)  # what moves comes to rest
    path = into / f"pages-{shot.name}.png"
    with Image.open(io.BytesIO(page.picture())) as taken:
        taken.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"{path}: {shot.path}")


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", help="the run whose pages are shown; default: the first by name")
    parser.add_argument("--alarmed", help="a run with alarms")
    parser.add_argument(
        "--sample", type=int, nargs=3, default=(5, 3, 2), metavar=("STEP", "GROUP", "SAMPLE"),
        help="whose tokens are shown",
    )  # fmt: skip
    parser.add_argument("--into", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--only", help="those whose name has this in it")
    given = parser.parse_args()
    runs = sorted(Place(given.folder).runs())
    if program() is None or not runs:
        sys.exit("Chromium is not installed, or there is no run in that folder.")
    given.into.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        pages_over(given.folder, TOKEN) as address,
        browser(Path(profile)) as page,
    ):
        page.open(f"{address}/?token={TOKEN}")
        for shot in shots(runs, given.run or runs[0], given.alarmed, tuple(given.sample)):
            if (given.only or "") in shot.name:
                take(shot, page, address, given.into)


if __name__ == "__main__":
    main()
