"""What a server must do for this run, tried in small before the first step.

One token sampled from a prompt with its image, one forward with the run's loss, and where the
reward holds a KL one log-probability of the base model: a server of another version, without vision
or without that loss is found here, in a sentence, and not after a step's worth of sampling.
"""

from collections.abc import Mapping

import tinker

from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, wait
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, ConfigError, IncompatibleServer, RequestRefused
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import Policy
from visual_r1.rl.datums import datum
from visual_r1.rl.kl import ask_logprobs, logprobs_of
from visual_r1.rl.losses import Loss, loss_of

_ANOTHER_PROTOCOL = (AssertionError, tinker.APIResponseValidationError)
"""What the SDK raises where a reply is not what it relies on."""


def require_capable(
    training: tinker.TrainingClient,
    policy: Policy,
    problem: Problem,
    base: tinker.SamplingClient | None = None,
) -> None:
    """Raise in a sentence where the server lacks what SDK and configuration need.

    `base` samples from the base model, where the reward holds a KL to it. `ConfigError` where
    another model, loss or reward would do, `IncompatibleServer` where the server does not speak the
    protocol of this SDK: then it is of no use to begin again, as after any other `BackendError`.
    The weights of `training` stay as they are.
    """
    try:
        _try(training, policy, problem, base)
    except BackendError as error:
        if isinstance(error.__cause__, _ANOTHER_PROTOCOL):
            raise IncompatibleServer(str(error)) from error
        raise


def _try(
    training: tinker.TrainingClient,
    policy: Policy,
    problem: Problem,
    base: tinker.SamplingClient | None,
) -> None:
    config = policy.config
    loss = loss_of(config.train, config.algorithm)
    saving = training.save_weights_and_get_sampling_client(
        record_stability_info=loss.needs_provenance
    )
    sampler = wait(saving, "a first sampler", SAVE_LIMIT_S, policy.watch)
    prompt = policy.prompter.model_input(problem)
    params = tinker.SamplingParams(
        max_tokens=1,
        temperature=config.sampling.temperature,
        seed=stable_seed("probe", config.train.seed),
    )
    asked = sampler.sample(prompt, num_samples=1, sampling_params=params)
    try:
        reply = wait(asked, "a first sample with an image", CONTROL_LIMIT_S, policy.watch)
    except RequestRefused as error:
        raise ConfigError(
            f"The server takes no image with the model {config.model.name}, so it cannot be "
            f"trained on pictures there: choose another --model.name or server. {error}"
        ) from error
    sequence = _sampled(reply)
    _try_loss(training, policy, loss, prompt, sequence)
    if base is not None:
        _try_base(base, policy, prompt, sequence.tokens)


def _sampled(reply: tinker.SampleResponse) -> tinker.SampledSequence:
    sequences = reply.sequences
    if len(sequences) != 1 or not sequences[0].tokens:
        raise IncompatibleServer(
            f"The server returned {len(sequences)} sequences where one was asked for: it does not "
            "speak the protocol that training needs."
        )
    if len(sequences[0].logprobs or ()) != len(sequences[0].tokens):
        raise IncompatibleServer(
            "The server returns no log-probabilities of sampled tokens, and training needs one a "
            "token: this server cannot be trained with."
        )
    return sequences[0]


def _try_loss(
    training: tinker.TrainingClient,
    policy: Policy,
    loss: Loss,
    prompt: tinker.ModelInput,
    sequence: tinker.SampledSequence,
) -> None:
    made = datum(
        prompt,
        sequence.tokens,
        sequence.logprobs or (),
        1.0,
        mask=loss.mask,
        sequence_id=sequence.sequence_id if loss.needs_provenance else None,
    )
    config: Mapping[str, float] | None = loss.config
    if loss.own is not None:  # what the SDK sends before it is computed
        length, targets = made.model_input.length, made.loss_fn_inputs["target_tokens"]
        nothing = tinker.TensorData(data=[0.0] * length, dtype="float32", shape=[length])
        made = tinker.Datum(made.model_input, {"target_tokens": targets, "weights": nothing})
        config = None
    forward = training.forward([made], loss.name, config)
    try:
        output = wait(forward, f"a first forward of {loss.name}", CONTROL_LIMIT_S, policy.watch)
    except RequestRefused as error:
        raise ConfigError(
            f"The server does not compute the loss {loss.name!r} as this run needs it: choose "
            f"another --train.loss or server. {error}"
        ) from error
    if not output.loss_fn_outputs or "logprobs" not in output.loss_fn_outputs[0]:
        raise IncompatibleServer(
            f"The server's forward of {loss.name} returns no log-probabilities: it does not speak "
            "the protocol that training needs."
        )


def _try_base(
    base: tinker.SamplingClient, policy: Policy, prompt: tinker.ModelInput, tokens: list[int]
) -> None:
    asked = ask_logprobs(base, prompt, tokens)
    what = "first log-probabilities of the base model"
    why = "set algorithm.kl_coefficient to 0, or choose another server."
    try:
        reply = wait(asked, what, CONTROL_LIMIT_S, policy.watch)
    except RequestRefused as error:
        raise ConfigError(
            f"The server does not score prompts with the base model {policy.config.model.name}, "
            f"which a KL in the reward needs: {why} {error}"
        ) from error
    if logprobs_of(reply, len(tokens)) is None:
        raise ConfigError(
            "The server returns no log-probabilities of prompts, which a KL in the reward needs: "
            f"{why}"
        )
