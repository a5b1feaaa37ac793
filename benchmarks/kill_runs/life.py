"""One start of a program, what it said, and its end."""

import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil

from kill_runs.moments import START, Aim, phase_of
from trials.programs import ROOT, Victim, Way, clean_environment, command

ENGINE = "visual_r1.engine"
LONGEST_RUN_S = 1200
LONGEST_GOODBYE_S = 120


class Life:
    """A program from its start on; `phase` is where it stands."""

    def __init__(self, way: Way, folder: Path) -> None:
        self.began = time.monotonic()
        self.phase = START
        self.events: list[tuple[float, str]] = []
        self.output: list[str] = []
        self._news: queue.Queue[None] = queue.Queue()
        self.process = subprocess.Popen(
            command(way, folder),
            env=clean_environment() | {"TINKER_TELEMETRY": "0"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            found = phase_of(line)
            if found is not None:
                self.phase = found
                self.events.append((time.monotonic() - self.began, found))
                self._news.put(None)

    def reach(self, aim: Aim) -> bool:
        """Wait for the moment; False where the program ended before."""
        seen = len(self.events)
        while not self._has_reached(aim, seen):
            if self.process.poll() is not None:
                return False
            try:
                self._news.get(timeout=0.2)
            except queue.Empty:
                continue
        try:
            self.process.wait(aim.seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _has_reached(self, aim: Aim, seen: int) -> bool:
        later = [phase for _, phase in self.events[seen:] if aim.phase in (None, phase)]
        return len(later) >= aim.count

    def kill(self, victim: Victim) -> Victim:
        """Kill, and see that nobody is left behind; returns who was there to be killed."""
        family = self._family()
        engines = [child for child in family if _runs_engine(child)][:1]
        if not engines:
            victim = "training"
        elif victim != "training":
            engines[0].send_signal(signal.SIGKILL)
        if victim == "engine":
            gone = engines
        else:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            gone = family
        _, left = psutil.wait_procs(gone, timeout=LONGEST_GOODBYE_S)
        if left:
            raise RuntimeError(f"still there {LONGEST_GOODBYE_S} s after the kill: {left}")
        return victim

    def end(self) -> int:
        """Let it go to its end; the exit status."""
        status = self.process.wait(timeout=LONGEST_RUN_S)
        self._reader.join()
        return status

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _runs_engine(process: psutil.Process) -> bool:
    try:
        return ENGINE in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
