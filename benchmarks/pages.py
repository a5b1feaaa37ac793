"""How quick the pages are on many stored rollouts, by which plan, and in how much memory.

    python benchmarks/pages.py                       # 100,000 made-up rollouts
    python benchmarks/pages.py --rollouts 20000 --chunks 40 --vouched no
    python benchmarks/pages.py --plan                # and the plan of each question

It makes a run of that many rollouts, starts a server of the pages as `visual-r1 view` does, and
asks it over HTTP: what is timed is a whole answer, its text included. The first page is that of a
server that has just started, when no file has been looked at. CPU is the server's, over all its
threads: on a machine that others use it says more than the clock. Each address is asked `--times`
times.
"""

import argparse
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "material"), str(ROOT)]

from written import (  # noqa: E402
    RUN,
    rollout_row,
    stored_problem,
    write_home,
    write_rollouts,
)

from visual_r1.runs.journal import Journal  # noqa: E402
from visual_r1.runs.ledger import Ledger, LedgerRow  # noqa: E402

GROUP, GROUPS = 8, 25
_TEXT = """the angle triangle side length therefore equals we know that segment parallel circle
radius figure shows measure of and is so because compute sum find value given point line bisects
opposite adjacent similar ratio"""
_WORDS = _TEXT.split()

LIMITS_MS = {"first page": 1000.0, "filter": 300.0, "group": 200.0}
LIMIT_MB = 400.0
ADDRESSES = (
    ("filter", "by verdict", "rollouts?verdict=wrong"),
    ("filter", "by outcome, reward, steps", "rollouts?outcome=scan_only&reward_to=0.6&step_from=9"),
    (
        "filter",
        "a component, longest first",
        "rollouts?component=format&component_to=0&sort=-tokens",
    ),
    ("filter", "ordered by reward", "rollouts?sort=reward"),
    ("filter", "a text in nearly all", "rollouts?text={word}"),
    ("filter", "a text in none", "rollouts?text=no+such+thing+{time}"),
    ("filter", "a regular expression", "rollouts?text=bisects{time}[67]%2B&how=regex"),
    ("filter", "of a text, the wrong ones", "rollouts?text=angle&verdict=wrong"),
    ("filter", "a page far behind", "rollouts?sort=oldest&after={far},-{far},3,0"),
    ("filter", "one problem", "rollouts?problem=set/7"),
    ("group", "a group", "group?step={middle}&group=7"),
    ("problem", "a problem through all steps", "problem?id=set/7"),
)


def written(rng: random.Random) -> str:
    """A response of 600 to 1,900 characters, about as a model of some size writes."""
    count = rng.randint(80, 280)
    words = (
        rng.choice(_WORDS) + (str(rng.randint(1, 180)) if rng.random() < 0.2 else "")
        for _ in range(count)
    )
    return f"<think>{' '.join(words)}</think><answer>{rng.randint(1, 180)}</answer>"


def make_run(home: Path, rollouts: int, chunks: int, *, vouched: bool) -> Path:
    """A run of that many rollouts in so many files; `vouched`: its ledger has their digests."""
    rng = random.Random(0)
    run_dir = write_home(home, [stored_problem(index) for index in range(200)])
    steps = -(-rollouts // (GROUP * GROUPS))
    per_chunk = -(-steps // chunks)
    digests: dict[str, str] = {}
    for chunk in range(chunks):
        rows: list[dict[str, Any]] = []
        for step in range(chunk * per_chunk, min(steps, (chunk + 1) * per_chunk)):
            for group in range(GROUPS):
                for sample in range(GROUP):
                    right, seen = rng.random() < 0.4, rng.random() < 0.5
                    outcome = ("both" if seen else "image_only") if right else (
                        "scan_only" if seen else "neither"
                    )  # fmt: skip
                    rows.append(
                        rollout_row(
                            step, group, sample,
                            problem_id=f"set/{(step * GROUPS + group) * 7919 % 200}",
                            response=written(rng), verdict="right" if right else "wrong",
                            outcome=outcome, reward=round(rng.random() * 2, 3),
                            reward_accuracy=float(right), reward_format=float(rng.random() < 0.9),
                            response_tokens=rng.randint(50, 768),
                            stop_reason="length" if rng.random() < 0.05 else "stop",
                            second_verdict="right" if seen else "wrong",
                            scan_read="angle A reads 74. " * 8,
                            second_response="<answer>62</answer>",
                        )
                    )  # fmt: skip
        if rows:
            digests |= Journal(run_dir).rollouts_digest(write_rollouts(run_dir, chunk, rows))
    if vouched:
        ledger = Ledger(run_dir)
        row = ledger.rows()[-1]
        fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
        ledger.append(LedgerRow(**{**fields, "step": steps + 1, "digests": digests}))
    return run_dir


_SERVER = """
import socket, sys
from pathlib import Path
import uvicorn
from visual_r1.pages.app import pages
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
app = pages(Path(sys.argv[1]), "token")
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])
"""


class Server:
    """The pages over `home`, in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(home)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        self.client.get("/?token=token", follow_redirects=True)

    def asked(self, path: str) -> tuple[float, float, httpx.Response]:
        """Milliseconds by the clock, milliseconds of the server's CPU, and the answer."""
        cpu, begun = self.cpu_ms(), time.perf_counter()
        answer = self.client.get(path)
        return 1000 * (time.perf_counter() - begun), self.cpu_ms() - cpu, answer

    def cpu_ms(self) -> float:
        """What the process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return 1000 * ticks / 100

    def memory_mb(self, field: str) -> float:
        """`VmRSS` or `VmHWM`, its highest."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        [line] = [one for one in lines if one.startswith(f"{field}:")]
        return int(line.split()[1]) / 1024

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        self.process.wait()


def measure(home: Path, times: int, steps: int) -> tuple[list[dict[str, Any]], float, float]:
    """A row for each address, and the server's memory before and at its highest."""
    rows: list[dict[str, Any]] = []
    server = Server(home)
    try:
        empty = server.memory_mb("VmRSS")
        wall, cpu, answer = server.asked(f"/runs/{RUN}/rollouts")
        answer.raise_for_status()
        rows.append(_row("first page", "of a new server", [wall], [cpu], answer))
        for kind, name, path in (("filter", "all, again", "rollouts"), *ADDRESSES):
            found = [
                server.asked(
                    f"/runs/{RUN}/"
                    # A text that was looked for is not looked for again: each time another one.
                    + path.format(far=steps * 3 // 4, middle=steps // 2, time=at, word=_WORDS[at])
                )
                for at in range(times)
            ]
            answer = found[-1][2]
            answer.raise_for_status()
            rows.append(
                _row(kind, name, [one[0] for one in found], [one[1] for one in found], answer)
            )
        return rows, empty, server.memory_mb("VmHWM")
    finally:
        server.close()


def _row(
    kind: str, name: str, wall: Sequence[float], cpu: Sequence[float], answer: httpx.Response
) -> dict[str, Any]:
    return {
        "kind": kind, "address": name, "median_ms": round(statistics.median(wall), 1),
        "least_ms": round(min(wall), 1), "most_ms": round(max(wall), 1),
        "cpu_ms": round(statistics.median(cpu), 1), "kb": round(len(answer.content) / 1024, 1),
    }  # fmt: skip


def _reads(node: Any) -> list[str]:
    """What each reading of Parquet in a plan takes: columns, row groups, rows."""
    if isinstance(node, list):
        return [line for one in node for line in _reads(one)]
    found = _reads(node.get("children", []))
    if node.get("name", "").strip() == "SEQ_SCAN":
        found.append(f"{node['rows_scanned']:,} rows in memory")
    if node.get("name") == "READ_PARQUET":
        said = node["extra_info"]
        columns = said.get("Projections", [])
        columns = [columns] if isinstance(columns, str) else columns
        groups = f"{node['row_groups_scanned']} of {node['total_row_groups_to_scan']} row groups"
        where = f" where {said['Filters']}" if said.get("Filters") else ""
        found.append(f"{node['rows_scanned']:,} rows of {groups}{where}: {', '.join(columns)}")
    return found


def show_plans(run_dir: Path, steps: int) -> None:
    """What DuckDB does for each question: columns and row groups that are read."""
    from visual_r1.pages.lines import KeptLines, kept_lines, lines_of
    from visual_r1.pages.queries import Session, names_of, queries
    from visual_r1.pages.rollouts import Asked, Rollouts
    from visual_r1.pages.samples import GroupPlace, group_samples, neighbours
    from visual_r1.pages.sound import sound_files

    files = sound_files().rollouts(run_dir)
    all_files = {"files": names_of(files.paths)}

    class Explained(Session):
        def rows(self, shape: Any, sql: str, values: Any) -> Any:
            named = {name: value for name, value in values.items() if f"${name}" in sql}
            select = sql.partition(" AS ")[2] if sql.startswith("CREATE") else sql
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {select}"
            [(_, plan)] = self._cursor.execute(explain, named).fetchall()
            for read in _reads(json.loads(plan)["operator"]):
                print("  reads", read)
            return super().rows(shape, sql, values)

    print("\nthe lines in memory")
    with Explained(queries()._database.cursor()) as session:
        session.run(f"CREATE TEMP TABLE made AS {lines_of(files)}", all_files)
    queried = ({}, {"verdict": "wrong", "sort": "reward"}, {"text": "bisects"})
    for query, kept in itertools.product(queried, (True, False)):
        print(f"\nrollouts {query}, {'by the lines in memory' if kept else 'of the files'}")
        with (
            (kept_lines() if kept else KeptLines(most=0)).lent(files) as table,
            Explained(queries()._database.cursor()) as session,
        ):
            found = Rollouts(session, files, Asked.of(query), table)
            print(" page")
            found.page()
            print(" counts")
            found.counts()
    print("a group, then where its neighbours are")
    with Explained(queries()._database.cursor()) as session:
        place = GroupPlace(steps // 2, 7)
        group_samples(session, files, place)
        neighbours(session, files, place)


def main() -> int:
    """Make the run, measure, print a table; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--vouched", choices=("yes", "no"), default="yes")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--home", type=Path, help="make the run here, or take the one that is there"
    )
    chosen = parser.parse_args()
    steps = -(-chosen.rollouts // (GROUP * GROUPS))
    with tempfile.TemporaryDirectory() as temporary:
        home = chosen.home or Path(temporary) / "home"
        run_dir = home / "runs" / RUN
        if not run_dir.exists():
            run_dir = make_run(
                home, chosen.rollouts, chosen.chunks, vouched=chosen.vouched == "yes"
            )
        rows, empty, highest = measure(home, chosen.times, steps)
        if chosen.plan:
            show_plans(run_dir, steps)
        size = sum(path.stat().st_size for path in run_dir.glob("rollouts/*")) / 2**20
    if chosen.json:
        print(json.dumps({"rows": rows, "empty_mb": empty, "highest_mb": highest}, indent=2))
    else:
        print(f"{chosen.rollouts:,} rollouts in {chosen.chunks} files, {size:.0f} MiB\n")
        print(f"{'address':34} {'median ms':>10} {'least':>8} {'most':>8} {'CPU ms':>8} {'KiB':>7}")
        for row in rows:
            name = f"{row['kind']}: {row['address']}"
            print(
                f"{name:34} {row['median_ms']:10.0f} {row['least_ms']:8.0f} {row['most_ms']:8.0f} "
                f"{row['cpu_ms']:8.0f} {row['kb']:7.0f}"
            )
        print(f"\nmemory of the server: {empty:.0f} MB before, {highest:.0f} MB at its highest")
    over = [row for row in rows if row["median_ms"] > LIMITS_MS.get(row["kind"], 1000.0)]
    for row in over:
        print(f"over {LIMITS_MS.get(row['kind'], 1000.0):.0f} ms: {row['address']}")
    return int(bool(over) or highest > LIMIT_MB)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
