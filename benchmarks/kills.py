"""Random kills: training, engine or both, at random moments; does each run end the same?

    python benchmarks/kills.py             # 95 through the chunk function, a third of them with
                                           # staleness, a third with validation and dynamic
                                           # sampling; and 12 the flow
    python benchmarks/kills.py --kills 0 --flow-kills 0 --supervised-kills 20    # cold starts
    python benchmarks/kills.py --kills 10 --flow-kills 0 --seed 3

Each run is killed several times, started again where the training was killed, and then let go to
its end. There its weights, optimizer, metrics, rollouts, checkpoints and evaluations must be those
of a run that nobody disturbed, bit for bit. Of an engine that is killed alone the living training
must recover by itself. How the moments are drawn: `kill_runs/moments.py`.
Everything is drawn from `--seed`; what a kill hits depends on the machine's pace as well.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from kill_runs.life import Life
from kill_runs.moments import Aim, Pace, draw_by_event, pace_of, spread_over_phases

from trials.programs import Victim, Way, run_dir
from trials.run_outcome import Outcome, outcome_of

FLOW_KILLS_A_RUN = 3
VICTIMS: tuple[Victim, ...] = ("training", "engine", "both")


def undisturbed(way: Way, folder: Path) -> tuple[Outcome, Pace]:
    """The reference, and its pace."""
    life = Life(way, folder)
    if life.end() != 0:
        sys.exit(f"the undisturbed run failed:\n{''.join(life.output)}")
    return outcome(way, folder), pace_of(life.events, time.monotonic() - life.began)


def outcome(way: Way, folder: Path) -> Outcome:
    """What a finished run left."""
    return outcome_of(run_dir(way, folder), folder / ".visual-r1/engine")


def aims(way: Way, number: int, seed: int, pace: Pace, rng: random.Random) -> Iterator[Aim]:
    """When to kill run `number`."""
    if way == "flow":
        yield from spread_over_phases(seed, number, FLOW_KILLS_A_RUN, pace)
        return
    while True:
        yield draw_by_event(rng, pace)


def killed_run(
    way: Way, number: int, seed: int, most: int, reference: Outcome, pace: Pace, log: TextIO
) -> list[dict[str, Any]]:
    """One run with up to `most` kills; a row a kill, which says what differs in the end."""
    rng = random.Random(f"{seed}-{way}-{number}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        life = Life(way, folder)
        for aim in aims(way, number, seed, pace, rng):
            if len(rows) == most or not life.reach(aim):
                break
            phase = life.phase
            victim = life.kill(rng.choice(VICTIMS))
            rows.append({"way": way, "run": number, "phase": phase, "victim": victim})
            if victim != "engine":
                life = Life(way, folder)
        status = life.end()
        if status == 0:
            differing = outcome(way, folder).differing(reference)
        else:
            differing = [f"exit status {status}"]
            sys.stderr.write("".join(life.output[-20:]))
        for row in rows:
            row["differing"] = differing
            log.write(json.dumps(row) + "\n")
        log.flush()
    return rows


def measure(way: Way, kills: int, a_run: int, seed: int, log: TextIO) -> list[dict[str, Any]]:
    """Kill runs until `kills` kills were done."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        reference, pace = undisturbed(way, Path(temporary))
    print(f"{way}: undisturbed: {pace}", flush=True)
    number = 0
    while len(rows) < kills:
        rows += killed_run(way, number, seed, min(a_run, kills - len(rows)), reference, pace, log)
        number += 1
        same = sum(not row["differing"] for row in rows)
        took = time.monotonic() - began
        print(f"{way}: {len(rows)} kills, {same} the same, {took:.0f} s", flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Kills by phase and victim, as Markdown."""
    count = Counter((row["way"], row["phase"], row["victim"]) for row in rows)
    lines = ["| way | phase | training | engine | both |", "| --- | --- | ---: | ---: | ---: |"]
    for way, phase in sorted({(row["way"], row["phase"]) for row in rows}):
        cells = " | ".join(str(count[way, phase, victim]) for victim in VICTIMS)
        lines.append(f"| {way} | {phase} | {cells} |")
    same = sum(not row["differing"] for row in rows)
    runs = len({(row["way"], row["run"]) for row in rows})
    return "\n".join([*lines, "", f"{len(rows)} kills in {runs} runs; {same} ended the same."])


def main() -> int:
    """Measure, print the table; 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=95, help="through the chunk function")
    parser.add_argument(
        "--flow-kills", type=int, default=12, help="through the flow; 12: each phase"
    )
    parser.add_argument("--supervised-kills", type=int, default=0, help="of cold starts")
    parser.add_argument("--a-run", type=int, default=6, help="kills a run, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"), help="a row a kill")
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with chosen.out.open("a", encoding="utf-8") as log:
        if chosen.flow_kills:
            rows += measure("flow", chosen.flow_kills, chosen.a_run, chosen.seed, log)
        if chosen.kills:
            third = chosen.kills // 3
            rows += measure("chunks", chosen.kills - 2 * third, chosen.a_run, chosen.seed, log)
            rows += measure("stale", third, chosen.a_run, chosen.seed, log)
            rows += measure("validated", third, chosen.a_run, chosen.seed, log)
        if chosen.supervised_kills:
            rows += measure("supervised", chosen.supervised_kills, chosen.a_run, chosen.seed, log)
    print(table(rows))
    return 0 if not any(row["differing"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
