"""The benchmarks are not run here; that each can be started is."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import importlib, sys
sys.path[:0] = [{benchmarks!r}, {root!r}]
for name in {names!r}:
    importlib.import_module(name)
"""


def test_every_benchmark_finds_what_it_is_made_of() -> None:
    folder = ROOT / "benchmarks"
    files = [path for path in sorted(folder.glob("**/*.py")) if path.stem != "__init__"]
    # What is measured beside us runs in environments of its own, with packages that are not here.
    peers = [path for path in files if path.parent.name == "peers"]
    for path in peers:
        compile(path.read_text(), path, "exec")
    names = [
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in files
        if path not in peers
    ]
    assert "damage_runs.worker" in names
    program = IMPORT_ALL.format(benchmarks=str(folder), root=str(ROOT), names=names)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
