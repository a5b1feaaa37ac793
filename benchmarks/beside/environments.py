"""Environments of their own for the programs that we are measured beside.

Each peer is installed once, by pip from whatever index pip is set up for, into a virtual
environment under a cache folder outside the repository: what a peer asks for (another transformers,
say) never touches `.venv`. A folder's name holds a digest of what was asked for, so another version
is another folder, and one whose installation was cut off is made again.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock
from rich.console import Console

import visual_r1
from beside.faults import BenchmarkError

HERE = "here"
"""In place of a cache folder: the peers run in this program's own environment."""

COMPLETE = "complete.json"
PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Peer:
    """What pip is asked for, and the packages whose versions are worth telling."""

    name: str
    requirements: tuple[str, ...]
    told: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """What is installed without what it asks for: that is among the requirements."""


TRANSFORMERS = Peer(
    "transformers",
    ("torch==2.13.0", "transformers==5.24.0", "peft==0.21.2", "accelerate<2", "pillow<14"),
    ("torch", "transformers", "peft"),
)
TRL = Peer(
    "trl",
    ("torch==2.13.0", "transformers==5.24.0", "peft==0.21.2", "trl==1.16.0", "pillow<14"),
    ("torch", "transformers", "peft", "trl", "datasets", "accelerate"),
)
COOKBOOK = Peer(
    "cookbook",
    # But for tml-renderers, whose newest version is not on every index: `rl_loop` needs none of it.
    (
        "torch==2.13.0", "transformers==5.24.0", "tinker==0.38.0", "datasets<6", "pillow<14",
        "aiohttp", "anyio", "blobfile", "chz", "cloudpickle", "pyrage", "rich", "safetensors",
        "termcolor", "tiktoken", "tqdm", "sympy", "pylatexenc", "math-verify",
    ),
    ("tinker", "tinker-cookbook", "torch", "transformers", "datasets"),
    ("tinker-cookbook==0.6.1",),
)  # fmt: skip
OURS = ("visual-r1", "torch", "transformers", "peft", "tinker", "prefect")


def add_peers_flag(parser: ArgumentParser) -> None:
    """The flag for the cache folder of the peers' environments."""
    parser.add_argument(
        "--peers",
        default=str(_cache() / "visual-r1" / "peers"),
        metavar="FOLDER",
        help="where the peers' environments are kept, outside the repository (default: "
        f"%(default)s); '{HERE}': run them in this environment",
    )


def python_of(peer: Peer, folder: str) -> str:
    """The interpreter of the peer's environment, which is made where there is none.

    Raises `BenchmarkError` where pip cannot install it.
    """
    if folder == HERE:
        return sys.executable
    asked = [*peer.requirements, *peer.alone, sys.version]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    place = Path(folder).expanduser().absolute() / f"{peer.name}-{digest}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(
            f"{place.parent} cannot be made ({error.strerror}): choose another --peers FOLDER."
        ) from error
    with FileLock(f"{place}.lock"):
        if not (place / COMPLETE).is_file():
            _make(peer, place)
    return str(place / "bin" / "python")


def _make(peer: Peer, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    Console(stderr=True).print(f"Installing {peer.name} into {place} (once).")
    log = place.with_suffix(".log")
    python = str(place / "bin" / "python")
    commands = [
        [sys.executable, "-m", "venv", str(place)],
        [python, "-m", "pip", "install", *peer.requirements],
    ]
    if peer.alone:
        commands.append([python, "-m", "pip", "install", "--no-deps", *peer.alone])
    with log.open("w") as file:
        for command in commands:
            done = subprocess.run(command, stdout=file, stderr=file, env=outside(), check=False)
            if done.returncode:
                said = [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
                raise BenchmarkError(
                    f"{peer.name} could not be installed ({said[-1] if said else command[-1]}); "
                    f"{log} has all of it, and the same command tries again."
                )
    (place / COMPLETE).write_text(json.dumps(asked_and_got(peer, python)))


def asked_and_got(peer: Peer, python: str) -> dict[str, str]:
    """The versions of the peer's packages, as the environment of `python` has them."""
    program = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [python, "-c", program, *peer.told], capture_output=True, text=True, env=outside()
    )
    if done.returncode:
        raise BenchmarkError(
            f"{peer.name} is not in the environment of {python}: leave --peers out, and it is "
            "installed."
        )
    return json.loads(done.stdout)


def our_versions(names: Sequence[str] = OURS) -> dict[str, str]:
    """Those of this environment; a checkout that is not installed has the version "checkout"."""
    found: dict[str, str] = {"commit": _commit()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "checkout"
    return found


def _commit() -> str:
    """That of the code of ours that runs here, with a plus where files were changed since."""
    place = Path(visual_r1.__file__).parents[1]
    try:
        said = [
            subprocess.run(
                ["git", "-C", str(place), *what], capture_output=True, text=True, check=True
            ).stdout.strip()
            for what in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0] + ("+" if said[1] else "")


def outside(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment for a peer: without what leads Python to packages of ours, and offline."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TINKER_API_KEY", "TINKER_BASE_URL")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0"}
    return kept | quiet | {"OMP_WAIT_POLICY": "PASSIVE"} | dict(more or {})


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
