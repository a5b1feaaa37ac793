"""What all tests share."""

import asyncio
import gc
import resource
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import hypothesis
import pytest
from prefect_home import Give, prefect_home

# How long an example takes is a matter of the machine and of who else uses it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """What the tests' modules have imported stays: looking through it took 6 % of their time."""
    gc.collect()
    gc.freeze()


FullDisk = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def full_disk() -> FullDisk:
    """`with full_disk(n):` no file of this process may grow beyond n bytes, as on a full disk.

    For a block and not for a test: pytest's own output may go to a file that is larger.
    """

    @contextmanager
    def limited(most_bytes: int) -> Generator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def give_home(tmp_path_factory: pytest.TempPathFactory) -> Give:
    """Gives a folder the Prefect home of a run that was there before; returns the folder."""
    home = prefect_home(tmp_path_factory)

    def give(folder: Path) -> Path:
        shutil.copytree(home, folder / ".visual-r1" / "prefect")
        return folder

    return give


@pytest.fixture(scope="module", autouse=True)
def _no_session_goes_on() -> Iterator[None]:
    """No session of the SDK outlives its module: its heartbeats would fail, and say so."""
    yield
    holders = sys.modules.get("tinker.lib.internal_client_holder")
    loop = holders and holders._internal_client_holder_thread_singleton.loop_if_started()
    if not loop:
        return

    async def heartbeats() -> list[str]:
        tasks = [task.get_coro() for task in asyncio.all_tasks()]
        return [str(coro) for coro in tasks if "_session_heartbeat" in coro.__qualname__]

    deadline = time.monotonic() + 60  # ended sessions are cleaned up in the background
    while left := asyncio.run_coroutine_threadsafe(heartbeats(), loop).result(5):
        assert time.monotonic() < deadline, f"sessions that nobody closed: {left}"
        time.sleep(0.02)
