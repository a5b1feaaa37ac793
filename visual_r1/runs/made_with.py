"""With which versions a run was made: `.made_with.json`, a row for each that a start had.

A start that has the same as the last one adds nothing. Bits are the same on the same versions and
machine alone, and what a page says of how to repeat a run needs them.
"""

import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.errors import StorageError
from visual_r1.storage import read_if_sound, write_json

MADE_WITH = ".made_with.json"
PACKAGES = ("tinker", "torch", "transformers", "peft", "numpy", "pillow")
_GIT_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class MadeWith:
    """Versions by package; `commit` of the checkout that the package lies in, None where it was
    installed otherwise; `changed` says that the checkout held what is in no commit."""

    visual_r1: str
    python: str
    machine: str
    packages: dict[str, str]
    commit: str | None = None
    changed: bool = False


@dataclass(frozen=True, slots=True)
class _Stored:
    starts: list[MadeWith]


_STORED = TypeAdapter(_Stored)


def made_with_now() -> MadeWith:
    """The versions of this process."""
    found: dict[str, str] = {}
    for name in ("visual-r1", *PACKAGES):
        with suppress(PackageNotFoundError):  # ours may lie on the path, and not be installed
            found[name] = version(name)
    commit = _git("rev-parse", "HEAD")
    changed = bool(commit and _git("status", "--porcelain", "--untracked-files=no"))
    return MadeWith(
        visual_r1=found.pop("visual-r1", "not installed"),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        packages=found,
        commit=commit or None,
        changed=changed,
    )


def note_made_with(run_dir: Path) -> None:
    """Keep the versions of a start; a disk that refuses it is met by what the run itself writes."""
    there, now = read_made_with(run_dir), made_with_now()
    if there[-1:] != [now]:
        with suppress(StorageError):
            write_json(run_dir / MADE_WITH, asdict(_Stored([*there, now])))


def read_made_with(run_dir: Path) -> list[MadeWith]:
    """What `note_made_with` kept, oldest first; nothing of a run of an older version."""
    stored = read_if_sound(run_dir / MADE_WITH, _STORED, "the versions are not shown")
    return stored.starts if stored else []


def _git(*arguments: str) -> str:
    """What git says of the checkout that this package lies in; nothing where there is none."""
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [git, "-C", str(root), *arguments],
            capture_output=True, text=True, check=True, timeout=_GIT_LIMIT_S,
        )  # fmt: skip
        return said.stdout.strip()
    return ""
