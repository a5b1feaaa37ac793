"""How often copies are found, and different problems taken for copies.

    python benchmarks/duplicates.py [--problems 20000] [--copies 300] [--folder FOLDER]

All problems get the same question, so that the pictures alone tell them apart. First, procedural
problems of all three splits: whatever is merged and is not the same file, drawn again for another
wording of its question, is merged wrongly. Then each
picture is encoded again or resized, and looked for among all pictures. `--folder` adds the pictures
of a folder to those that are copied: textbook figures, say.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from visual_r1.data import procedural
from visual_r1.data.duplicates import Repeats
from visual_r1.data.preparation_state import PreparationState
from visual_r1.data.rows import SourceRow, check_row

How = Image.Resampling
SPLITS = ("test", "validation", "train")


def main() -> None:
    """Print the number of false merges, and a table of found copies by kind of copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, PreparationState(Path(folder)) as state:
        repeats = Repeats(state, Path(folder))
        pictures = fill(state, repeats, arguments.problems)
        chosen = {"procedural": pictures[:: max(1, len(pictures) // arguments.copies)]}
        if arguments.folder:
            files = sorted(arguments.folder.rglob("*.png"))
            chosen["folder"] = [opaque(file.read_bytes()) for file in files]
            add(state, repeats, chosen["folder"])
        for name, some in chosen.items():
            print(f"\n{name}: copies of {len(some)} pictures\n| copy | found | wrong |")
            for kind, change in COPIES.items():
                found, wrong = look_for(repeats, some, change)
                print(f"| {kind} | {found / len(some):.1%} | {wrong} |", flush=True)


def fill(state: PreparationState, repeats: Repeats, count: int) -> list[bytes]:
    """Keep procedural problems of all splits; say how many were merged."""
    pictures: list[bytes] = []
    by_id: dict[str, bytes] = {}
    wrong: list[str] = []
    alike = 0
    started = time.perf_counter()
    for split in SPLITS:
        for problem in procedural.generate(0, split, count // len(SPLITS) + 1):
            checked = check_row(row(problem.id, problem.images[0]))
            marks = repeats.marks(checked)
            first = repeats.find(checked, marks)
            if first is not None:
                if by_id[first.id] == problem.images[0]:
                    alike += 1
                else:
                    wrong.append(f"{problem.id} with {first.id}")
                continue
            state.keep(checked.problem, split, problem.id, "", marks, [], None)
            pictures.append(problem.images[0])
            by_id[problem.id] = problem.images[0]
    took = time.perf_counter() - started
    print(f"{len(pictures) + alike + len(wrong)} problems with one question in {took:.0f} s:")
    print(f"{alike} are the same file; {len(wrong)} merged wrongly {wrong[:5]}", flush=True)
    return pictures


def add(state: PreparationState, repeats: Repeats, pictures: list[bytes]) -> None:
    """Keep more pictures."""
    for number, picture in enumerate(pictures):
        checked = check_row(row(f"folder-{number}", picture))
        state.keep(checked.problem, "train", "", "", repeats.marks(checked), [], None)


def look_for(
    repeats: Repeats, pictures: list[bytes], change: Callable[[Image.Image], bytes]
) -> tuple[int, int]:
    """How many changed pictures were found, and how many were taken for another one."""
    found = wrong = 0
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            checked = check_row(row("copy", change(image.convert("RGB"))))
        first = repeats.find(checked, repeats.marks(checked))
        if first is not None:
            exact = check_row(row("original", picture))
            original = repeats.find(exact, repeats.marks(exact))
            same = original is not None and original.number == first.number
            found, wrong = found + same, wrong + (not same)
    return found, wrong


def row(id: str, picture: bytes) -> SourceRow:
    """A problem whose question is that of all others."""
    return SourceRow(place=id, id=id, images=(picture,), problem="Find x.", answer="1")


def opaque(data: bytes) -> bytes:
    """The picture as a dataset keeps it."""
    return check_row(row("folder", data)).problem.images[0]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def resized(image: Image.Image, scale: float, how: How) -> Image.Image:
    """The image at another size."""
    return image.resize((round(image.width * scale), round(image.height * scale)), how)


def copies() -> Iterator[tuple[str, Callable[[Image.Image], bytes]]]:
    """Kinds of copies by name."""
    for quality in (30, 50, 75, 95):
        yield f"JPEG {quality}", lambda i, q=quality: encoded(i, "JPEG", quality=q)
    for quality in (30, 75):
        yield f"WebP {quality}", lambda i, q=quality: encoded(i, "WEBP", quality=q)
    yield "palette, 256 colours", lambda i: encoded(i.quantize(256))
    yield "palette, 16 colours", lambda i: encoded(i.quantize(16))
    yield "web palette, dithered", lambda i: encoded(i.convert("P"))
    for scale in (0.4, 0.5, 0.75, 1.5, 2):
        for how in (How.BILINEAR, How.BICUBIC, How.LANCZOS):
            name = f"x {scale}, {how.name.lower()}"
            yield name, lambda i, s=scale, h=how: encoded(resized(i, s, h))
    yield "x 0.5, JPEG 75", lambda i: encoded(resized(i, 0.5, How.BICUBIC), "JPEG", quality=75)
    yield "x 2, JPEG 50", lambda i: encoded(resized(i, 2, How.BICUBIC), "JPEG", quality=50)
    yield "x 0.75, nearest", lambda i: encoded(resized(i, 0.75, How.NEAREST))


COPIES = dict(copies())

if __name__ == "__main__":
    main()
