"""Rounds of several programs in turn: A B, B A, A B, ... after one of each to warm up."""

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from beside.faults import BenchmarkError


@dataclass(frozen=True)
class Round:
    """What one round took: the clock, processor time of all its processes, and the load then."""

    seconds: float
    cpu_seconds: float
    load: float
    counted: dict[str, Any] = field(default_factory=dict)


class Told:
    """A program of `told.answer_rounds` in a process of its own; use it as a context."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        until: float | None = None,
    ) -> None:
        """Start it. `until` is on the clock of `time.monotonic`: no answer is waited for longer."""
        self.name = name
        self._until = until
        self._log = log
        self._log_file: IO[bytes] = log.open("wb")
        self._process = subprocess.Popen(
            list(command), env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log_file, text=True,
        )  # fmt: skip
        self._facts: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """What it prepared; waits until it has. Raises `BenchmarkError` where it died of it."""
        if self._facts is None:
            self._facts = self._answer("get ready")
        return self._facts

    def round(self, number: int) -> Round:
        """Run one round and wait for it."""
        self.facts()
        assert self._process.stdin is not None
        load = os.getloadavg()[0]
        with suppress(BrokenPipeError):  # It died: the missing answer says so.
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        counted = self._answer(f"run round {number}")
        return Round(counted.pop("seconds"), counted.pop("cpu_seconds"), load, counted)

    def _answer(self, what: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        if self._until is not None:
            left = max(0.0, self._until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                self._process.kill()
                raise BenchmarkError(f"{self.name} had no time left to {what}.")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise BenchmarkError(
                f"{self.name} could not {what} ({said[-1] if said else 'it said nothing'}); its "
                f"log is {self._log}."
            )
        return json.loads(line)

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log_file.close()


def in_turn(programs: Sequence[Told], rounds: int, warm: int = 1) -> dict[str, list[Round]]:
    """`rounds` rounds of each after `warm` that do not count, by the programs' names."""
    console = Console(stderr=True)
    for program in programs:
        program.facts()
        for _ in range(warm):
            program.round(0)
    taken: dict[str, list[Round]] = {program.name: [] for program in programs}
    for number in range(1, rounds + 1):
        # The order turns round: what one leaves behind (a warm cache, a hot core) meets both.
        for program in programs if number % 2 else [*programs][::-1]:
            one = program.round(number)
            taken[program.name].append(one)
            console.print(
                f"round {number}: {program.name} {one.seconds:.3f} s, load {one.load:.1f}",
                style="dim",
            )
    return taken
