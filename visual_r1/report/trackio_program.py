"""The program that tells trackio: `python -m visual_r1.report.trackio_program JOB`.

It is a process of its own, so that whatever trackio does (a database that is locked, a network that
hangs, an error) is not the run's. It imports nothing else of Visual R1, which would take seconds.
What trackio has already, by step and key, is left out; two of these at once wait for each other.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def main(job_file: str) -> int:
    """Tell trackio what the file says; the exit status."""
    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    with Path(job["lock"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _tell(job)
        # Last, and whole: a kill before this tells again, and finds it told.
        state = Path(job["state"])
        temporary = state.with_name(f".{state.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(job["told"]), encoding="utf-8")
        temporary.replace(state)
    shutil.rmtree(job["pictures"], ignore_errors=True)
    return 0


def _tell(job: Mapping[str, Any]) -> None:
    trackio: Any = import_module("trackio")
    run = trackio.init(
        project=job["project"],
        name=job["run"],
        config=job["config"],
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    there, alerted = _there(job["project"], job["run"])
    for entry in job["entries"]:
        if (entry["step"], entry["key"]) in there:
            continue
        values = entry.get("values")
        if values is None:
            rows = [
                {**row, "image": [trackio.Image(path) for path in row["image"]]}
                for row in entry["table"]
            ]
            values = {entry["key"]: trackio.Table(data=rows)}
        run.log(values, step=entry["step"])
    for one in job["traces"]:
        if (one["step"], one["key"]) in there:
            continue
        asked = [{"type": "text", "text": one["question"]}]
        asked += [{"type": "image", "image": trackio.Image(path)} for path in one["images"]]
        traces = [
            trackio.Trace(
                [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": sample["response"]},
                ],
                metadata=sample["metadata"],
            )
            for sample in one["samples"]
        ]
        run.log({one["key"]: traces}, step=one["step"])
    for alert in job["alerts"]:
        if alert["title"] not in alerted:
            level = trackio.AlertLevel(alert["level"])
            run.alert(alert["title"], alert["text"], level=level, step=alert["step"])
    trackio.finish()


def _there(project: str, run: str) -> tuple[set[tuple[int, str]], set[str]]:
    """What the local database has of the run: keys by step, and titles of alerts."""
    storage: Any = import_module("trackio.sqlite_storage").SQLiteStorage
    logs = storage.get_logs(project, run)
    keys = {(int(log["step"]), key) for log in logs for key in log}
    traces = storage.get_traces(project, run)
    keys |= {(int(one["step"]), one["key"]) for one in traces if "key" in one}
    return keys, {one["title"] for one in storage.get_alerts(project, run_name=run)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
