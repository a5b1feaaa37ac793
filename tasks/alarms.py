"""What the alarms say at a checkpoint: in the log, as an artifact, and as the flow's state."""

from functools import partial

from prefect import State, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Failed

from tasks.outcome import SERVER_FAILURES, once_told
from tasks.records import record
from tasks.records.names import artifact_key
from tasks.verified import Result
from visual_r1.config import RunConfig
from visual_r1.printing import open_logger
from visual_r1.report.tracking import stop_asked, track_run, track_steps
from visual_r1.runs.alarms import check_alarms, pause
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.process import note_told
from visual_r1.wording import as_markdown

logger = open_logger("visual_r1.tasks")

PAUSED = "PausedByAlarm"


def heed_alarms(config: RunConfig, checkpoint: LedgerRow) -> State | None:
    """The state that the flow ends in where an alarm pauses it, else None.

    It is called `PausedByAlarm` and of the type Failed: Prefect's own pause keeps the process, and
    a Tinker session with it, waiting for a click that may come days later. Called as a function, a
    flow that returns it raises `RunPaused`.

    Killed before somebody was told of it, the run pauses here again when it is started again: by
    Prefect, by the watch or by a person. Told of it, whoever starts it again wants it to go on.
    """
    findings = check_alarms(config, checkpoint.step)
    if findings:
        record.alarmed(config, findings)
        key = artifact_key(config, "alarms")
        _report([finding.row() for finding in findings], config.run_name, checkpoint.step, key)
    paused = pause(config, findings)
    if paused is not None:
        track_run(config)  # nothing comes after it that would bring the offline copy up to date
        stop_asked(config)  # it ends here: whoever starts it again wants it to go on
        once_told(partial(note_told, config.run_dir, checkpoint.step))
        return Failed(name=PAUSED, message=str(paused), data=paused)
    if findings:
        track_steps(config)
        note_told(config.run_dir, checkpoint.step)
    return None


@task(name="alarms", task_run_name="alarms at step {step}")
def _report(findings: list[Result], run: str, step: int, key: str) -> None:
    """The findings as an artifact of the run, with a version each time something was found."""
    told = [
        f"### {one['alarm']} ({one['action']})\n\n{one['seen']}\n\n{one['means']} {one['advice']}"
        for one in ({key: as_markdown(str(said)) for key, said in row.items()} for row in findings)
    ]
    try:
        create_markdown_artifact(
            f"## {as_markdown(run)}, checkpoint of step {step}\n\n" + "\n\n".join(told),
            key=key,
            description=f"What the alarms found in {as_markdown(run)}.",
        )
    except SERVER_FAILURES as error:
        # They stand in the run's folder and on the terminal; a record at Prefect is one more.
        logger.warning("Prefect has no artifact of the alarms (%s).", type(error).__name__)
