"""A flow run of a run that is done already, at the user's server: it ends as the run has ended."""

from prefect import flow

from flows.finished import summary_where_done
from tasks.environment import prefect_server
from tasks.outcome import outcome_in_spite_of, remembered
from tasks.records import record
from tasks.records.ending import concluded
from tasks.records.record import open_record
from visual_r1.config import RunConfig
from visual_r1.report.summary import Summary


def told(config: RunConfig) -> Summary | None:
    """What the run came to, of which the server has one more flow run then; None where something
    is left to do, and no flow run was begun."""
    summary = summary_where_done(config)
    if summary is None:
        return None

    @remembered
    @concluded
    @flow(name="train", validate_parameters=False)
    def train(config: RunConfig) -> dict[str, object]:
        with open_record(config):
            record.summarized(config, summary)
        return summary.to_json()

    with outcome_in_spite_of(prefect_server()):
        train(config=config)
    return summary
