"""Checkpoints: saved, listed, loaded, kept for a time, published, removed, downloaded."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import safetensors.numpy
import tinker
from protocol_client import MODEL, RawClient, datum, until
from tinker import types

from visual_r1.engine.launch import RunningEngine

Trainer = Callable[..., tinker.TrainingClient]


def train(client: tinker.TrainingClient, steps: int = 2) -> dict[str, float] | None:
    """Some steps; the metrics of the last."""
    for number in range(steps):
        client.forward_backward([datum(scale=1.0 + number)], "cross_entropy")
        stepped = client.optim_step(types.AdamParams(learning_rate=1e-2))
    return stepped.result(timeout=60).metrics


def logprobs(client: tinker.TrainingClient) -> list[float]:
    scored = client.forward([datum()], "cross_entropy").result(timeout=60)
    return scored.loss_fn_outputs[0]["logprobs"].data


def state_file(home: Path, path: str) -> bytes:
    """The tensors of a checkpoint, as they lie on disk."""
    model_id, kind, name = path.removeprefix("tinker://").split("/")
    session, number = model_id.split(":train:")
    folder = home / "sessions" / session / f"train-{number}" / kind / name
    return (folder / "state.safetensors").read_bytes()


def test_a_state_with_its_optimizer_goes_on_bit_for_bit(
    home: Path, service: tinker.ServiceClient, trainer: Trainer
) -> None:
    client = trainer()
    train(client)
    state = client.save_state("middle").result(timeout=60)
    resumed = service.create_training_client_from_state_with_optimizer(state.path).result(
        timeout=60
    )
    assert resumed.model_id != client.model_id
    assert resumed.get_info().lora_rank == client.get_info().lora_rank
    assert train(resumed) == train(client)
    saved = [one.save_state("end").result(timeout=60).path for one in (client, resumed)]
    assert state_file(home, saved[0]) == state_file(home, saved[1])


def test_a_state_without_its_optimizer_has_the_weights_alone(
    service: tinker.ServiceClient, trainer: Trainer
) -> None:
    client = trainer()
    train(client)
    state = client.save_state("middle").result(timeout=60)
    fresh = service.create_training_client_from_state(state.path).result(timeout=60)
    assert logprobs(fresh) == logprobs(client)
    train(fresh, 1)
    train(client, 1)
    assert logprobs(fresh) != logprobs(client)


def test_loading_into_a_model_that_is_there(trainer: Trainer) -> None:
    client = trainer()
    train(client)
    state = client.save_state("middle").result(timeout=60)
    then = logprobs(client)
    train(client)
    assert logprobs(client) != then
    with pytest.warns(FutureWarning):
        client.load_state_with_optimizer(state.path).result(timeout=60)
    assert logprobs(client) == then
    other = trainer(rank=2)
    with pytest.warns(FutureWarning), pytest.raises(tinker.RequestFailedError, match="rank 4"):
        other.load_state(state.path).result(timeout=60)


def test_listings(rest: tinker.RestClient, service: tinker.ServiceClient, trainer: Trainer) -> None:
    client = trainer(user_metadata={"purpose": "test"})
    state = client.save_state("one", user_metadata={"step": "1"}).result(timeout=60)
    sampler = client.save_weights_for_sampler("two", ttl_seconds=3600).result(timeout=60)
    listed = rest.list_checkpoints(client.model_id).result(timeout=60).checkpoints
    assert [checkpoint.tinker_path for checkpoint in listed] == [sampler.path, state.path]
    newest, oldest = listed
    assert (newest.checkpoint_type, oldest.checkpoint_type) == ("sampler", "training")
    assert newest.checkpoint_id == "sampler_weights/two" and newest.expires_at is not None
    assert timedelta(minutes=59) < newest.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    assert oldest.user_metadata == {"step": "1"} and oldest.expires_at is None
    assert oldest.size_bytes and newest.size_bytes and oldest.size_bytes > newest.size_bytes

    run = rest.get_training_run(client.model_id).result(timeout=60)
    assert run.base_model == MODEL and run.lora_rank == 4 and run.is_lora
    assert run.user_metadata == {"purpose": "test"}
    assert run.last_checkpoint and run.last_checkpoint.tinker_path == state.path
    assert run.last_sampler_checkpoint and run.last_sampler_checkpoint.checkpoint_id == (
        "sampler_weights/two"
    )
    by_path = rest.get_training_run_by_tinker_path(state.path).result(timeout=60)
    assert by_path.training_run_id == client.model_id
    runs = rest.list_training_runs(limit=1).result(timeout=60)
    assert [one.training_run_id for one in runs.training_runs] == [client.model_id]
    assert runs.cursor.total_count >= 1
    everything = rest.list_user_checkpoints(limit=2).result(timeout=60)
    assert [one.tinker_path for one in everything.checkpoints] == [sampler.path, state.path]
    info = rest.get_weights_info_by_tinker_path(state.path).result(timeout=60)
    assert info.base_model == MODEL and info.lora_rank == 4 and info.train_mlp is True

    session_id = service.holder.get_session_id()
    session = rest.get_session(session_id).result(timeout=60)
    assert session.training_run_ids == [client.model_id]
    assert rest.list_sessions(limit=1).result(timeout=60).sessions == [session_id]


def test_a_taken_name_is_refused_unless_overwritten(trainer: Trainer) -> None:
    client = trainer()
    path = client.save_state("same").result(timeout=60).path
    with pytest.raises(tinker.RequestFailedError, match="exists already") as caught:
        client.save_state("same").result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    assert client.save_state("same", overwrite=True).result(timeout=60).path == path


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "", "x" * 200, "nul\0", "a b"])
def test_names_that_could_leave_the_folder_are_refused(trainer: Trainer, name: str) -> None:
    client = trainer()
    with pytest.raises(tinker.RequestFailedError, match="name") as caught:
        client.save_state(name).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    assert client.save_state("good").result(timeout=60).path.endswith("/weights/good")


def test_deleting(rest: tinker.RestClient, service: tinker.ServiceClient, trainer: Trainer) -> None:
    client = trainer()
    path = client.save_state("short-lived").result(timeout=60).path
    rest.delete_checkpoint_from_tinker_path(path).result(timeout=60)
    assert rest.list_checkpoints(client.model_id).result(timeout=60).checkpoints == []
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result(timeout=60)
    with pytest.raises(tinker.RequestFailedError, match="no checkpoint"):
        service.create_training_client_from_state(path).result(timeout=60)


def test_time_to_live(
    home: Path, rest: tinker.RestClient, service: tinker.ServiceClient, trainer: Trainer
) -> None:
    client = trainer()
    path = client.save_state("brief", ttl_seconds=3600).result(timeout=60).path

    def listed() -> list[types.Checkpoint]:
        return rest.list_checkpoints(client.model_id).result(timeout=60).checkpoints

    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(timeout=60)
    assert listed()[0].expires_at is None
    with pytest.raises(tinker.BadRequestError, match="ttl_seconds"):
        rest.set_checkpoint_ttl_from_tinker_path(path, -5).result(timeout=60)
    assert state_file(home, path)
    rest.set_checkpoint_ttl_from_tinker_path(path, 1).result(timeout=60)
    until(lambda: not listed())
    with pytest.raises(FileNotFoundError):
        state_file(home, path)
    with pytest.raises(tinker.RequestFailedError, match="time to live"):
        service.create_training_client_from_state(path).result(timeout=60)
    with pytest.raises(tinker.NotFoundError):
        rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result(timeout=60)


def test_publishing_twice_is_no_error(rest: tinker.RestClient, trainer: Trainer) -> None:
    client = trainer()
    path = client.save_state("shared").result(timeout=60).path
    for public in (True, True, False, False):
        call = (
            rest.publish_checkpoint_from_tinker_path
            if public
            else rest.unpublish_checkpoint_from_tinker_path
        )
        call(path).result(timeout=60)
        (checkpoint,) = rest.list_checkpoints(client.model_id).result(timeout=60).checkpoints
        assert checkpoint.public is public


def test_an_adapter_is_downloaded_by_signed_urls(
    engine: RunningEngine, rest: tinker.RestClient, trainer: Trainer
) -> None:
    client = trainer()
    train(client, 1)
    path = client.save_weights_external("adapter").result(timeout=60).path
    answer = rest.get_external_weights_urls(path).result(timeout=60)
    assert sorted(answer.urls) == ["adapter_config.json", "adapter_model.safetensors"]
    assert answer.expires > datetime.now(UTC)
    with httpx.Client(trust_env=False) as plain:  # no key: the URL is enough
        files = {name: plain.get(url) for name, url in answer.urls.items()}
        assert all(file.status_code == 200 for file in files.values())
        config = json.loads(files["adapter_config.json"].content)
        assert config["r"] == 4 and config["peft_type"] == "LORA"
        tensors = safetensors.numpy.load(files["adapter_model.safetensors"].content)
        assert tensors and all(".lora_" in name for name in tensors)

        url = answer.urls["adapter_config.json"]
        changed = [
            url.replace("adapter_config.json", "manifest.json"),
            url.replace("adapter_config.json", "..%2f..%2frun.json"),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
            url.replace("expires=", "expires=9"),
            url.split("?")[0] + "?expires=1&signature=",
        ]
        assert all(plain.get(other).status_code in (403, 404) for other in changed)
        for query in ("", "?expires=soon&signature=x", "?signature=x"):
            refused = plain.get(url.split("?")[0] + query)
            assert refused.status_code == 403
            assert "ask for the URLs again" in refused.json()["detail"]
    state = client.save_state("state").result(timeout=60)
    with pytest.raises(ValueError, match="external"):
        rest.get_external_weights_urls(state.path)


def test_encryption_that_is_not_there_is_refused(trainer: Trainer) -> None:
    with pytest.raises(tinker.RequestFailedError, match="age_encryption"):
        future = trainer().save_weights_external("e", age_encryption_recipients=["age1xyz"])
        future.result(timeout=60)


@contextmanager
def small_files(engine: RunningEngine, size: int) -> Iterator[None]:
    """Let the engine write no file above `size` bytes, as on a full disk."""
    limit = resource.RLIMIT_FSIZE
    before = resource.prlimit(engine.process.pid, limit)
    resource.prlimit(engine.process.pid, limit, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(engine.process.pid, limit, before)


def test_a_full_disk_fails_the_save_and_nothing_else(
    engine: RunningEngine, home: Path, rest: tinker.RestClient, trainer: Trainer
) -> None:
    client = trainer()
    train(client)
    path = client.save_state("kept").result(timeout=60).path
    kept = state_file(home, path)
    saves = (
        lambda: client.save_state("full"),
        lambda: client.save_state("kept", overwrite=True),
        lambda: client.save_weights_for_sampler("full"),
        lambda: client.save_weights_external("full"),
        # Its sampler is there before its weights are: whoever samples with it hears of it.
        lambda: (
            client.save_weights_and_get_sampling_client()
            .result(timeout=60)
            .sample(types.ModelInput.from_ints([5, 6]), 1, types.SamplingParams(max_tokens=1))
        ),
    )
    with small_files(engine, 20_000):
        for save in saves:
            with pytest.raises(tinker.RequestFailedError, match="Free some space") as caught:
                save().result(timeout=60)
            assert caught.value.category is types.RequestErrorCategory.User
        train(client, 1)
    (listed,) = rest.list_checkpoints(client.model_id).result(timeout=60).checkpoints
    assert listed.tinker_path == path and state_file(home, path) == kept
    assert not [file for file in home.rglob(".*") if file.name != ".lock"]
    assert client.save_state("full").result(timeout=60).path.endswith("/full")


def test_listings_refuse_pages_without_sense(raw: RawClient) -> None:
    assert raw.http.get("checkpoints", params={"limit": -1}).status_code == 400
    assert raw.http.get("training_runs/none").status_code == 404
    assert raw.http.get("sessions/none").status_code == 404
