"""Of a cold start's data the response tokens alone bear gradient, images in the prompt or not."""

from collections.abc import Callable

import numpy as np
import pytest
import tinker
from protocol_client import TOKENS, image_prompt

from visual_r1.sft.datums import response_datum

PROMPTS = {
    "text": tinker.ModelInput.from_ints(list(TOKENS)),
    "a figure": image_prompt(expected_tokens=16),
}
RESPONSE = list(TOKENS[2:8])


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_loss_is_that_of_the_response_tokens_alone(
    trainer: Callable[..., tinker.TrainingClient], prompt: tinker.ModelInput
) -> None:
    one = response_datum(prompt, RESPONSE, 0.5)
    training = trainer()
    output = training.forward_backward([one], "cross_entropy").result(timeout=60)
    logprobs = output.loss_fn_outputs[0]["logprobs"].to_numpy()
    assert len(logprobs) == prompt.length + len(RESPONSE) - 1
    of_response = logprobs[-len(RESPONSE) :]
    assert output.metrics["loss:sum"] == pytest.approx(-0.5 * float(np.sum(of_response)), rel=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_no_other_token_bears_gradient(
    trainer: Callable[..., tinker.TrainingClient], prompt: tinker.ModelInput
) -> None:
    """The same step, also when the targets of the prompt's places are others."""
    one = response_datum(prompt, RESPONSE)
    targets = one.loss_fn_inputs["target_tokens"].to_numpy().copy()
    assert [*targets[-len(RESPONSE) :]] == RESPONSE
    targets[: prompt.length - 1] = RESPONSE[0]
    other = tinker.Datum(
        model_input=one.model_input,
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(targets),
            "weights": one.loss_fn_inputs["weights"],
        },
    )
    after: list[list[float]] = []
    for data in (one, other):
        training = trainer()
        training.forward_backward([data], "cross_entropy")
        training.optim_step(tinker.AdamParams(learning_rate=1e-2)).result(timeout=60)
        output = training.forward([one], "cross_entropy").result(timeout=60)
        after.append(output.loss_fn_outputs[0]["logprobs"].to_numpy()[-len(RESPONSE) :].tolist())
    assert after[0] == after[1]
