"""Every kind of broken row we know, mixed with good ones, in every kind of source it may come in.

Each ends in rejected.parquet with its reason and its place, or is mended as docs/datasets.md says;
the good rows are all there.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import figure, read_rejected
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visual_r1.config import DataSection
from visual_r1.data.dataset import prepare
from visual_r1.data.images import check_image
from visual_r1.data.problem import Problem
from visual_r1.data.sources.records import MAX_LINE_BYTES

Check = Callable[[Problem], bool]


@dataclass(frozen=True)
class Broken:
    """One kind of broken row: `is_` is the reason, or what a mended problem must fulfil."""

    is_: str | Check
    image: bytes | None = None
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    raw: bytes | None = None


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def half(image: Image.Image, ink: Any) -> Image.Image:
    """With its left half in `ink`."""
    image.paste(ink, (0, 0, image.width // 2, image.height))
    return image


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def half_a_png() -> bytes:
    """Sound checksums around a finished stream of 30 of 64 rows."""
    rows = b"".join(b"\0" + bytes(range(row, row + 64)) for row in range(30))
    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return figure(901, kind="JPEG", exif=exif)


def texts(value: str, zip: bool) -> PngInfo:
    info = PngInfo()
    info.add_text("novel", value, zip=zip)
    return info


def is_png_of(width: int, height: int) -> Check:
    def check(problem: Problem) -> bool:
        with Image.open(io.BytesIO(problem.images[0])) as image:
            return (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))

    return check


IMAGES: dict[str, Broken] = {
    "zero bytes": Broken("the image is empty (0 bytes)", b""),
    "truncated png": Broken("does not decode", figure(900)[:-60]),
    "truncated jpeg": Broken("truncated", figure(900, kind="JPEG")[:-400]),
    "a header alone": Broken("does not decode", figure(900)[:20]),
    "damaged pixels": Broken(
        "does not decode", figure(900)[:60] + b"\xff" * 50 + figure(900)[110:]
    ),
    "a bomb": Broken("the image has more than 50000000 pixels", bomb()),
    "absurdly large": Broken("more than 50000000", encoded(Image.new("1", (9000, 8000)))),
    "one pixel": Broken("8 a side are needed", encoded(Image.new("RGB", (1, 1)))),
    "a thread": Broken("one side over 200 times", encoded(Image.new("RGB", (8, 4000)))),
    "an animated gif": Broken("animated", animated("GIF")),
    "an animated png": Broken("animated", animated("PNG")),
    "an animated webp": Broken("animated", animated("WEBP")),
    "pages": Broken("several pages", animated("TIFF")),
    "floating point": Broken("floating-point", encoded(Image.new("F", (40, 40)), "TIFF")),
    "a text bomb": Broken("too large", figure(900, pnginfo=texts("x" * 9_000_000, True))),
    "svg": Broken("an SVG drawing", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "pdf": Broken("a PDF", b"%PDF-1.4\n%\xe2\xe3"),
    "postscript": Broken("PostScript", figure(900, kind="EPS")),
    "a web page": Broken("a web page", b"<!DOCTYPE html><html>404</html>"),
    "a git lfs pointer": Broken("git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid"),
    "a message": Broken("it is text", b"404 not found"),
    "cmyk": Broken(is_png_of(120, 90), figure(910, mode="CMYK", kind="JPEG")),
    "16 bits": Broken(is_png_of(50, 40), encoded(half(Image.new("I;16", (50, 40), 50_000), 0))),
    "transparent": Broken(
        is_png_of(33, 44), encoded(half(Image.new("RGBA", (33, 44), (9, 9, 9, 0)), (0, 0, 0, 255)))
    ),
    "one flat colour": Broken("one flat colour", encoded(Image.new("RGB", (33, 44), "white"))),
    "drawn in glass": Broken(
        "one flat colour", encoded(half(Image.new("RGBA", (33, 44), (9, 9, 9, 0)), (0, 0, 0, 0)))
    ),
    "half of its rows": Broken("rows are there", half_a_png()),
    "32 bits": Broken("whose range is unknown", encoded(Image.new("I", (40, 40), 9), "TIFF")),
    "a transparent palette": Broken(is_png_of(120, 90), figure(911, mode="P", transparency=0)),
    "on its side": Broken(is_png_of(90, 120), turned()),
    "gif": Broken(is_png_of(120, 90), figure(912, kind="GIF")),
    "bmp": Broken(is_png_of(120, 90), figure(913, kind="BMP")),
    "jpeg 2000": Broken(is_png_of(120, 90), figure(914, kind="JPEG2000")),
    "a wrong checksum": Broken(
        is_png_of(120, 90), figure(915)[:-16] + bytes([figure(915)[-16] ^ 255]) + figure(915)[-15:]
    ),
    "no end": Broken(is_png_of(120, 90), figure(916)[:-12]),
    "an archive behind it": Broken(is_png_of(120, 90), figure(917) + b"PK\x03\x04"),
    "more text than picture": Broken(
        is_png_of(120, 90), figure(918, pnginfo=texts("x" * 900_000, False))
    ),
    "damaged exif": Broken(is_png_of(120, 90), figure(919, exif=b"Exif\0\0garbage")),
}

TEXTS: dict[str, Broken] = {
    "no problem": Broken("the problem is missing", changes={"problem": None}),
    "an empty problem": Broken("the problem is empty", changes={"problem": " \n<image>"}),
    "an invisible problem": Broken("the problem is empty", changes={"problem": "\ufeff\u200b"}),
    "a huge problem": Broken("60000 characters", changes={"problem": "x" * 60_000}),
    "control characters": Broken("not text", changes={"problem": "Find\x00x"}),
    "a c1 control": Broken("not text", changes={"problem": "It\x92s x"}),
    "a replacement sign": Broken("not text", changes={"problem": "Find \ufffd."}),
    "no answer": Broken("the answer is missing", changes={"answer": None}),
    "an empty answer": Broken("the answer is empty", changes={"answer": "  "}),
    "an answer that is nan": Broken("the answer is missing", changes={"answer": "NaN"}),
    "an answer that is none": Broken("the answer is missing", changes={"answer": "None"}),
    "an answer no grader reads": Broken("grade as itself", changes={"answer": "\\int_0^1 x"}),
    "an answer of two values": Broken("grade as itself", changes={"answer": "5 = 6"}),
    "an id that came before": Broken("came before", changes={"id": "good-0"}),
    "an empty id": Broken("the id is empty", changes={"id": " "}),
    "an endless id": Broken("the id has 600 characters", changes={"id": "i" * 600}),
    "more markers than images": Broken(
        "2 <image> markers and 1 images", changes={"problem": "<image><image>?"}
    ),
    "a marker of no image": Broken(
        "the images 3, and there are 1", changes={"problem": "In <image3>?"}
    ),
    "a letter of no choice": Broken(
        "'F' names none of the 2 choices", changes={"answer": "F", "choices": ["1", "2"]}
    ),
    "more choices than letters": Broken(
        "27 choices, more than letters", changes={"choices": [str(n) for n in range(27)]}
    ),
    "crlf and a byte order mark": Broken(
        lambda p: p.problem == "<image>Find\nx.", changes={"problem": "\ufeff<image>Find\r\nx."}
    ),
    "no marker": Broken(
        lambda p: p.problem == "<image>Find x, please.", changes={"problem": "Find x, please."}
    ),
    "a numbered marker": Broken(
        lambda p: p.problem == "In <image>, as image 1 shows?",
        changes={"problem": "In <image1>, as <image 1> shows?"},
    ),
    "a letter for a hidden choice": Broken(
        lambda p: p.answer == "45", changes={"answer": "b", "choices": ["30", "45"]}
    ),
    "spaces around": Broken(lambda p: p.answer == "12", changes={"answer": " 12\n"}),
}

# What the schema of a Parquet file does not allow for.
JSON_VALUES: dict[str, Broken] = {
    "no images": Broken("there is no image", changes={"images": []}),
    "null for images": Broken("there is no image", changes={"images": None}),
    "an empty path": Broken("image 1 is missing", changes={"images": [""]}),
    "seventeen images": Broken("17 images, over 16", changes={"images": ["good.png"] * 17}),
    "a number for an image": Broken("an image is a int", changes={"images": [7]}),
    "a path that leads out": Broken("leads out", changes={"images": ["../../etc/passwd"]}),
    "an absolute path": Broken("leads out", changes={"images": ["/etc/passwd"]}),
    "a link that leads out": Broken("leads out", changes={"images": ["out.png"]}),
    "a path to nothing": Broken("is missing: No such file", changes={"images": ["gone.png"]}),
    "a path to a folder": Broken("it is a folder", changes={"images": ["folder.png"]}),
    "a path with a zero in it": Broken("is none: embedded null", changes={"images": ["a\0.png"]}),
    "a web address": Broken("download it first", changes={"images": ["https://a.b/c.png"]}),
    "unsound base64": Broken("no sound base64", changes={"images": ["iVBORw0KGgo" + "A" * 90]}),
    "a data uri of text": Broken("without base64", changes={"images": ["data:text/plain,hello"]}),
    "half a surrogate pair": Broken("not text", changes={"problem": "Find \ud800."}),
    "half a pair in the id": Broken("not text", changes={"id": "\udfff"}),
    "half a pair in meta": Broken("meta holds", changes={"meta": {"note": "\ud800"}}),
    "an object for a problem": Broken("the problem is a dict", changes={"problem": {"x": 1}}),
    "a list for a problem": Broken("the problem is a list of 2", changes={"problem": ["a", "b"]}),
    "two answers": Broken("the answer is a list of 2", changes={"answer": ["1", "2"]}),
    "nan for an answer": Broken("the answer is missing", changes={"answer": float("nan")}),
    "an infinite answer": Broken("no finite number", changes={"answer": float("inf")}),
    "text for choices": Broken("which is no list", changes={"choices": "30 or 45"}),
    "a missing choice": Broken("choice 2 is missing", changes={"choices": ["1", None]}),
    "choices by other names": Broken("not A, B", changes={"choices": {"x": "1", "y": "2"}}),
    "meta that is no object": Broken("no JSON object", changes={"meta": "[1]"}),
    "a list of one answer": Broken(lambda p: p.answer == "12", changes={"answer": ["12"]}),
    "a number for an answer": Broken(lambda p: p.answer == "12", changes={"answer": 12.0}),
    "a word out of true": Broken(lambda p: p.answer == "True", changes={"answer": True}),
}  # fmt: skip

LINES: dict[str, Broken] = {
    "a line cut off": Broken("not JSON: Unterminated", raw=b'{"id": "cut", "problem": "Fin'),
    "a line of no json": Broken("the line is not JSON", raw=b"Find x."),
    "a line of a list": Broken("holds a list, not an object", raw=b"[1, 2]"),
    "a line of a number": Broken("holds a int, not an object", raw=b"5"),
    "two objects a line": Broken("not JSON: Extra data", raw=b'{"id": "a"} {"id": "b"}'),
    "a key twice": Broken("the key 'answer' twice", raw=b'{"answer": "1", "answer": "2"}'),
    "a line that is not utf-8": Broken("the line is not UTF-8", raw=b'{"problem": "\xff\xfe"}'),
    "a line of holes": Broken("nested too deeply", raw=b"[" * 100_000),
    "a number without end": Broken("not JSON: Exceeds", raw=b'{"answer": ' + b"9" * 9000 + b"}"),
    "an endless line": Broken("the line has more than", raw=b'"' + b" " * (MAX_LINE_BYTES + 9)),
    "an empty object": Broken("the problem is missing", raw=b'{"images": ["good.png"]}'),
}


def row(name: str, number: int, broken: Broken | None = None) -> dict[str, Any]:
    plain = {
        "id": name,
        "images": None,
        "problem": f"<image>Find $x$, {name}.",
        "answer": str(number),
        "choices": [],
        "meta": None,
    }
    return plain | dict(broken.changes if broken else {})


def mixed(kinds: Mapping[str, Broken]) -> list[tuple[str, Broken | None]]:
    """A good row before each broken one."""
    rows: list[tuple[str, Broken | None]] = []
    for number, (name, broken) in enumerate(kinds.items()):
        rows += [(f"good-{number}", None), (name, broken)]
    return rows


def image_of(number: int, broken: Broken | None) -> bytes:
    return broken.image if broken and broken.image is not None else figure(number)


@dataclass(frozen=True)
class Outcome:
    """What became of a source: problems by id, reasons by place, the place of each broken kind."""

    problems: Mapping[str, Problem]
    reasons: Mapping[str, str]
    places: Mapping[str, str]
    good: int


def outcome(source: Path, out: Path, places: Mapping[str, str], good: int) -> Outcome:
    data = DataSection(source=str(source), max_rejected_share=1.0)
    dataset = prepare(data, out)
    rejected = read_rejected(dataset.folder)
    assert len(rejected) == dataset.counts["rejected"] == len({r["row"] for r in rejected})
    problems = [p for s in ("train", "validation", "test") for p in dataset.problems(s)]
    return Outcome(
        {problem.id: problem for problem in problems},
        {r["row"]: r["reason"] for r in rejected},
        places,
        good,
    )


def parquet(root: Path, kinds: Mapping[str, Broken]) -> Mapping[str, str]:
    rows = [
        {name: value for name, value in row(name, n, broken).items() if name != "meta"}
        | {"images": [{"bytes": image_of(n, broken), "path": None}]}
        for n, (name, broken) in enumerate(mixed(kinds))
    ]
    schema = pa.schema([
        ("id", pa.string()),
        ("images", pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))),
        ("problem", pa.string()), ("answer", pa.string()), ("choices", pa.list_(pa.string())),
    ])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "train.parquet")
    return {name: f"train.parquet row {n}" for n, (name, _) in enumerate(mixed(kinds))}


def jsonl(root: Path, kinds: Mapping[str, Broken]) -> Mapping[str, str]:
    lines: list[bytes] = []
    for n, (name, broken) in enumerate(mixed(kinds)):
        values = row(name, n, broken)
        if broken is None or "images" not in broken.changes:
            values["images"] = [
                f"data:image/png;base64,{base64.b64encode(image_of(n, broken)).decode()}"
            ]
        lines.append(broken.raw if broken and broken.raw else json.dumps(values).encode())
    (root / "train.jsonl").write_bytes(b"\n".join(lines))
    (root / "good.png").write_bytes(figure(800))
    (root / "folder.png").mkdir()
    (root / "out.png").symlink_to("/etc/hostname")
    return {name: f"train.jsonl line {n}" for n, (name, _) in enumerate(mixed(kinds), start=1)}


def image_folder(root: Path, kinds: Mapping[str, Broken]) -> Mapping[str, str]:
    lines: list[str] = []
    for n, (name, broken) in enumerate(mixed(kinds)):
        (root / f"{n}.png").write_bytes(image_of(n, broken))
        values = row(name, n, broken) | {"file_name": f"{n}.png"}
        del values["images"]
        lines.append(json.dumps(values))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return {name: f"metadata.jsonl line {n}" for n, (name, _) in enumerate(mixed(kinds), start=1)}


def inter_gps(root: Path, kinds: Mapping[str, Broken]) -> Mapping[str, str]:
    for n, (name, broken) in enumerate(mixed(kinds)):
        folder = root / "train" / str(n)
        folder.mkdir(parents=True)
        data = {"id": name, "annotat_text": f"Find $x$, {name}.", "answer": "A",
                "choices": [str(n), "1000", "2000", "3000"]}  # fmt: skip
        data |= dict(broken.changes if broken else {})
        raw = broken.raw if broken and broken.raw is not None else json.dumps(data).encode()
        if raw:
            (folder / "data.json").write_bytes(raw)
        if image_of(n, broken) != b"none":
            (folder / "img_diagram.png").write_bytes(image_of(n, broken))
    return {name: f"train/{n}" for n, (name, _) in enumerate(mixed(kinds))}


def csv_file(root: Path, kinds: Mapping[str, Broken]) -> Mapping[str, str]:
    lines = [b"id,images,problem,answer"]
    for n, (name, broken) in enumerate(mixed(kinds)):
        (root / f"{n}.png").write_bytes(figure(n))
        good = f"{name},{n}.png,Find {name}.,{n}".encode()
        lines.append(good if broken is None or broken.raw is None else broken.raw)
    (root / "train.csv").write_bytes(b"\n".join(lines))
    return {name: f"train.csv line {n}" for n, (name, _) in enumerate(mixed(kinds), start=2)}


LAYOUT: dict[str, Broken] = {
    "no data.json": Broken("data.json cannot be read: No such file", raw=b""),
    "data.json cut off": Broken("data.json is not JSON", raw=b'{"id": 7, "choi'),
    "data.json that is not utf-8": Broken("data.json is not UTF-8", raw=b'{"id": "\xff"}'),
    "data.json of a list": Broken("data.json holds no object", raw=b"[]"),
    "data.json of holes": Broken("nested too deeply", raw=b"[" * 100_000),
    "no figure": Broken("image 1 is missing", b"none"),
    "no text": Broken("the problem is missing", changes={"annotat_text": None}),
    "an answer E": Broken("'E' names none of the 4 choices", changes={"answer": "E"}),
    "an answer of two letters": Broken("'AB' names none", changes={"answer": "AB"}),
    "a number for a letter": Broken("'3' names none", changes={"answer": 3}),
    "no letter": Broken("the answer is missing", changes={"answer": None}),
    "no choices": Broken("names none of the 0 choices", changes={"choices": None}),
    "a choice that is null": Broken("choice 1 is missing", changes={"choices": [None, "2"]}),
    "text for a list": Broken("which is no list", changes={"choices": "none"}),
    "no id": Broken(lambda p: p.id.isdecimal() and p.answer != "1000", changes={"id": None}),
}  # fmt: skip

VALUES: dict[str, Broken] = {
    "too many values": Broken("5 values for 4 columns", raw=b"a,1.png,Find, x.,5"),
    "too few values": Broken("2 values for 4 columns", raw=b"a,1.png"),
    "a quote in the middle": Broken("the line is not CSV", raw=b'a,1.png,"Find" x,5'),
    "bytes that are not text": Broken("not text", raw=b"bytes,1.png,Find \xff,5"),
    "an empty value": Broken("the answer is missing", raw=b"empty,1.png,Find x,"),
    "a quoted comma": Broken(
        lambda p: "Find, x" in p.problem, raw=b'a quoted comma,1.png,"Find, x",5'
    ),
}

Writer = Callable[[Path, Mapping[str, Broken]], Mapping[str, str]]
SOURCES: dict[str, tuple[Writer, dict[str, Broken]]] = {
    "parquet": (parquet, IMAGES | TEXTS),
    "json lines": (jsonl, IMAGES | TEXTS | JSON_VALUES | LINES),
    "image folder": (image_folder, IMAGES | TEXTS),
    "inter-gps": (inter_gps, IMAGES | LAYOUT),
    "csv": (csv_file, VALUES),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    @cache
    def of(kind: str) -> Outcome:
        write, kinds = SOURCES[kind]
        out = tmp_path_factory.mktemp("broken")
        (out / "set").mkdir()
        return outcome(out / "set", out, write(out / "set", kinds), len(kinds))

    return of


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, (_, kinds) in SOURCES.items() for name in kinds],
)
def test_a_broken_row_is_rejected_with_its_reason_or_mended(
    outcomes: Callable[[str], Outcome], kind: str, name: str
) -> None:
    broken, found = SOURCES[kind][1][name], outcomes(kind)
    place = found.places[name]
    if isinstance(broken.is_, str):
        assert broken.is_ in found.reasons[place]
        assert name not in found.problems
        return
    assert place not in found.reasons, found.reasons[place]
    number = place.split("/")[-1]
    problem = found.problems.get(name) or found.problems[number]
    assert broken.is_(problem)
    # What was mended needs no mending any more.
    assert all(check_image(image).data == image for image in problem.images)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_good_rows_are_all_there_untouched(
    outcomes: Callable[[str], Outcome], kind: str
) -> None:
    found = outcomes(kind)
    for number in range(found.good):
        problem = found.problems[f"good-{number}"]
        assert problem.images == (figure(2 * number),)
        assert problem.answer == str(2 * number)
    mended = sum(not isinstance(broken.is_, str) for broken in SOURCES[kind][1].values())
    assert len(found.problems) == found.good + mended
    assert len(found.reasons) == found.good - mended


def test_there_are_fifty_kinds_and_more() -> None:
    assert len({name for _, kinds in SOURCES.values() for name in kinds}) > 100
