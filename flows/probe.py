"""`visual-r1 probe`, with the key from where a run would have it: the package knows no Prefect."""

from collections.abc import Sequence

from tasks.keys import borrow_keys
from visual_r1.conformance import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the Tinker server that `arguments` name; the exit status."""
    return command.main(arguments, before=borrow_keys)
