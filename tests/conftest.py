"""What all tests share."""

import resource
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import hypothesis
import pytest

# How long an example takes is a matter of the machine and of who else uses it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

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
