"""What pyproject.toml says of the package is what the package has and imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = ("visual_r1", "flows", "tasks")
PARTS = {"pydantic-core", "triton"}
"""Of a package that is asked for, which pins their version; triton is torch's, where that is for a
card."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: str) -> dict[str, str]:
    """The top-level names that its files import, each with a file that does."""
    found: dict[str, str] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return found


def test_every_package_that_is_imported_is_asked_for() -> None:
    """What another package happens to bring may be gone with its next version, and what is only in
    a developer's environment is nowhere else."""
    asked = PROJECT["project"]["dependencies"]
    declared = {canonical(re.split(r"[<>=!~\[; ]", line)[0]) for line in asked} | PARTS
    by_module = packages_distributions()
    missing = {
        f"{module} ({file})"
        for folder in SHIPPED
        for module, file in imported(folder).items()
        if module not in sys.stdlib_module_names
        and module not in SHIPPED
        and not {canonical(name) for name in by_module.get(module, [module])} & declared
    }
    assert not missing, f"not in the dependencies of pyproject.toml: {sorted(missing)}"


def test_every_file_that_is_no_python_is_shipped() -> None:
    globs = PROJECT["tool"]["setuptools"]["package-data"]["visual_r1"]
    folder = ROOT / "visual_r1"
    shipped = {path for glob in globs for path in folder.glob(glob)}
    there = {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "py.typed"
    }
    assert there - shipped == set()
