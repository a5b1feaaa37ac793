"""What Prefect's server has of a run: asked of a real one, of flows that train nothing."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import predictions, problems, write_evaluation, write_metrics
from prefect import flow, get_client, tags, task
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, Log
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.testing.utilities import prefect_test_harness
from sampled import group_of, rollout
from validated import checkpoint
from validated import row as validation

from tasks.attempts import WITHIN, End, read_attempt
from tasks.outcome import remembered
from tasks.records import record
from tasks.records.ending import conclude, concluded
from tasks.records.names import artifact_key
from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.errors import DataError, RunStopped
from visual_r1.printing import open_logger
from visual_r1.report.summary import summarize
from visual_r1.rl.metrics import step_metrics

logger = open_logger("visual_r1.anywhere")


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("prefect")
    settings = {PREFECT_HOME: home, PREFECT_LOCAL_STORAGE_PATH: home / "results"}
    with temporary_settings(settings), prefect_test_harness(server_startup_timeout=400):
        yield


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run that is finished, as its files say."""
    one = RunConfig.model_validate(
        {"preset": "quickstart", "run": {"name": "Small_1"}, "output_dir": tmp_path}
    )
    asked = problems(40)
    for name, accuracy in (("baseline", 0.5), ("final", 0.95)):
        made = predictions(asked, accuracy, seed=0)
        write_evaluation(one.run_dir / "evaluations" / name, asked, made)
    write_metrics(one.run_dir, steps=4)
    summarize(one.run_dir, steps=4, wall_seconds=400)
    return one


@task
def _train(config: RunConfig) -> None:
    dataset = Dataset(config.output_dir / "data" / "procedural-1a2b", "1a2b", {"train": 8})
    for step in (4, 5):
        groups = [group_of(rollout(), rollout())]
        metrics = step_metrics(config, step, groups, [], None, seconds={"seconds_total": 2.0})
        record.step_done(metrics.row())
    logger.warning("the checkpoint has gone")
    thread = threading.Thread(target=logger.warning, args=("said by a thread",))
    thread.start()
    thread.join()
    record.chunk_saved(config, dataset, checkpoint(4), checkpoint(6))
    record.validated(config, validation(6))
    finding = Finding("entropy", 5, 6, "warn", "It fell.", "It collapses.", "Look.")
    record.alarmed(config, [finding])


ran: list[FlowRun] = []


@concluded
@flow(name="train", persist_result=False)
def told(config: RunConfig) -> dict[str, Any]:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    ran.append(context.flow_run)
    with record.open_record(config):
        record.doing("training steps 4 to 5", 4)
        _train(config)
        summary = summarize(config.run_dir, steps=6, wall_seconds=400)
        record.summarized(config, summary)
        return summary.to_json()


def run_of(one: FlowRun) -> FlowRun:
    """The flow run as the server has it, once all that was said of it is there."""
    APILogWorker.drain_all(timeout=120)
    return get_client(sync_client=True).read_flow_run(one.id)


def logs_of(one: FlowRun) -> list[Log]:
    run_of(one)
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[one.id]))
    return get_client(sync_client=True).read_logs(wanted)


def events_of(one: FlowRun, are_there: Callable[[set[str]], bool]) -> list[dict[str, Any]]:
    EventsWorker.drain_all(timeout=120)
    related = {"id": [f"prefect.flow-run.{one.id}"]}
    deadline = time.monotonic() + 120  # the server writes them by and by
    while True:
        client = get_client(sync_client=True)
        asked = {"filter": {"related": related}, "limit": 50}
        answer = client.request("POST", "/events/filter", json=asked)
        found = answer.raise_for_status().json()["events"]
        if are_there({event["event"] for event in found}):
            return found
        assert time.monotonic() < deadline, [event["event"] for event in found]
        time.sleep(0.2)


def test_a_run_tells_its_story(config: RunConfig, capfd: pytest.CaptureFixture[str]) -> None:
    with tags("nightly"):  # as a deployment has them
        summary = told(config)
    assert summary["n"] == 40, "as a function as ever"
    run = run_of(ran[-1])
    assert run.name == "Small_1"
    assert set(run.tags) == {
        "nightly", "preset:quickstart", "model:tiny-geometry", "data:procedural"
    }  # fmt: skip
    assert run.state is not None
    assert run.state.name == "Completed"
    assert run.state.message is not None
    assert " of 40 problems: +" in run.state.message
    assert run.state.message.endswith(str(config.run_dir / "report.html"))

    logs = logs_of(run)
    said = [log.message for log in logs]
    steps = [line for line in said if line.startswith("step ")]
    assert [line.partition(":")[0] for line in steps] == ["step 4, 5 of 60", "step 5, 6 of 60"]
    for once in ("the checkpoint has gone", "said by a thread"):
        assert said.count(once) == 1, said
    of_task = {log.message for log in logs if log.task_run_id is not None}
    assert {"the checkpoint has gone", *steps} <= of_task
    # The terminal has the warnings as ever, and no line that is meant for Prefect.
    assert "step 4, 5 of 60" not in "".join(capfd.readouterr())


def test_a_run_s_artifacts_have_a_version_each_time(config: RunConfig) -> None:
    for _ in range(2):
        told(config)
    client = get_client(sync_client=True)
    for one in ran[-2:]:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[one.id]))
        there = {one.key: one for one in client.read_artifacts(artifact_filter=wanted)}
        keys = {what: artifact_key(config, what) for what in ("progress", "steps", "report")}
        assert there.keys() == set(keys.values())
        assert there[keys["progress"]].data == 10.0
        assert "6 of 60 steps" in str(there[keys["progress"]].description)
        table = json.loads(str(there[keys["steps"]].data))
        assert [one["step"] for one in table][:2] == [5, 4]
        assert str(there[keys["report"]].data).startswith("# Small\\_1\n")


def test_automations_hear_of_it_and_assets_have_their_lineage(config: RunConfig) -> None:
    told(config)
    told_of = {f"visual-r1.{name}" for name in ("chunk.saved", "validated", "alarm", "finished")}
    made = "prefect.asset.materialization.succeeded"
    events = events_of(ran[-1], lambda there: told_of | {made} <= there)
    by_name = {event["event"]: event for event in events}
    saved = by_name["visual-r1.chunk.saved"]
    assert saved["resource"]["visual-r1.run"] == "Small_1"
    assert saved["payload"]["step"] == 6
    finished = by_name["visual-r1.finished"]
    assert finished["payload"]["distinguishable"] is True
    assert " of 40 problems: +" in finished["resource"]["prefect.resource.name"]  # for --watch
    asset = by_name[made]
    assert asset["resource"]["prefect.resource.id"] == checkpoint(6).sampler_path
    of = {
        one["prefect.resource.id"]
        for one in asset["related"]
        if one["prefect.resource.role"] == "asset"
    }
    folder = config.output_dir.absolute() / "data" / "procedural-1a2b"
    assert of == {checkpoint(4).sampler_path, f"file://{folder}"}


@task(name="reads")
def _reads() -> None:
    raise DataError("The source /nowhere is not there: name another.")


@concluded
@flow(name="prepare", persist_result=False)
def mistaken(preset: str, *, in_a_task: bool) -> None:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    ran.append(context.flow_run)
    if in_a_task:
        _reads()
    raise DataError("The source /nowhere is not there: name another.")


@pytest.mark.parametrize("in_a_task", [True, False])
def test_a_mistake_is_its_sentence_and_nothing_else(in_a_task: bool) -> None:
    sentence = "The source /nowhere is not there: name another."
    with pytest.raises(DataError, match="nowhere"):
        mistaken("quickstart", in_a_task=in_a_task)
    run = run_of(ran[-1])
    assert run.name == "prepare quickstart"
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Failed", sentence)
    logs = logs_of(run)
    assert [log.message for log in logs if log.level >= 40 and "Finished" not in log.message] == [
        sentence
    ]
    assert not [log for log in logs if "Traceback" in log.message]
    events = events_of(run, lambda there: "visual-r1.failed" in there)
    [failed] = [event for event in events if event["event"] == "visual-r1.failed"]
    assert failed["payload"]["sentence"] == sentence
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    tasks = get_client(sync_client=True).read_task_runs(flow_run_filter=mine)
    assert len(tasks) == in_a_task


def test_a_flow_that_says_nothing_ends_as_prefect_has_it() -> None:
    @concluded
    @flow(name="quiet", persist_result=False)
    def quiet(*, says: bool) -> int:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        ran.append(context.flow_run)
        if says:
            conclude("All is well.")
        return 3

    for says, message in ((False, None), (True, "All is well.")):
        assert quiet(says=says) == 3
        state = run_of(ran[-1]).state
        assert state is not None
        assert (state.name, state.message) == ("Completed", message)


def test_what_is_started_in_a_flow_has_its_mark() -> None:
    @remembered
    @flow
    def marked() -> tuple[str | None, str]:
        from prefect.runtime import flow_run

        return os.environ.get(WITHIN), str(flow_run.id)

    mark, ident = marked()
    assert mark == ident
    assert WITHIN not in os.environ


def test_a_run_that_is_stopped_by_a_button_is_cancelled() -> None:
    """Failed or Crashed it would be started again where it has the tag `restart`."""
    runs: list[FlowRun] = []

    @remembered
    @concluded
    @flow
    def stopped() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        runs.append(context.flow_run)
        raise RunStopped("Stopped by a person at W&B.")

    with pytest.raises(RunStopped, match="by a person"):
        stopped()
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(runs[0].id).state
    assert state is not None
    assert state.is_cancelled()
    assert state.message == "Stopped by a person at W&B."
    attempt = read_attempt(str(runs[0].id))
    assert attempt is not None
    assert attempt.end == End("CANCELLED", "Cancelled", "Stopped by a person at W&B.")
