"""Whether a run has steps left to do, by its files alone: no server is asked, and no SDK needed."""

from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.runs.folder import require_same_files
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.lost import say_what_is_lost


def require_goal(config: RunConfig) -> bool:
    """Whether steps are left to do, or the user wants to go back; asks no server.

    Raises `RunError` where fewer steps are wanted than the run has, where there is no checkpoint
    to go back to, where the ledger is damaged and the user has not said where to go on, and where a
    file of the user's (a reward function, a prompt) is another than the run began with. Says which
    rows are lost that the ledger counts.
    """
    is_left = _is_left(config)
    say_what_is_lost(config.run_dir)
    return is_left


def _is_left(config: RunConfig) -> bool:
    ledger = Ledger(config.run_dir)
    wanted = config.train.resume_from_step
    if wanted is not None:
        if ledger.row_to_go_back_to(wanted) is not None:
            require_same_files(config)
        return True
    rows = ledger.rows()
    if rows:
        require_same_files(config)
    newest = rows[-1].step if rows else 0
    if newest > config.train.steps:
        raise RunError(
            f"{config.run_dir} has trained {newest} steps already and train.steps is "
            f"{config.train.steps}: ask for {newest} or more, go back with "
            "--train.resume_from_step, or choose another --run.name."
        )
    return newest < config.train.steps
