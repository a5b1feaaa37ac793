"""`flows/prepare_flow.py` on a source that changes where it stands."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image
from train_command import ROOT, clean_environment

# One process, since importing Prefect takes longer than what is looked at.
THRICE = """
import sys
from pathlib import Path
from flows.command import run_as_command
from flows.prepare_flow import prepare

flags = sys.argv[1:]
source = Path(flags[1])
for name in ("first", "second", "second"):
    source.write_bytes(source.with_name(name).read_bytes())
    assert run_as_command(prepare, flags, needs_server=False) == 0
"""


def line(number: int) -> str:
    picture = io.BytesIO()
    image = Image.new("RGB", (32 + number, 32), (8 * number, 0, 0))
    image.putpixel((9, 9), (255, 255, 255))
    image.save(picture, "PNG")
    text = base64.b64encode(picture.getvalue()).decode()
    return json.dumps({"problem": f"Find x{number}.", "answer": str(number), "image": text})


def test_a_source_that_changed_in_place_is_prepared_again(used_before: Path) -> None:
    """The configuration is the same, so that Prefect's cache alone would give the old folder."""
    for name, count in (("first", 2), ("second", 3)):
        (used_before / name).write_text("\n".join(map(line, range(count))))
    source = used_before / "test.jsonl"
    flags = ["--data.source", str(source), "--output-dir", str(used_before)]
    done = subprocess.run(
        [sys.executable, "-c", THRICE, *flags],
        cwd=used_before,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, again = re.findall(
        r"^(\S+): 0 train, 0 validation, (\d) test", done.stdout, re.M
    )
    assert (first[1], second[1], again[1]) == ("2", "3", "3")
    assert first[0] != second[0] == again[0]
    assert all((Path(folder) / "manifest.json").exists() for folder, _ in (first, second))
