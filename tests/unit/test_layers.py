"""What the house is: its rooms, who imports whom, and where the large libraries are.

Each import of `flows`, `tasks` and `visual_r1` counts, at any depth of the code, those under
`if TYPE_CHECKING:` as well: whoever reads the one file has to know the other.
"""

import ast
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# From the ground up: what each room imports, all of it from lines above. A room is a folder or a
# file, and a folder in it can be a room of its own; what that imports of the files around it is
# named file by file.
ROOMS = {
    "liveness": "",
    "cores": "",
    "freed_memory": "",
    "garbage": "",
    "request_heads": "",
    "opening": "",
    "hashing": "opening",
    "streams": "",
    "wording": "",
    "secrecy": "",
    "errors": "secrecy wording",
    "own_code": "errors",
    "printing": "opening secrecy streams wording",
    "progress": "printing streams wording",
    "storage": "errors hashing opening printing",
    "known_lines": "hashing opening",
    "jsonl_chain": "errors hashing known_lines opening storage",
    "jsonl": "hashing jsonl_chain known_lines printing storage",
    "tables": "errors hashing opening",
    "stopwatch": "printing storage",
    "models": "errors opening",
    "config": "errors hashing models opening printing storage",
    "alarms": "config",
    "grading": "hashing",
    "data/procedural": "data/problem errors hashing",
    "data/sources": """
        config data/drawn_row data/images data/parquet data/problem data/procedural data/rows errors
        opening
    """,
    "data": """
        config cores data/procedural data/sources errors freed_memory grading hashing models
        printing progress storage tables wording
    """,
    "prompts": "data errors hashing models opening",
    "rewards/blindfold": "data grading rewards/grounding",
    "rewards": "config data errors grading hashing own_code",
    "engine/compute/families": """
        engine/compute/batching engine/compute/cache engine/compute/experts engine/compute/low_rank
        engine/compute/packing engine/compute/residual engine/compute/rms_norm
        engine/compute/shared_prefix errors
    """,
    "engine/compute": "data engine/compute/families engine/types errors models printing",
    "engine/store": "engine/types errors hashing opening printing storage",
    "engine/server": "engine/compute engine/store engine/types errors hashing printing",
    "engine": """
        engine/compute engine/server engine/store errors freed_memory garbage models printing
        request_heads
    """,
    "backend": "config engine engine/store errors garbage liveness models printing secrecy wording",
    "prices": "backend config models",
    "exports": """
        backend config data data/procedural engine engine/compute engine/compute/families
        engine/store errors hashing models printing progress prompts secrecy storage tables
    """,
    "policy": "backend config data errors grading models prices prompts rewards rewards/blindfold",
    "rl": """
        backend config data errors hashing own_code policy prices printing rewards rewards/blindfold
    """,
    "sft": "backend config data errors grading policy prices rewards rl",
    "conformance": "backend config data errors models policy prices printing rl sft",
    "evaluation": """
        config data errors grading hashing jsonl policy prices printing progress prompts rewards
        rewards/blindfold storage tables
    """,
    "perception": """
        data data/procedural errors evaluation grading hashing printing rewards rewards/blindfold
        storage tables wording
    """,
    "suites": "config data data/sources errors evaluation printing prompts storage",
    "serving": """
        backend config data errors models printing prompts request_heads wording
    """,
    "runs": """
        alarms backend config data engine/store errors evaluation exports grading hashing jsonl
        jsonl_chain liveness
        models opening own_code policy prices printing progress prompts rewards rl sft storage
        tables wording
    """,
    "regrade": """
        config cores data errors evaluation grading hashing policy printing progress rewards
        rewards/blindfold runs storage tables wording
    """,
    "disputes": """
        data errors evaluation grading printing progress regrade rewards runs tables
    """,
    "report": """
        alarms backend config data errors evaluation exports grading hashing liveness models opening
        perception policy prices printing runs secrecy storage tables wording
    """,
    "compare": """
        errors evaluation grading hashing printing report runs storage tables wording
    """,
    "pages": """
        alarms backend config data disputes errors evaluation grading hashing liveness models
        opening policy prices printing prompts regrade report request_heads rewards
        rewards/blindfold rl runs storage tables wording
    """,
    "notebook": """
        alarms config data errors evaluation jsonl opening report runs storage tables wording
    """,
    "promotion": "errors evaluation exports hashing printing storage wording",
    "doctor": """
        backend config data data/sources engine engine/compute engine/store errors evaluation models
        policy prices printing prompts report rewards rl runs sft wording
    """,
    "sweeps": """
        backend config data doctor errors evaluation hashing prices printing report runs sft storage
        wording
    """,
    "verify": """
        config data engine engine/store errors evaluation exports hashing printing promotion regrade
        report runs storage sweeps
    """,
    "tasks/records": """
        alarms config data errors evaluation exports hashing prices printing report runs
        tasks/outcome wording
    """,
    "tasks": """
        backend config data data/sources doctor errors evaluation exports garbage hashing liveness
        models perception printing progress promotion report runs secrecy sft storage streams suites
        sweeps tasks/records wording
    """,
    "flows": """
        backend config conformance data doctor errors evaluation exports garbage prices printing
        progress promotion report runs serving sft stopwatch storage suites sweeps tasks
        tasks/records wording
    """,
    "flows/operating": """
        backend errors flows/command hashing liveness pages printing storage tasks
    """,
}

# The libraries that a wall keeps out, and the rooms and single files that import them: computing
# knows no HTTP, the store of checkpoints no torch beyond safetensors' own, the server no maths, and
# below `tasks` nobody knows Prefect.
LIBRARIES = {
    "fastapi": "engine/server pages",
    "httpx": """
        backend/endpoint data/sources/hub exports/download exports/hub flows/operating tasks
        tasks/records/sending
    """,
    "numpy": """
        alarms conformance data data/procedural disputes engine/compute engine/compute/families
        engine/server/wire engine/store/soundness engine/types evaluation/clustered
        evaluation/seeds evaluation/statistics exports prompts/fit prompts/images rl
        runs/curriculum_state sft
    """,
    "peft": "engine/compute/experts engine/compute/lora engine/compute/low_rank exports",
    "prefect": "flows flows/operating tasks tasks/records",
    "pydantic": """
        config data/manifest engine/server engine/store evaluation/answers
        evaluation/metrics exports/record flows/operating jsonl models/hosted pages
        perception promotion regrade report runs serving/requests stopwatch storage
        suites/suite sweeps tasks/attempts tasks/environment tasks/forms
    """,
    "safetensors": "engine/compute/base_model engine/store exports",
    "starlette": "engine/server/app engine/server/bodies pages serving/app serving/refusals",
    "tinker": """
        backend conformance doctor/prompts engine/server evaluation exports pages/scoring policy
        prompts/chats prompts/prompts rl runs serving sft
    """,
    "torch": """
        engine/compute engine/compute/families engine/store/brought engine/store/tensors exports
        rl/own_loss rl/sapo
    """,
    "transformers": """
        engine/compute engine/compute/families engine/process exports models/processor
    """,
    "uvicorn": "engine/process pages/command request_heads serving/serve tasks/server_process",
}


class Import(NamedTuple):
    """One name that a file imports; `by` and `of` are places, as the tables name them.

    `of` is None for what is not of this project.
    """

    by: str
    line: int
    name: str
    of: str | None

    def __str__(self) -> str:
        return f"{self.by}.py, line {self.line}, imports {self.name}"


def place_of(path: Path) -> str:
    """`visual_r1/rl/step.py` is `rl/step`."""
    return path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("visual_r1/")


# By the names under which they are imported.
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for house in ("flows", "tasks", "visual_r1")
    for path in sorted((ROOT / house).rglob("*.py"))
}
OUTSIDE = {"benchmarks", "scripts", "tests", "trials"}


@cache
def imports() -> list[Import]:
    found: list[Import] = []
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.module and not node.level, f"{path}, line {node.lineno}: name it whole"
                # `from package import module` imports the module.
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in FILES else node.module for name in inner]
            for name in dict.fromkeys(names):
                root = name.partition(".")[0]
                of = place_of(FILES[name]) if name in FILES else root if root in OUTSIDE else None
                found.append(Import(place_of(path), node.lineno, name, of))
    return found


def room_of(place: str) -> str:
    """The innermost room of the table that `place` is in; its first folder where none is."""
    parts = place.split("/")
    within = ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
    return next((room for room in within if room in ROOMS), parts[0])


def test_the_rooms_import_what_the_table_says_and_all_of_that() -> None:
    allowed = {room: set(line.split()) for room, line in ROOMS.items()}
    needed: dict[str, set[str]] = {room: set() for room in ROOMS}
    wrong = [
        f"{path.relative_to(ROOT)} is in no room of the table"
        for module, path in FILES.items()
        if room_of(place_of(path)) not in ROOMS and module != "visual_r1"
    ]
    for one in imports():
        room, other = room_of(one.by), room_of(one.of or "")
        if one.of is None or room == other or room not in ROOMS:
            continue
        # What is around a room is named file by file.
        target = one.of if room.startswith(f"{other}/") else other
        needed[room].add(target)
        if target not in allowed[room]:
            wrong.append(f"{one}, and {room} may import {ROOMS[room].split()}, not {target}")
    for room, names in allowed.items():
        wrong += [
            f"{room} imports nothing of {name}: take it out of the table"
            for name in sorted(names - needed[room])
        ]
    rank = {room: place for place, room in enumerate(ROOMS)}
    for room, names in allowed.items():
        wrong += [
            f"{room} must not import {name}: the table has it further from the ground"
            for name in sorted(names & rank.keys())
            if rank[name] >= rank[room]
        ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_what_stands_side_by_side_forms_no_circle() -> None:
    """Files of a room; and rooms, each taken as a whole, with the files beside them."""
    folders: dict[str, dict[tuple[str, str], Import]] = {}
    for one in imports():
        by, of = one.by.split("/"), (one.of or one.by).split("/")
        parting = next((at for at, (a, b) in enumerate(zip(by, of, strict=False)) if a != b), None)
        if parting is not None:
            folder = folders.setdefault("/".join(by[:parting]), {})
            folder.setdefault((by[parting], of[parting]), one)
    wrong: list[str] = []
    for folder, edges in folders.items():
        graph: dict[str, list[str]] = {}
        for by, of in edges:
            graph.setdefault(by, []).append(of)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]  # each imports the next one
            steps = "; ".join(str(edges[pair]) for pair in pairwise(circle))
            wrong.append(f"in {folder or 'visual_r1'}, {' -> '.join(circle)} is a circle: {steps}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_large_libraries_stay_behind_their_walls() -> None:
    wrong: list[str] = []
    unused = {(name, place) for name, line in LIBRARIES.items() for place in line.split()}
    for one in imports():
        library = one.name.partition(".")[0]
        if library not in LIBRARIES:
            continue
        places: Iterable[str] = LIBRARIES[library].split()
        at = next((place for place in (one.by, room_of(one.by)) if place in places), None)
        if at is None:
            wrong.append(f"{one}, which may be imported in {LIBRARIES[library].split()} alone")
        unused.discard((library, at or ""))
    wrong += [f"{place} does without {name}: take it out" for name, place in sorted(unused)]
    assert not wrong, "\n" + "\n".join(wrong)
