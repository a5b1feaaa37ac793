"""Why a run begins anew, where a user may have meant to go on with another."""

from pathlib import Path

from visual_r1.config import RunConfig, apart, differing_keys
from visual_r1.errors import RunError
from visual_r1.printing import open_logger
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.ledger import Ledger

logger = open_logger(__name__)

FEW = 3
"""Runs that differ in more settings are others, and nobody takes one for the other."""
_NEWEST = 200


def why_anew(config: RunConfig) -> str:
    """A sentence where nothing of this run is trained and much like it is: what differs, and there.

    Empty where it goes on, or where no earlier run of the output folder is like it. Of several the
    one that differs least counts, of those the newest.
    """
    if Ledger(config.run_dir).read().sound:
        return ""
    own, found = config.identity(), list[tuple[int, float, Path, RunConfig]]()
    there = [path for path in config.run_dir.parent.glob(f"*/{CONFIG_FILE}") if path.is_file()]
    for path in sorted(there, key=_age)[:_NEWEST]:
        try:
            stored = read_config(path.parent)
        except RunError:  # damaged: it says so where it is gone on with
            continue
        if stored is None or path.parent.name == config.run_name:
            continue
        differing = len(differing_keys(stored.identity(), own))
        if differing <= FEW:
            found.append((differing, _age(path), path.parent, stored))
    for _, _, folder, stored in sorted(found, key=lambda one: one[:2]):
        if rows := Ledger(folder).read().sound:
            differs = apart(own, stored.identity()) or "name"
            return (
                f"{config.run_dir} is a new run: another {differs} than {folder}, which has "
                f"{rows[-1].row.step} steps."
            )
    return ""


def say_why_anew(config: RunConfig) -> None:
    """Say so as a note, where there is something to say."""
    if why := why_anew(config):
        logger.warning("%s", why)


def _age(path: Path) -> float:
    return -path.stat().st_mtime
