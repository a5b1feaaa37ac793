"""A person stops a run by its tracker's button: it ends at a checkpoint, and can go on."""

from visual_r1.config import RunConfig
from visual_r1.errors import RunStopped
from visual_r1.report.tracking import stop_asked
from visual_r1.runs.ledger import LedgerRow


def heed_stop(config: RunConfig, checkpoint: LedgerRow) -> None:
    """Raise `RunStopped` where the tracker was asked to stop the run."""
    if stop_asked(config):
        raise RunStopped(
            f"Stopped by a person at W&B, after the checkpoint of step {checkpoint.step}; nothing "
            f"is lost. To go on: visual-r1 resume {config.run_dir}, or the same command again."
        )
