"""Files that changed on the disk: through the SDK, in a sentence, and never into weights."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import tinker
from protocol_client import datum
from tinker import types

from visual_r1.engine.launch import RunningEngine
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.records import parse_path
from visual_r1.engine.store.soundness import examine_home

Trainer = Callable[..., tinker.TrainingClient]


def flip(file: Path) -> Path:
    data = bytearray(file.read_bytes())
    data[-200] ^= 16
    file.write_bytes(data)
    return file


def trained(trainer: Trainer) -> tinker.TrainingClient:
    client = trainer()
    client.forward_backward([datum()], "cross_entropy").result(timeout=60)
    client.optim_step(types.AdamParams(learning_rate=1e-3)).result(timeout=60)
    return client


def test_a_damaged_state_is_gone_for_who_asks_and_refused_to_who_loads(
    home: Path, rest: tinker.RestClient, service: tinker.ServiceClient, trainer: Trainer
) -> None:
    client = trained(trainer)
    asked, loaded = (client.save_state(name).result(timeout=60).path for name in ("a", "b"))
    files = [flip(HomeFolder(home).state_file(parse_path(path))) for path in (asked, loaded)]
    with pytest.raises(tinker.NotFoundError, match=r"is damaged: .*has the digest"):
        rest.get_weights_info_by_tinker_path(asked).result(timeout=60)
    with pytest.raises(tinker.RequestFailedError, match=r"is damaged: .*earlier") as caught:
        service.create_training_client_from_state_with_optimizer(loaded).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    assert str(files[1]) in str(caught.value)
    # The model that trains goes on, and its next checkpoint is sound.
    again = client.save_state("c").result(timeout=60).path
    assert service.create_training_client_from_state_with_optimizer(again).result(timeout=60)
    damaged = {one.file for one in examine_home(home) if one.verdict == "damaged"}
    assert damaged >= {*files}
    for path in (asked, loaded):
        rest.delete_checkpoint_from_tinker_path(path).result(timeout=60)
    assert not damaged & {one.file for one in examine_home(home)}


def test_damaged_sampler_weights_make_no_sampler(
    home: Path, service: tinker.ServiceClient, trainer: Trainer
) -> None:
    path = trained(trainer).save_weights_for_sampler("mine").result(timeout=60).path
    assert service.create_sampling_client(model_path=path).result(timeout=60)
    file = flip(HomeFolder(home).state_file(parse_path(path)))
    with pytest.raises(tinker.NotFoundError, match="is damaged") as caught:
        service.create_sampling_client(model_path=path).result(timeout=60)
    assert str(file) in str(caught.value)


def test_a_copy_of_a_damaged_checkpoint_leaves_no_run(
    home: Path, rest: tinker.RestClient, trainer: Trainer
) -> None:
    path = trained(trainer).save_state("mine").result(timeout=60).path
    flip(HomeFolder(home).state_file(parse_path(path)))
    with pytest.raises(tinker.NotFoundError, match="is damaged"):
        rest.copy_weights(path, "copies").result(timeout=60)
    assert rest.list_training_runs(project_id="copies").result(timeout=60).training_runs == []


def test_a_damaged_adapter_is_not_handed_out(
    home: Path, rest: tinker.RestClient, trainer: Trainer
) -> None:
    path = trained(trainer).save_weights_external("mine").result(timeout=60).path
    urls = rest.get_external_weights_urls(path).result(timeout=60).urls
    flip(HomeFolder(home).checkpoint_folder(parse_path(path)) / "adapter_model.safetensors")
    for url in urls.values():
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 404
        assert "is damaged" in answer.json()["detail"]


def test_a_damaged_sampler_without_a_name_says_so(
    home: Path, engine: RunningEngine, trainer: Trainer
) -> None:
    client = trained(trainer)
    samplers = [client.save_weights_and_get_sampling_client().result(timeout=60) for _ in range(10)]
    prompt, two = types.ModelInput.from_ints([5, 6, 7]), types.SamplingParams(max_tokens=2)
    # A sampler is there before its weights are: once the last one answers, all are.
    samplers[-1].sample(prompt, 1, two).result(timeout=60)
    for file in HomeFolder(home).ephemeral.glob("*.safetensors"):
        flip(file)
    with pytest.raises(tinker.RequestFailedError, match="make it anew") as caught:
        samplers[0].sample(prompt, 1, two).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    assert engine.process.poll() is None


def test_weights_that_a_step_made_infinite_are_not_saved(
    service: tinker.ServiceClient, trainer: Trainer
) -> None:
    client = trained(trainer)
    good = client.save_state("good").result(timeout=60).path
    client.forward_backward([datum()], "cross_entropy")
    with pytest.raises(tinker.RequestFailedError, match=r"learning_rate 1e\+300") as caught:
        client.optim_step(types.AdamParams(learning_rate=1e300)).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    for save in (
        lambda: client.save_state("bad"),
        lambda: client.save_weights_for_sampler("bad"),
        lambda: client.save_weights_external("bad"),
    ):
        with pytest.raises(tinker.RequestFailedError, match=r"learning_rate 1e") as caught:
            save().result(timeout=60)
        assert caught.value.category is types.RequestErrorCategory.User
    goes_on = service.create_training_client_from_state_with_optimizer(good).result(timeout=60)
    assert goes_on.save_state("again").result(timeout=60).path
