"""The alarms at a checkpoint: what the run's files say, written down once, and said once.

A pause comes after the checkpoint is saved and on record, not before: the steps that led to it cost
as much as any others, the checkpoint shows what went wrong, and the run goes on from exactly where
the uninterrupted one would have. What must not be saved at all stops earlier, by `limits`.
"""

import logging
from dataclasses import asdict, replace

from visual_r1.alarms import AlarmLog, Finding, look
from visual_r1.config import RunConfig
from visual_r1.errors import RunPaused
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations

logger = logging.getLogger(__name__)


def check_alarms(config: RunConfig, checkpoint: int) -> list[Finding]:
    """The new findings at the checkpoint of step `checkpoint`; they are in alarms.jsonl then.

    Each is logged as a warning as well. Looks at the newest checkpoint alone: those before it were
    looked at when they were new, so a run that goes through them again finds nothing twice. Where
    no step is left to train there is nothing to pause, and what would have done so warns.
    """
    rows = Ledger(config.run_dir).rows()
    if not rows or rows[-1].step != checkpoint:
        return []
    log = AlarmLog(config.run_dir)
    found = look(
        config,
        Journal(config.run_dir).rows(),
        [asdict(row) for row in Validations(config.run_dir).rows()],
        log.findings(),
        first=rows[-2].step if len(rows) > 1 else 0,
        checkpoint=checkpoint,
    )
    if checkpoint >= config.train.steps:
        found = [replace(finding, action="warn") for finding in found]
    log.add(found)
    for finding in found:
        logger.warning("%s", finding.sentence)
    return found


def pause(config: RunConfig, findings: list[Finding]) -> RunPaused | None:
    """What a run ends with where one of `findings` pauses it: which, and how it goes on."""
    pausing = [finding for finding in findings if finding.action == "pause"]
    if not pausing:
        return None
    names = ", ".join(finding.alarm for finding in pausing)
    sentences = " ".join(finding.sentence for finding in pausing)
    return RunPaused(
        f"Paused at the checkpoint of step {pausing[0].checkpoint} ({names}); nothing is lost. "
        f"{sentences} To go on as it is: visual-r1 resume {config.run_dir}, or the same command "
        "again; the alarm then looks at what comes after this checkpoint. With "
        f"--alarms.{pausing[0].alarm} warn it only warns."
    )
