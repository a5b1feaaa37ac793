"""Who is told of a run: W&B, trackio or nobody, by `logging.tracker`.

Nothing that tracks ends a run or holds it up: all of it comes from the run folder's files, so it
can be late, repeated or broken without harm. A tracker's module is imported when it is told.
"""

from importlib.util import find_spec

from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError


def track_steps(config: RunConfig) -> None:
    """Bring the tracker up to the newest step; call it after a checkpoint has been recorded."""
    match config.logging.told:
        case "wandb":
            from visual_r1.report import wandb

            wandb.track_steps(config)
        case "trackio":
            from visual_r1.report import trackio

            trackio.track_steps(config)
        case _:
            pass


def track_run(config: RunConfig) -> None:
    """Bring the tracker up to all of the run's files; for the end of a run or of an evaluation."""
    match config.logging.told:
        case "wandb":
            from visual_r1.report import wandb

            wandb.track_run(config)
        case "trackio":
            from visual_r1.report import trackio

            trackio.track_run(config)
        case _:
            pass


def stop_asked(config: RunConfig) -> bool:
    """Whether a person has asked the tracker to stop the run, and this is the first to hear of it.

    The tracker is asked when it is told something, and not here.
    """
    if config.logging.told != "wandb":
        return False
    from visual_r1.report import wandb

    return wandb.stop_asked(config.run_dir)


def require_tracker(config: RunConfig) -> None:
    """Raise `ConfigError` where the tracker that is asked for is not installed."""
    if config.logging.told == "trackio" and find_spec("trackio") is None:
        raise ConfigError(
            "logging.tracker is trackio, and that package is not installed: pip install "
            "'visual-r1[trackio]', or choose --logging.tracker wandb or none."
        )
