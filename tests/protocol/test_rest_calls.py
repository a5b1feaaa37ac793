"""Copies, projects, searches, the disk, and what is not offered, through the real SDK."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tinker
from protocol_client import MODEL, RawClient, datum
from tinker import types
from tinker.lib.experimental import ExperimentalWarning

from visual_r1.engine.launch import RunningEngine
from visual_r1.engine.server.app import UNSERVED

Trainer = Callable[..., tinker.TrainingClient]


@pytest.fixture
def admin(engine: RunningEngine) -> tinker.AdminClient:
    return tinker.AdminClient(base_url=engine.url, api_key=engine.api_key)


@pytest.fixture
def labelled(engine: RunningEngine) -> Iterator[tinker.ServiceClient]:
    """A session with a name, metadata and a project that no other test has."""
    client = tinker.ServiceClient(
        base_url=engine.url,
        api_key=engine.api_key,
        project_id=f"project-{uuid.uuid4().hex}",
        display_name="Nightly Run",
        user_metadata={"purpose": "search"},
    )
    yield client
    client.close("success").result(timeout=30)


def search(rest: tinker.RestClient, **filters: object) -> types.SessionSearchResponse:
    with pytest.warns(ExperimentalWarning):
        return rest.search_sessions(types.SessionSearchRequest(**filters)).result(timeout=60)  # type: ignore[arg-type]


def test_a_copy_outlives_what_it_was_copied_from(
    home: Path,
    rest: tinker.RestClient,
    labelled: tinker.ServiceClient,
    admin: tinker.AdminClient,
    trainer: Trainer,
) -> None:
    client = trainer()
    client.forward_backward([datum()], "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60)
    path = client.save_state("kept", ttl_seconds=3600).result(timeout=60).path
    copied = labelled.copy_weights(path).result(timeout=60)
    assert copied.endswith("/weights/kept") and copied != path
    files = [
        next(home.glob(f"sessions/{one.split('/')[2].split(':')[0]}/train-0/weights/kept/state*"))
        for one in (path, copied)
    ]
    assert files[0].samefile(files[1])
    rest.delete_checkpoint_from_tinker_path(path).result(timeout=60)
    resumed = labelled.create_training_client_from_state_with_optimizer(copied).result(timeout=60)
    scores = [
        one.forward([datum()], "cross_entropy").result(timeout=60).loss_fn_outputs[0]["logprobs"]
        for one in (client, resumed)
    ]
    assert scores[0].data == scores[1].data

    project = labelled._project_id
    runs = rest.list_training_runs(project_id=project).result(timeout=60).training_runs
    assert {run.training_run_id for run in runs} == {copied.split("/")[2], resumed.model_id}
    origin = rest.get_training_run_by_tinker_path(copied).result(timeout=60)
    assert origin.user_metadata == {"copied_from": path}
    usage = admin.get_current_checkpoint_storage_usage(project).result(timeout=60)
    (item,) = usage.data
    assert item.checkpoint_count == 1 and item.size_bytes == files[1].stat().st_size
    brief = rest.copy_weights(copied, project, ttl_seconds=3600).result(timeout=60)
    (listed,) = rest.list_checkpoints(brief.split("/")[2]).result(timeout=60).checkpoints
    assert listed.expires_at is not None
    assert listed.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    with pytest.raises(tinker.NotFoundError, match="no checkpoint"):
        rest.copy_weights(path, project).result(timeout=60)


def test_a_repeated_copy_is_one_copy(raw: RawClient, trainer: Trainer) -> None:
    path = trainer().save_weights_for_sampler("w").result(timeout=60).path
    body = {"source_path": path, "destination_project_id": "p"}
    answers = [
        raw.http.post("copy_weights", json=body, headers={"X-Idempotency-Key": key}).json()
        for key in ("one", "one", "two")
    ]
    assert answers[0] == answers[1] != answers[2]


def test_sessions_are_found_by_what_they_are(
    rest: tinker.RestClient, labelled: tinker.ServiceClient
) -> None:
    session = labelled.holder.get_session_id()
    project = labelled._project_id
    client = labelled.create_lora_training_client(MODEL, rank=2).result(timeout=60)
    client.save_state("one").result(timeout=60)
    (found,) = search(rest, project_ids=[project]).sessions
    assert (found.session_id, found.display_name) == (session, "Nightly Run")
    assert found.user_metadata == {"purpose": "search"} and found.checkpoints_count == 1
    assert isinstance(found.status, types.SessionActive) and found.checkpoint_storage_bytes
    only = {"project_ids": [project]}
    misses = (
        {"display_name": "weekly"},
        {"session_id": "0" * 32},
        {"user_metadata": {"purpose": "other"}},
        {"statuses": [types.ClientFinishedSessionStatusQuery()]},
        {"owner": types.UserSearchOwner(owner_urns=["someone"])},
    )
    assert not any(search(rest, **only, **miss).sessions for miss in misses)
    assert search(rest, **only, display_name="run night").sessions
    assert search(rest, **only, session_id=session, display_name="weekly").sessions

    moved = f"{project}-moved"
    rest.assign_session_project(session, moved).result(timeout=60)
    assert not search(rest, **only).sessions
    labelled.close("errored", detail="on purpose").result(timeout=60)
    ended = types.ClientFinishedSessionStatusQuery(reasons=["errored"])
    (over,) = search(rest, project_ids=[moved], statuses=[ended]).sessions
    assert isinstance(over.status, types.ClientSessionFinished)
    assert over.status.detail == "on purpose"


def test_a_search_goes_on_from_its_cursor(engine: RunningEngine, rest: tinker.RestClient) -> None:
    project = f"project-{uuid.uuid4().hex}"
    with RawClient(engine.url, engine.api_key) as raw:
        body = {"tags": [], "user_metadata": None, "sdk_version": "0.38.0", "project_id": project}
        made = [raw.post("create_session", body)["session_id"] for _ in range(5)]
        pages: list[list[str]] = []
        cursor = None
        while not pages or cursor is not None:
            answer = search(rest, project_ids=[project], limit=2, cursor=cursor)
            pages.append([one.session_id for one in answer.sessions])
            cursor = answer.next_cursor
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [one for page in pages for one in page] == made[::-1]
        for session in made:
            raw.http.post(f"sessions/{session}/finish", json={})


def test_what_is_not_offered_says_so_at_once(
    rest: tinker.RestClient, service: tinker.ServiceClient, admin: tinker.AdminClient
) -> None:
    session = service.holder.get_session_id()
    with pytest.raises(RuntimeError, match="no traces"):
        rest.export_session_trace(session).result(timeout=30)
    with pytest.raises(tinker.NotFoundError, match="no session"):
        rest.export_session_trace("none").result(timeout=30)
    with pytest.raises(tinker.NotFoundError, match="audit log"):
        admin.get_audit_log().result(timeout=30)
    with pytest.raises(tinker.NotFoundError, match="nothing is billed"):
        admin.get_billing_usage("2026-07-13T00:00:00Z", "2026-07-14T00:00:00Z").result(timeout=30)
    with pytest.raises(RuntimeError, match="plain API key"):
        rest.whoami().result(timeout=30)


def test_unknown_calls_are_answered_with_a_sentence(raw: RawClient) -> None:
    for method, path in (*UNSERVED, ("GET", "/no/such/call"), ("PUT", "/asample")):
        answer = raw.http.request(method, path.removeprefix("/"))
        assert 404 <= answer.status_code <= 405
        assert answer.json()["detail"].endswith(".") and " " in answer.json()["detail"]
    assert "PUT /api/v1/asample" in raw.http.put("asample").json()["detail"]
    assert raw.post("telemetry", {"events": []}) == {"status": "accepted"}
