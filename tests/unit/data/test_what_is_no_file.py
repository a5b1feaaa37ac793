"""Paths that lead to what is no file are never opened: each ends in a sentence, at once."""

import base64
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn import figure, inter_gps

from visual_r1.config import DataSection, read_toml
from visual_r1.data.sources import open_source
from visual_r1.errors import ConfigError, DataError
from visual_r1.opening import NotAFile, read_file
from visual_r1.prompts.templates import load_template


def pipe(path: Path) -> None:
    os.mkfifo(path)


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("a pipe"))
    path.symlink_to(path.with_name("a pipe"))


def sock(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (pipe, "it is a named pipe"),
    "a link to a pipe": (linked_pipe, "it is a named pipe"),
    "a socket": (sock, "No such device or address"),
    "a folder": (Path.mkdir, "it is a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "a terminal": (lambda path: path.symlink_to("/dev/null"), "it is a device"),
}
KINDS = pytest.mark.parametrize(("make", "says"), NO_FILES.values(), ids=NO_FILES.keys())


def at_once(what: Callable[[], object]) -> BaseException | None:
    """What `what` raises; it fails where that takes longer than opening no file may."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - it is handed on
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert raised, "it waits"
    return raised[0]


@KINDS
def test_it_is_not_opened(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "it")
    error = at_once(lambda: read_file(tmp_path / "it"))
    assert isinstance(error, OSError) and says in (error.strerror or "")


def test_files_that_the_system_makes_up_end() -> None:
    assert read_file(Path("/proc/self/maps")) == b""
    with pytest.raises(NotAFile, match="more than 9"):
        read_file(Path(__file__), 9)


@KINDS
def test_as_a_figure(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "it.png")
    row = {"problem": "p", "answer": "4", "image": "it.png"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))

    def look() -> None:
        source = open_source(DataSection(source=str(tmp_path)))
        assert source.fingerprint
        (found,) = source.rows("train")
        assert says in (found.defect or "") or "leads out" in (found.defect or "")

    assert at_once(look) is None


@KINDS
def test_as_a_problem_of_inter_gps(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    folder = inter_gps(tmp_path, {"train": 2}) / "train" / "0"
    for name in ("data.json", "img_diagram.png"):
        (folder / name).unlink()
        make(folder / name)

        def look(name: str = name) -> None:
            source = open_source(DataSection(source=str(tmp_path)))
            assert source.fingerprint
            bad, good = source.rows("train")
            assert good.defect is None and name in (bad.defect or ""), bad.defect

        assert at_once(look) is None
        for leftover in (folder / name, folder / "a pipe"):
            if leftover.is_dir():
                leftover.rmdir()
            else:
                leftover.unlink(missing_ok=True)
        inter_gps(tmp_path / "again", {"train": 1})
        (tmp_path / "again/train/0" / name).rename(folder / name)
        for left in (tmp_path / "again/train/0").iterdir():
            left.unlink()
        (tmp_path / "again/train/0").rmdir()


@KINDS
def test_as_the_source_a_template_a_configuration(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    for name in ("train.jsonl", "train.csv", "train.parquet", "prompt.txt", "run.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make(tmp_path / name)
        if (left := tmp_path / "a pipe").exists():
            left.rename(tmp_path / f"{name} pipe")
            (tmp_path / name).unlink()
            (tmp_path / name).symlink_to(tmp_path / f"{name} pipe")
    for name in ("train.jsonl", "train.csv", "train.parquet"):
        data = DataSection(source=str(tmp_path / name))
        assert isinstance(at_once(lambda data=data: open_source(data)), DataError)
    for look in (
        lambda: load_template(str(tmp_path / "prompt.txt")),
        lambda: read_toml(tmp_path / "run.toml"),
    ):
        error = at_once(look)
        assert isinstance(error, ConfigError) and says in str(error)


PNG = figure(7)
TEXT = base64.b64encode(PNG).decode()
HELD: dict[str, object] = {
    "a path": "a b.png",
    "a file uri": "file://{folder}/a%20b.png",
    "one that escapes nothing": "file://{folder}/a b.png",
    "one of this machine": "file://localhost{folder}/a%20b.png",
    "one with one slash": "FILE:{folder}/a%20b.png",
    "escaped letters": "file://{folder}/%61%20b.png",
    "a path by name": {"image": "a b.png"},
    "a path as datasets has it": {"path": "a b.png", "bytes": None},
    "a uri as datasets has it": {"path": "file://{folder}/a%20b.png", "bytes": None},
    "bytes": {"bytes": TEXT, "path": None},
    "bytes without their padding": {"bytes": TEXT.rstrip("=")},
    "bytes in the alphabet of addresses": TEXT.replace("+", "-").replace("/", "_"),
    "bytes as numbers": {"bytes": list(PNG)},
    "a buffer": {"type": "Buffer", "data": list(PNG)},
    "a data uri": f"data:image/png;base64,{TEXT}",
    "a data uri that is escaped": f"data:image/png;base64,{TEXT}".replace("+", "%2B"),
    "a part of a chat": {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{TEXT}", "detail": "high"},
    },
    "an image in an image": {"image": {"path": "a b.png", "width": 120, "height": 90}},
    "the only field": {"diagram": "a b.png"},
}


def read(folder: Path, image: object) -> tuple[bytes | None, str | None]:
    text = json.dumps({"problem": "p", "answer": "4", "image": image})
    (folder / "train.jsonl").write_text(text.replace("{folder}", str(folder)))
    source = open_source(DataSection(source=str(folder)))
    before = source.fingerprint
    (row,) = source.rows("train")
    if row.images and "a b.png" in text.replace("%20", " ").replace("%61", "a"):
        (folder / "a b.png").write_bytes(figure(8))
        assert open_source(DataSection(source=str(folder))).fingerprint != before
        (folder / "a b.png").write_bytes(PNG)
    return (row.images[0] if row.images else None), row.defect


@pytest.mark.parametrize("image", HELD.values(), ids=HELD.keys())
def test_images_as_datasets_have_them(tmp_path: Path, image: object) -> None:
    folder = tmp_path / "set of figures"
    folder.mkdir()
    (folder / "a b.png").write_bytes(PNG)
    assert read(folder, image) == (PNG, None)


REFUSED: dict[str, tuple[object, str]] = {
    "outside": ("file:///etc/hostname", "leads out of the source's folder"),
    "outside by dots": ("file://{folder}/../secret.png", "leads out of the source's folder"),
    "outside by escaped dots": ("file://{folder}/%2e%2e/secret.png", "leads out"),
    "another machine": ("file://images/1.png", "is on a machine 'images'"),
    "gone": ("file://{folder}/gone.png", "is missing: No such file"),
    "gone by name": ({"image": "gone.png"}, "is missing: No such file"),
    "an address": ({"image_url": {"url": "https://a.b/c.png"}}, "is an address"),
    "unknown fields": ({"w": 3, "h": 4}, "an object with 'w', 'h', none of which is known"),
    "a number": ({"image": 3}, "an image is a int"),
    "numbers that are no bytes": ({"bytes": [1, 300]}, "an image is a list"),
    "no base64": ("data:image/png,%89PNG", "without base64"),
}


@pytest.mark.parametrize(("image", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused_with_the_truth(
    tmp_path: Path, image: object, says: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    data, defect = read(folder, image)
    assert data is None and defect is not None and says in defect, defect
