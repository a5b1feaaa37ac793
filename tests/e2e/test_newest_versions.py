"""The tests ran on the newest versions that the ranges of pyproject.toml allow.

Otherwise a fresh installation could hold what no test has ever seen: Prefect's scheduler was broken
by a new SQLAlchemy that way.
"""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def requirements() -> list[str]:
    """What the project asks for, with `dev` and each other extra that is installed as a whole."""
    project = PROJECT["project"]
    asked = list(project["dependencies"])
    for name, extra in project["optional-dependencies"].items():
        if name == "dev" or all(installed(Requirement(line).name) for line in extra):
            asked += extra
    return asked


def resolve(*arguments: str, report: Path) -> "subprocess.CompletedProcess[str]":
    """What pip would install into an empty environment, as a report of JSON."""
    pip = [sys.executable, "-m", "pip", "install", *shlex.split(os.environ.get("PIP_FLAGS", ""))]
    options = ["--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check"]
    return subprocess.run(
        [*pip, *options, "--report", str(report), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_newest_versions_that_the_ranges_allow(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    resolved = resolve(*requirements(), report=report)
    if resolved.returncode:
        # pip ends with 1 whether no versions fit together or no index answers.
        probe = resolve("--no-deps", *PROJECT["build-system"]["requires"], report=report)
        if probe.returncode:
            pytest.skip(f"no package index answers: {probe.stderr.strip().splitlines()[-1]}")
    assert resolved.returncode == 0, resolved.stderr

    found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    newest = {str(package["name"]): Version(package["version"]) for package in found}
    # A local version (+cpu) names a build, and the index of those builds may be another.
    other = [
        f"{name} {have} (not {version})"
        for name, version in newest.items()
        if (have := installed(name)) is None or have.public != version.public
    ]
    assert not other, (
        "these tests did not run on the newest versions that pyproject.toml allows: "
        f"{', '.join(other)}; `make -B setup` brings them up to date"
    )
