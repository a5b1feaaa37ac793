"""Training through the real SDK."""

from collections.abc import Callable

import pytest
import tinker
import torch
from protocol_client import MODEL, TOKENS, bad_datum, datum, image_prompt
from tinker import types

from visual_r1.models import model_path
from visual_r1.models.processor import load_processor

Trainer = Callable[..., tinker.TrainingClient]


def test_the_origins_loop(service: tinker.ServiceClient, trainer: Trainer) -> None:
    client = trainer(rank=16)
    tokenizer = client.get_tokenizer()
    assert tokenizer.encode("the angle at A reads 74 degrees") == list(TOKENS)
    with pytest.warns(DeprecationWarning, match="name"):
        future = client.save_weights_and_get_sampling_client(name="step-0")
    sampler = future.result(timeout=60)
    drawn = sampler.sample(
        image_prompt(), 2, types.SamplingParams(max_tokens=8, seed=1, temperature=0.9)
    ).result(timeout=60)
    data = []
    for sequence, advantage in zip(drawn.sequences, (1.0, -1.0), strict=True):
        assert sequence.logprobs is not None
        tokens = [*TOKENS, *sequence.tokens]
        lead = len(TOKENS) - 1
        data.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={
                    "target_tokens": tokens[1:],
                    "logprobs": [0.0] * lead + sequence.logprobs,
                    "advantages": [0.0] * lead + [advantage] * len(sequence.tokens),
                },
            )
        )
    passed = client.forward_backward(data, loss_fn="importance_sampling")
    stepped = client.optim_step(types.AdamParams(learning_rate=1e-3))
    assert len(passed.result(timeout=60).loss_fn_outputs) == 2
    assert stepped.result(timeout=60).metrics
    state = client.save_state("step-1").result(timeout=60)
    with pytest.warns(FutureWarning):
        client.load_state_with_optimizer(state.path).result(timeout=60)
    weights = client.save_weights_for_sampler("final").result(timeout=60)
    final = service.create_sampling_client(model_path=weights.path).result(timeout=60)
    assert final.get_base_model() == MODEL
    scored = client.forward([datum()], "cross_entropy").result(timeout=60)
    learned = scored.loss_fn_outputs[0]["logprobs"].data
    prompt = types.ModelInput.from_ints(list(TOKENS))
    assert final.compute_logprobs(prompt).result(timeout=60)[1:] == pytest.approx(learned, abs=1e-4)


def test_info_and_capabilities(rest: tinker.RestClient, trainer: Trainer) -> None:
    (model,) = rest.get_server_capabilities().result(timeout=60).supported_models
    assert model.model_name == MODEL and model.trainable and model.sampleable
    assert model.max_context_length and model.max_context_length >= 1024
    info = trainer(rank=3).get_info()
    assert info.model_data.model_name == MODEL and info.lora_rank == 3 and info.is_lora


def test_an_unknown_model_is_answered_with_those_on_offer(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.RequestFailedError) as caught:
        service.create_lora_training_client("Qwen/Unknown-7B", rank=4).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    assert "Qwen/Unknown-7B" in str(caught.value) and MODEL in str(caught.value)


def test_what_lora_trains_and_its_seed(trainer: Trainer) -> None:
    def stepped(**options: object) -> list[float]:
        client = trainer(**options)
        client.forward_backward([datum()], "cross_entropy")
        client.optim_step(types.AdamParams(learning_rate=1e-2))
        scored = client.forward([datum()], "cross_entropy").result(timeout=60)
        return scored.loss_fn_outputs[0]["logprobs"].data

    only_mlp = {"train_attn": False, "train_unembed": False}
    results = [stepped(), stepped(seed=8), stepped(**only_mlp), stepped(rank=2)]
    assert len({tuple(result) for result in results}) == 4
    assert stepped() == results[0]


def test_an_optimizer_step_after_a_failed_forward_backward_is_refused(trainer: Trainer) -> None:
    client = trainer()
    before = client.forward([datum()], "cross_entropy").result(timeout=60)
    failed = client.forward_backward([datum(), bad_datum()], "cross_entropy")
    refused = client.optim_step(types.AdamParams(learning_rate=1e-2))
    for future in (failed, refused):
        with pytest.raises(tinker.RequestFailedError) as caught:
            future.result(timeout=60)
        assert caught.value.category is types.RequestErrorCategory.User
    assert "optim_step" in str(caught.value) and "refused" in str(caught.value)
    after = client.forward([datum()], "cross_entropy").result(timeout=60)
    assert after.loss_fn_outputs[0]["logprobs"].data == before.loss_fn_outputs[0]["logprobs"].data
    client.forward_backward([datum()], "cross_entropy")
    assert client.optim_step(types.AdamParams()).result(timeout=60).metrics


def test_a_call_of_many_chunks_counts_once_for_each_datum(trainer: Trainer) -> None:
    client = trainer()
    short = datum(TOKENS[:3])
    one = client.forward([short], "cross_entropy").result(timeout=60)
    many = client.forward_backward([short] * 1030, "cross_entropy").result(timeout=300)
    assert len(many.loss_fn_outputs) == 1030
    assert many.metrics["loss:sum"] == pytest.approx(1030 * one.metrics["loss:sum"], rel=1e-4)
    assert all(key.count(":") == 1 for key in many.metrics)


def test_a_custom_loss(trainer: Trainer) -> None:
    def twice_the_negative_sum(
        data: list[types.Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return -2 * sum(lp.sum() for lp in logprobs), {"seen:sum": float(len(data))}  # type: ignore[return-value]

    custom, plain = trainer(), trainer()
    data = [datum(), datum(TOKENS[::-1])]
    result = custom.forward_backward_custom(data, twice_the_negative_sum)
    metrics = custom.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60).metrics
    doubled = plain.forward_backward(
        [datum(scale=2), datum(TOKENS[::-1], scale=2)], "cross_entropy"
    )
    expected = plain.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60).metrics
    assert metrics == pytest.approx(expected)
    loss = doubled.result(timeout=60).metrics["loss:sum"]
    assert result.result(timeout=60).metrics["loss:sum"] == pytest.approx(loss, rel=1e-5)
    assert result.result(timeout=60).metrics["seen:sum"] == 2


def test_sparse_and_dense_targets_are_the_same(trainer: Trainer) -> None:
    client = trainer()
    length = len(TOKENS) - 1
    targets = torch.zeros(length, 4, dtype=torch.int64)
    weights = torch.zeros(length, 4)
    targets[:, 0] = torch.tensor(TOKENS[1:])
    weights[:, 0] = 1.0
    weights[2, 1] = 0.5

    def wide(pack: Callable[[torch.Tensor], types.TensorData]) -> types.Datum:
        return types.Datum(
            model_input=types.ModelInput.from_ints(list(TOKENS[:-1])),
            loss_fn_inputs={"target_tokens": pack(targets), "weights": pack(weights)},
        )

    sparse = wide(types.TensorData.from_torch_sparse)
    assert sparse.loss_fn_inputs["weights"].sparse_crow_indices is not None
    results = [
        client.forward([one], "cross_entropy").result(timeout=60)
        for one in (sparse, wide(types.TensorData.from_torch))
    ]
    outputs = [result.loss_fn_outputs[0]["logprobs"] for result in results]
    assert outputs[0].shape == [length, 4] and outputs[0].data == outputs[1].data
    assert results[0].metrics == results[1].metrics
    # Data of different widths in one request.
    mixed = client.forward([datum(), sparse, datum()], "cross_entropy").result(timeout=60)
    assert [out["logprobs"].shape for out in mixed.loss_fn_outputs] == [
        [length],
        [length, 4],
        [length],
    ]


def test_loss_configuration(trainer: Trainer) -> None:
    client = trainer()
    data = [datum(loss="ppo")]
    tight = {"clip_low_threshold": 0.99, "clip_high_threshold": 1.01}
    losses = [
        client.forward(data, "ppo", config).result(timeout=60).metrics["loss:sum"]
        for config in (None, tight)
    ]
    assert losses[0] != losses[1]
    with pytest.raises(tinker.RequestFailedError, match="clip_low_threshold"):
        client.forward(data, "ppo", {"clip_low_threshold": "low"}).result(timeout=60)
    with pytest.raises(tinker.RequestFailedError, match="needs the input 'sequence_ratio_mask'"):
        client.forward(data, "gspo").result(timeout=60)


def test_an_image_datum(trainer: Trainer) -> None:
    client = trainer()
    count = load_processor(model_path(MODEL)).image_tokens(96, 96)
    length = len(TOKENS) + 2 + count
    example = types.Datum(
        model_input=image_prompt(),
        loss_fn_inputs={"target_tokens": [TOKENS[0]] * length, "weights": [1.0] * length},
    )
    passed = client.forward_backward([example], "cross_entropy").result(timeout=60)
    assert passed.loss_fn_outputs[0]["logprobs"].shape == [length]


def test_a_finished_session_takes_no_more(service: tinker.ServiceClient, trainer: Trainer) -> None:
    client = trainer()
    other = tinker.ServiceClient(base_url=service.holder._base_url, api_key=service.holder._api_key)
    orphan = other.create_lora_training_client(MODEL, rank=4).result(timeout=60)
    session, model_id = other.holder.get_session_id(), orphan.model_id
    other.close("success").result(timeout=60)
    assert client.forward([datum()], "cross_entropy").result(timeout=60).metrics
    client.model_id = model_id
    with pytest.raises(tinker.RequestFailedError, match="session is over"):
        client.forward([datum()], "cross_entropy").result(timeout=60)
    assert session in model_id
