"""An import points down only, and torch and Prefect stay where they belong."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "visual_r1"

# Each part of the library and the parts it may import; what is not named here may import nothing.
BASE = {"addresses", "errors", "hashing", "storage"}
LOWER = BASE | {"config", "models", "progress"}
MIDDLE = LOWER | {"data", "prompts", "grading", "rewards", "endpoint", "prices"}
MIDDLE |= {"backend", "pauses"}
MAY_IMPORT = {
    "addresses": set[str](),
    "errors": set[str](),
    "hashing": set[str](),
    "storage": {"errors"},
    "config": BASE,
    "command_line": BASE | {"config"},
    "alarms": BASE | {"config"},
    "models": BASE,
    "progress": BASE,
    "engine": BASE | {"models"},
    "pauses": BASE,
    "remote": LOWER | {"pauses"},
    "recovery": LOWER,
    "endpoint": BASE | {"config"},
    "prices": BASE | {"config", "endpoint"},
    "backend": LOWER | {"endpoint", "engine", "remote", "recovery", "pauses", "session_end"},
    "session_end": BASE,
    "data": LOWER | {"grading"},
    "prompts": LOWER | {"data"},
    "grading": BASE,
    "rewards": {"errors", "hashing", "config", "data", "grading"},
    "run_folder": LOWER,
    "stopwatch": BASE,
    "ledger": LOWER | {"backend", "remote", "run_folder"},
    "rl": MIDDLE | {"alarms", "ledger", "remote", "run_folder"},
    "evaluation": MIDDLE | {"alarms", "ledger", "remote", "run_folder", "rl"},
    "preflight": MIDDLE | {"rl"},
    "doctor": MIDDLE
    | {"engine", "command_line", "ledger", "remote", "run_folder", "rl", "evaluation", "preflight"},
    "export": MIDDLE | {"ledger", "remote", "run_folder", "rl"},
}


def imports_of(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


LIBRARY = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in MAY_IMPORT)


def test_imports_point_down() -> None:
    known = {p.name.removesuffix(".py") for p in PACKAGE.iterdir()}
    wrong: list[str] = []
    for path in LIBRARY:
        part = part_of(path)
        imported = {
            name.split(".")[1] for name in imports_of(path) if name.startswith("visual_r1.")
        } & known
        allowed = MAY_IMPORT.get(part, set()) | {part}
        if beyond := imported - allowed:
            wrong.append(f"{path.relative_to(PACKAGE)} must not import {sorted(beyond)}")
    assert not wrong, "\n".join(wrong)


def test_prefect_and_torch_stay_out() -> None:
    wrong: list[str] = []
    for path in LIBRARY:
        banned = {"prefect"} if part_of(path) == "engine" else {"prefect", "torch", "peft"}
        roots = {name.split(".")[0] for name in imports_of(path)}
        if found := roots & banned:
            wrong.append(f"{path.relative_to(PACKAGE)} must not import {sorted(found)}")
    assert not wrong, "\n".join(wrong)


def test_every_part_is_in_the_table() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts <= MAY_IMPORT.keys()
