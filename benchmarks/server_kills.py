"""Random kills of the temporary Prefect server under a living run: does each run end well?

    python benchmarks/server_kills.py                  # 20 runs, a kill each
    python benchmarks/server_kills.py --signal STOP    # a server that stands still instead

Each run is one of `train_flow.py` (6 steps, validated every 2), whose server is killed once: each
phase of a run in turn, at a uniform moment of the time that it takes. A run must exit 0 with its
summary as the last words, no traceback, and the outcome of a run that nobody disturbed, bit for
bit. How much later it ends than that one is how long the kill held it up.
"""

import argparse
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

import psutil
from kill_runs.life import Life
from kill_runs.moments import START, Aim, Pace, pace_of

from trials.programs import run_dir
from trials.run_outcome import Outcome, outcome_of

SERVER = "server_process.py"
BEHIND = re.compile(
    r"[^\n]*Prefect(?:'s temporary server| has no record)(?:(?!Report:).)*"
    r"(?:loses\s+nothing|own\s+files)\.\s*$",
    re.DOTALL,
)
"""A sentence that may follow the summary: what became of the server, or what it was not told."""


def server_of(life: Life) -> psutil.Process | None:
    """The temporary server of a run; None where there is none at present."""
    with suppress(psutil.Error):
        for child in psutil.Process(life.process.pid).children():
            if any(SERVER in part for part in child.cmdline()):
                return child
    return None


def kill_server(life: Life, number: signal.Signals) -> bool:
    """Kill the server of a living run, as soon as there is one; False where the run has ended."""
    while life.process.poll() is None:
        server = server_of(life)
        if server is not None:
            server.send_signal(number)
            return True
        time.sleep(0.05)
    return False


def outcome(folder: Path) -> Outcome:
    """What a finished run left."""
    return outcome_of(run_dir("flow", folder), folder / ".visual-r1/engine")


def killed_run(
    home: Path, aim: Aim, number: signal.Signals, reference: Outcome, pace: Pace
) -> dict[str, Any]:
    """One run with one kill, and how it ended."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(home, folder / ".visual-r1" / "prefect")
        life = Life("flow", folder)
        if not (life.reach(aim) and kill_server(life, number)):
            return {"phase": life.phase, "killed": False}
        phase, at = life.phase, time.monotonic() - life.began
        status = life.end()
        took = time.monotonic() - life.began
        all_said = "".join(life.output)
        said = BEHIND.sub("", all_said).strip()
        faults = [f"exit status {status}"] if status else outcome(folder).differing(reference)
        faults += [word for word in ("Traceback", "Error", "error:") if word in said]
        last = said.rpartition("\n")[2].strip()
        if not last.endswith("report.html") and "Report:" not in "".join(said.splitlines()[-2:]):
            faults.append("the summary is not what it says last")
        return {
            "phase": phase,
            "killed": True,
            "at": round(at, 1),
            "ended_after": round(took - at, 1),
            "later": round(took - pace.seconds, 1),
            "status": status,
            "noticed": all_said.count("Another one takes its place"),
            "last": last,
            "faults": faults,
        }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """By phase, as Markdown."""
    lines = [
        "| phase | kills | exit 0 | last words true | s later than undisturbed |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        found = [row for row in rows if row["phase"] == phase]
        good = sum(row["status"] == 0 for row in found)
        true = sum(not row["faults"] for row in found)
        later = ", ".join(f"{row['later']:.0f}" for row in found)
        lines.append(f"| {phase} | {len(found)} | {good} | {true} | {later} |")
    slowest = max(rows, key=lambda row: row["later"])
    good = sum(not row["faults"] for row in rows)
    return "\n".join(
        [
            *lines,
            "",
            f"{len(rows)} kills; {good} runs ended well. The slowest, killed in phase "
            f"{slowest['phase']}, ended {slowest['ended_after']:.0f} s after the kill, "
            f"{slowest['later']:.0f} s later than the undisturbed run.",
        ]
    )


def main() -> int:
    """Measure, print the table; 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phase", help="this one alone: report, for the last moments")
    parser.add_argument("--signal", choices=["KILL", "STOP"], default="KILL")
    parser.add_argument("--out", type=Path, default=Path("server_kills.jsonl"), help="a row a kill")
    chosen = parser.parse_args()
    number = signal.Signals[f"SIG{chosen.signal}"]
    rng = random.Random(chosen.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary, chosen.out.open("a", encoding="utf-8") as log:
        folder = Path(temporary)
        home = folder / "first/.visual-r1/prefect"
        for name in ("first", "reference"):  # the second finds a home that is there
            if name == "reference":
                shutil.copytree(home, folder / name / ".visual-r1/prefect")
            life = Life("flow", folder / name)
            if life.end() != 0:
                sys.exit(f"the undisturbed run failed:\n{''.join(life.output)}")
        pace = pace_of(life.events, time.monotonic() - life.began)
        reference = outcome(folder / "reference")
        print(f"undisturbed: {pace}", flush=True)
        phases = [chosen.phase] if chosen.phase else list(pace.phases)
        while len(rows) < chosen.kills:
            phase = phases[len(rows) % len(phases)]
            count = 0 if phase == START else 1
            # The last seconds of a program are Python's own, when the server has been ended.
            span = 1.0 if phase == "report" else pace.phases[phase]
            aim = Aim(count, phase, rng.uniform(0, span))
            row = killed_run(home, aim, number, reference, pace)
            if row["killed"]:
                rows.append(row)
                log.write(json.dumps(row) + "\n")
                log.flush()
            print(row, flush=True)
    print(table(rows))
    return 0 if not any(row["faults"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
