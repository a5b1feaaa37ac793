"""A card as nvidia-smi knows it, and the memory that a program takes of it."""

import subprocess
import threading

import psutil

from beside.faults import BenchmarkError


class Memory:
    """The most memory in use, looked at four times a second: of the card, or resident."""

    def __init__(self, device: str, pid: int) -> None:
        self._device, self._process = device, psutil.Process(pid)
        self._peak = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def take(self) -> float:
        """The peak since it was last asked for, in GiB."""
        peak, self._peak = max(self._peak, self._now()), 0.0
        return peak

    def _now(self) -> float:
        if self._device != "cuda":
            return self._process.memory_info().rss / 2**30
        return float(smi("memory.used").split()[0]) / 1024

    def _look(self) -> None:
        while not self._over.wait(0.25):
            self._peak = max(self._peak, self._now())

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def card() -> str:
    """Its name and driver. Raises `BenchmarkError` where there is none."""
    return smi("name,memory.total,driver_version")


def smi(query: str) -> str:
    """What nvidia-smi says of the first card."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(
            "there is no NVIDIA card here that nvidia-smi knows of: --small tries the script on a "
            "processor."
        ) from error
