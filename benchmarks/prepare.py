"""How fast figures are prepared, beside `datasets`: load, map, to_parquet.

    python benchmarks/prepare.py [--figures 500] [--side 400] [--rounds 5] [--out prepare.json]
                                 [--only WORD ...]

Drawn figures, once with a question each and once all under one question, so that each is compared
with those that look like it. The same Parquet file is prepared by us, cut by a hash or with splits
of its own, and by `datasets` (load_dataset, map, train_test_split, to_parquet with the pictures in
the file) with three maps: `decode` looks at each picture and keeps its bytes, `rgb` makes it RGB,
which encodes it again (so does TRL's examples/scripts/grpo_vlm.py, and whoever hands a picture back
as it came, as veRL's examples/data_preprocess/geo3k.py), `512` makes it RGB of at most 512 a side.
Each way runs in a process of its own, in turns; what is timed begins when it has done eight
figures, so that imports do not count. CPU seconds are those of all its processes. With `--only rgb`
the ways alone whose names hold that word, or one of several.
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

OURS = {
    "visual-r1, a question each": ("each", None),
    "visual-r1, a question each, one process": ("each", 1),
    "visual-r1, splits of its own": ("splits", None),
    "visual-r1, one question for all": ("one", None),
    "visual-r1, procedural": ("procedural", None),
}
PEERS = {
    f"datasets, {kind}, num_proc={processes}": (kind, processes)
    for kind in ("decode", "rgb", "512")
    for processes in (1, 2)
}
FEW = 8
PACKAGES = ("datasets", "numpy", "pillow", "pyarrow")


def main() -> None:
    """Print the table; write all figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--figures", type=int, default=500)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        way, folder = arguments.inside
        print(json.dumps(measured(way, Path(folder), arguments.figures)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_sources(Path(folder), arguments.figures, arguments.side)
        runs: dict[str, list[tuple[float, float]]] = {
            way: [] for way in (*OURS, *PEERS) if any(word in way for word in arguments.only)
        }
        for _ in range(arguments.rounds):
            for way, found in runs.items():
                own = ["--inside", way, folder, "--figures", str(arguments.figures)]
                done = subprocess.run(
                    [sys.executable, __file__, *own], check=True, capture_output=True, text=True
                )
                found.append(tuple(json.loads(done.stdout.splitlines()[-1])))
                wall, cpu = found[-1]
                print(f"{way}: {wall:.2f} s, {cpu:.2f} CPU s", file=sys.stderr, flush=True)
    report(runs, arguments.figures, arguments.side, arguments.out)


def report(
    runs: dict[str, list[tuple[float, float]]], figures: int, side: int, out: Path | None
) -> None:
    """A line for each way: figures a second, median, lowest and highest."""
    print(f"{figures} figures of {side} x {side}, {os.cpu_count()} cores, n = rounds\n")
    print("| way | figures/s: median | lowest to highest | figures a CPU second | n |")
    print("| --- | ---: | ---: | ---: | ---: |")
    rows: list[dict[str, Any]] = []
    for way, found in runs.items():
        rates = sorted(figures / wall for wall, _ in found)
        by_cpu = sorted(figures / cpu for _, cpu in found)
        row = {
            "way": way,
            "n": len(found),
            "figures_s": statistics.median(rates),
            "lowest": rates[0],
            "highest": rates[-1],
            "figures_cpu_s": statistics.median(by_cpu),
            "wall_and_cpu_s": found,
        }
        rows.append(row)
        print(
            f"| {way} | {row['figures_s']:.0f} | {rates[0]:.0f} to {rates[-1]:.0f} "
            f"| {row['figures_cpu_s']:.0f} | {row['n']} |"
        )
    if out is not None:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "machine": platform.platform()}
        content = {"figures": figures, "side": side, **machine, "versions": versions, "rows": rows}
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def measured(way: str, folder: Path, figures: int) -> tuple[float, float]:
    """Seconds by the clock and of all processors, of one way."""
    source, option = OURS.get(way, ("each", None))
    with tempfile.TemporaryDirectory() as into:
        for name in ("few", source):
            count = FEW if name == "few" else figures
            work = (
                ours(name, option, folder, count)
                if way in OURS
                else peer(name, *PEERS[way], folder)
            )
            began, before = time.perf_counter(), os.times()
            work(Path(into, name))
            after = os.times()
        return time.perf_counter() - began, sum(after[:4]) - sum(before[:4])


def ours(source: str, processes: int | None, folder: Path, figures: int) -> Any:
    """A preparation, by as many processes as there are cores, or by so many."""
    from visual_r1.config import DataSection
    from visual_r1.data import checking
    from visual_r1.data.dataset import prepare

    if processes is not None:
        checking.cores = lambda: processes
    data = DataSection(source=str(folder / source))
    if source == "procedural":
        data = DataSection(source=source, train=figures - 2, validation=1, test=1)

    def work(into: Path) -> None:
        counts = prepare(data, into).counts
        assert counts["train"] + counts["validation"] + counts["test"] == figures, counts

    return work


def peer(source: str, kind: str, processes: int, folder: Path) -> Any:
    """`datasets`, with pictures inside the Parquet files, as ours has them."""
    import datasets

    datasets.disable_progress_bars()

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        for one in row["images"]:
            with Image.open(io.BytesIO(one["bytes"])) as image:
                image.load()
        return row

    def rgb(row: dict[str, Any]) -> dict[str, Any]:
        return {"images": [image.convert("RGB") for image in row["images"]]}

    def small(row: dict[str, Any]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in row["images"]]
        for image in images:
            image.thumbnail((512, 512))
        return {"images": images}

    change = {"decode": decode, "rgb": rgb, "512": small}[kind]

    def work(into: Path) -> None:
        found = datasets.load_dataset(
            "parquet", data_dir=str(folder / source), split="train", cache_dir=str(into)
        )
        found = found.cast_column("images", [datasets.Image(decode=kind != "decode")])
        found = found.map(change, num_proc=processes if processes > 1 else None)
        for name, part in found.train_test_split(test_size=0.3, seed=0).items():
            part.to_parquet(into / f"{name}.parquet")

    return work


def write_sources(folder: Path, figures: int, side: int) -> None:
    """The same figures three times: a question each, with splits, and all under one question."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "images": [{"bytes": figure(number, side), "path": None}],
            "problem": f"<image>Find angle x of figure {number}.",
            "answer": str(number % 180),
        }
        for number in range(figures)
    ]
    test = figures * 3 // 10
    for name, some in {
        "few/train": rows[:FEW],
        "each/train": rows,
        "splits/train": rows[test:],
        "splits/test": rows[:test],
        "one/train": [row | {"problem": "<image>Find x."} for row in rows],
    }.items():
        path = (folder / name).with_suffix(".parquet")
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some), path)


def figure(number: int, side: int) -> bytes:
    """A polygon, perhaps a circle, and labels, drawn at twice the size and scaled: smooth edges."""
    draw, large = random.Random(number), 2 * side
    image = Image.new("RGB", (large, large), "white")
    pen = ImageDraw.Draw(image)

    def place() -> int:
        return draw.randrange(large // 20, large - large // 20)

    corners = [(place(), place()) for _ in range(draw.randrange(3, 6))]
    pen.polygon(corners, outline="black", width=4)
    if draw.random() < 0.5:
        x, y, radius = place(), place(), draw.randrange(large // 10, large // 4)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline="black", width=4)
    font = ImageFont.load_default(large // 20)
    for name, (x, y) in zip("ABCDE", corners, strict=False):
        pen.text((x + 8, y + 8), name, fill=(20, 40, 160), font=font)
        pen.text((x - 40, y - 50), str(draw.randrange(2, 180)), fill="black", font=font)
    out = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    main()
