"""Losses in Python, through the real SDK: a forward, then the gradient it names."""

from collections.abc import Callable, Mapping

import pytest
import tinker
import torch
from protocol_client import TOKENS, datum
from tinker import types

Trainer = Callable[..., tinker.TrainingClient]
DATA = [datum(loss="importance_sampling"), datum(TOKENS[:7], "importance_sampling", -0.5)]


def weighted(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    loss = -(torch.exp(logprobs - old) * advantages).sum()
    return loss, {"custom/tokens:sum": torch.ones_like(logprobs).sum()}


def stepped(client: tinker.TrainingClient) -> tuple[dict[str, float] | None, list[float]]:
    metrics = client.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60).metrics
    scored = client.forward([datum()], "cross_entropy").result(timeout=60)
    return metrics, scored.loss_fn_outputs[0]["logprobs"].data


def test_a_loss_in_python_has_the_gradient_of_the_built_in_one(
    service: tinker.ServiceClient, trainer: Trainer
) -> None:
    def python(
        data: list[types.Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        losses = [
            weighted(
                scored,
                one.loss_fn_inputs["logprobs"].to_torch(),
                one.loss_fn_inputs["advantages"].to_torch(),
            )[0]
            for one, scored in zip(data, logprobs, strict=True)
        ]
        return torch.stack(losses).sum(), {"mine:mean": 2.0}

    def traced(logprobs, old_logprobs, advantages):  # type: ignore[no-untyped-def]
        return weighted(logprobs, old_logprobs, advantages)

    built_in, by_callable, by_handle = trainer(), trainer(), trainer()
    expected = built_in.forward_backward(DATA, "importance_sampling").result(timeout=60)
    mine = by_callable.forward_backward_custom(DATA, python).result(timeout=60)
    assert mine.metrics["mine:mean"] == 2.0
    ranks = {"logprobs": 1, "old_logprobs": 1, "advantages": 1}
    handle = service.create_custom_loss(traced, ranks).result(timeout=60)
    renamed = [
        types.Datum(
            one.model_input,
            {
                "target_tokens": one.loss_fn_inputs["target_tokens"],
                "old_logprobs": one.loss_fn_inputs["logprobs"],
                "advantages": one.loss_fn_inputs["advantages"],
            },
        )
        for one in DATA
    ]
    by = by_handle.forward_backward_custom(renamed, handle).result(timeout=60)
    assert by.metrics["custom/tokens:sum"] == sum(len(d.model_input.to_ints()) for d in DATA)
    assert by.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-4)
    results = [stepped(client) for client in (built_in, by_callable, by_handle)]
    for metrics, logprobs in results[1:]:
        assert metrics == pytest.approx(results[0][0], rel=1e-4)
        assert logprobs == pytest.approx(results[0][1], abs=1e-4)


@pytest.mark.parametrize("loss", ["custom", "mine"])
def test_losses_without_a_public_formula_are_refused_with_those_there_are(
    trainer: Trainer, loss: str
) -> None:
    with pytest.raises(tinker.RequestFailedError, match="importance_sampling") as caught:
        trainer().forward_backward(DATA, loss).result(timeout=60)  # type: ignore[arg-type]
    assert caught.value.category is types.RequestErrorCategory.User and loss in str(caught.value)


def test_other_optimizers_are_refused(service: tinker.ServiceClient, trainer: Trainer) -> None:
    client = trainer()
    client.forward_backward([datum()], "cross_entropy")
    with pytest.raises(tinker.RequestFailedError, match="AdamW"):
        client.optim_step(types.DimuonParams(learning_rate=0.1)).result(timeout=60)
    path = client.save_state("state").result(timeout=60).path
    with pytest.raises(tinker.RequestFailedError, match="adamw"):
        service.create_training_client_from_state(
            path, optimizer=types.DimuonOptimizerConfig()
        ).result(timeout=60)
    with pytest.raises(tinker.RequestFailedError, match="adamw"):
        trainer(optimizer=types.DimuonOptimizerConfig())
