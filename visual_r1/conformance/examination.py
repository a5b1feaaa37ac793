"""A server asked for all that training needs, one call after the other, with the real SDK.

Everything is as a run does it: a prompt of the run's own template with a figure, an adapter of the
run's rank, the same data for the losses. Each answer is held against what it must mean, too: the
learner's log-probabilities against the sampler's, a reward against what the policy then thinks of
the answer, a loaded checkpoint against the weights that were saved, a loaded optimizer against what
it does next. What training needs comes first.
"""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tinker
from PIL import Image, ImageDraw

from visual_r1.backend.endpoint import Endpoint, probe
from visual_r1.config import RunConfig, preset_names
from visual_r1.conformance import findings
from visual_r1.conformance.conversation import (
    LIFETIME_S,
    RATE,
    WITHIN_S,
    Conversation,
    Logprobs,
    Unfit,
    logprobs_of_all,
)
from visual_r1.conformance.findings import Call, Report
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, ModelError
from visual_r1.models import TINY_GEOMETRY
from visual_r1.policy.policy import open_policy
from visual_r1.rl.datums import datum
from visual_r1.rl.kl import ask_logprobs, logprobs_of
from visual_r1.rl.losses import CISPO_CLIP, DRO_BETA, HIGH, LOW, SEQUENCE_MASK
from visual_r1.sft.datums import response_datum

_MOST_APART = 1.0
"""Nats a token by which sampler and learner may differ, as `limits.max_kl`."""
_MOST_LOADED_APART = 0.05  # bfloat16 rounds by about a hundredth

_LOSS_CONFIG: Mapping[str, Mapping[str, float]] = {
    "ppo": {LOW: 0.8, HIGH: 1.2},
    "cispo": {LOW: CISPO_CLIP[0], HIGH: CISPO_CLIP[1]},
    "dro": {"beta": DRO_BETA},
    "gspo": {LOW: 0.8, HIGH: 1.2},
}


@dataclass
class _Material:
    """Prompts, and an answer to the one without a figure with its log-probabilities.

    It is made up until one `is_sampled`: a server that cannot sample may train all the same.
    """

    text: tinker.ModelInput
    figure: tinker.ModelInput | None = None
    why_no_figure: str = ""
    tokens: Sequence[int] = tuple(range(26, 34))
    logprobs: Sequence[float] = (-4.0,) * 8
    is_sampled: bool = False


def examine_server(
    endpoint: Endpoint, model: str | None = None, within_s: float = WITHIN_S
) -> Report:
    """Try every call against the server, in a session that ends with this; raises nothing of it.

    `model` is one that it offers; by default the shipped one, else one of a preset, else the first.
    """
    found = _Examination(endpoint, model, within_s)
    try:
        found.run()
    finally:
        left = found.clear_up()
    return found.report(found.model, left)


class _Examination(Conversation):
    def __init__(self, endpoint: Endpoint, model: str | None, within_s: float) -> None:
        super().__init__(endpoint, within_s)
        self.model = model

    # The order of things.

    def run(self) -> None:
        """All calls; ends early where one fails that the next ones need."""
        self.attempt(findings.REACH, lambda: probe(self.endpoint))
        if not self.works(findings.REACH):
            return
        self.attempt(findings.CAPABILITIES, self._capabilities)
        if self.model is None:
            return
        material = self._material(self.model)
        training = self.attempt(findings.LORA, self._new_lora)
        if training is None:
            return
        sampler = self.attempt(
            findings.REFRESH, lambda: self.ask(training.save_weights_and_get_sampling_client)
        )
        if sampler is not None:
            self.attempt(findings.SAMPLE, lambda: self._sample(sampler, material))
            self.attempt(findings.PICTURE, lambda: self._sample_figure(sampler, material))
        self.attempt(findings.FORWARD, lambda: self._agreement(training, material))
        self.attempt(findings.LEARN, lambda: self._learn(training, material))
        self.attempt(findings.LEARN_PICTURE, lambda: self._learn_figure(training, material))
        self._checkpoints(training, material)
        self._features(sampler, material)

    def _checkpoints(self, training: tinker.TrainingClient, material: _Material) -> None:
        paths = self.attempt(findings.SAVE, lambda: self._save(training))
        if paths is None:
            return
        state, sampler_path = paths
        service = self.client()
        self.attempt(findings.INFO, lambda: self._info(state))
        resumed = self.attempt(
            findings.RESUME,
            lambda: self._loaded(
                lambda: service.create_training_client_from_state_with_optimizer(state),
                training,
                material,
            ),
        )
        self.attempt(findings.CHECKPOINT, lambda: self._from_checkpoint(sampler_path, material))
        base = self.attempt(
            findings.BASE,
            lambda: self.ask(lambda: service.create_sampling_client(None, self.model)),
        )
        weights = self.attempt(
            findings.WEIGHTS,
            lambda: self._loaded(
                lambda: service.create_training_client_from_state(state), training, material
            ),
        )
        if resumed is not None and weights is not None:
            self.attempt(
                findings.MOMENTS, lambda: self._moments(training, resumed, weights, material)
            )
        if base is not None:
            self.attempt(findings.LOGPROBS, lambda: self._base_logprobs(base, material))
        self.attempt(
            findings.LIFETIME,
            lambda: self.ask(
                lambda: self.rest().set_checkpoint_ttl_from_tinker_path(state, LIFETIME_S // 2)
            ),
        )
        if weights is not None:
            self.attempt(findings.EXTERNAL, lambda: self._external(weights))
        self.attempt(findings.DELETE, lambda: self._delete(sampler_path))

    def _features(self, sampler: tinker.SamplingClient | None, material: _Material) -> None:
        """Losses, on adapters of their own: one that fails may spoil its client."""
        if sampler is not None and material.is_sampled:
            self.attempt(findings.SEED, lambda: self._seed_again(sampler, material))
        spare: list[tinker.TrainingClient] = []

        def client() -> tinker.TrainingClient:
            if not spare:
                spare.append(self._new_lora())
            return spare[0]

        data = response_datum(material.text, material.tokens)
        losses = {findings.CROSS_ENTROPY: ("cross_entropy", data)} | {
            one: (name, self._policy_datum(material, name))
            for one, name in zip(findings.LOSSES, _LOSS_CONFIG, strict=True)
        }
        tries: list[tuple[Call, Callable[[], object]]] = [
            *(
                (one, lambda name=name, sent=sent: self._loss(client(), name, sent))
                for one, (name, sent) in losses.items()
            ),
            (findings.STABILITY, lambda: self._stability(client(), material)),
            (findings.CUSTOM, lambda: self._custom(client(), data)),
        ]
        for one, work in tries:
            self.attempt(one, work)
            if not self.works(one):
                spare.clear()

    # What each call is and must give.

    def _capabilities(self) -> str:
        reply = self.ask(self.rest().get_server_capabilities)
        offered = {
            one.model_name: one.trainable for one in reply.supported_models if one.model_name
        }
        trainable = [name for name, trains in offered.items() if trains is not False]
        names = ", ".join(sorted(offered)) or "no model"
        wanted = self.model
        if wanted is None:
            ours = [
                TINY_GEOMETRY,
                *(RunConfig.model_validate({"preset": one}).model.name for one in preset_names()),
            ]
            wanted = next((one for one in ours if one in trainable), next(iter(trainable), None))
            self.model = wanted
        elif wanted not in trainable:
            self.model = None
            raise Unfit(
                f"{wanted} is {'not for training' if wanted in offered else 'not offered'}; there "
                f"is {names}."
            )
        if wanted is None:
            raise Unfit(f"No model is for training; there is {names}.")
        return f"tried with {wanted}, of {len(offered)}"

    def _material(self, model: str) -> _Material:
        """Prompts as a run makes them; plain tokens where the model's processor cannot be had."""
        config = self._config(model)
        try:
            policy = open_policy(config)
        except ModelError as error:
            plain = tinker.ModelInput.from_ints(list(range(10, 26)))
            return _Material(plain, why_no_figure=str(error))
        problem = Problem("probe", (_figure(),), "<image>How many sides has this figure?", "3")
        figure = policy.prompter.model_input(problem)
        text = tinker.ModelInput.from_ints(policy.processor.encode("One, two, three, four,"))
        return _Material(text, figure)

    def _config(self, model: str) -> RunConfig:
        return RunConfig.model_validate({"model": {"name": model}})

    def _new_lora(self) -> tinker.TrainingClient:
        assert self.model is not None
        model, section = self.model, self._config(self.model).model
        service = self.client()
        return self.ask(
            lambda: service.create_lora_training_client(
                base_model=model,
                rank=section.lora_rank,
                seed=1,
                train_mlp=section.train_mlp,
                train_attn=section.train_attn,
                train_unembed=section.train_unembed,
            )
        )

    def _sample(self, sampler: tinker.SamplingClient, material: _Material) -> str:
        reply = self.sampled(sampler, material.text, 2)
        if len(reply.sequences) != 2:
            raise Unfit(f"two answers were asked for, and {len(reply.sequences)} came")
        answers = [(list(one.tokens), list(one.logprobs or ())) for one in reply.sequences]
        if any(not tokens or len(tokens) != len(logprobs) for tokens, logprobs in answers):
            raise Unfit("not every sampled token comes with a log-probability")
        material.tokens, material.logprobs = answers[0]
        material.is_sampled = True
        return "2 answers to one prompt, each with its log-probabilities"

    def _sample_figure(self, sampler: tinker.SamplingClient, material: _Material) -> str:
        figure = self._figure_of(material)
        self.sampled(sampler, figure, 1)
        return f"a prompt of {figure.length} tokens with a figure"

    def _agreement(self, training: tinker.TrainingClient, material: _Material) -> str:
        """Right after the adapter was made: what is learnt from is what was sampled."""
        learner = self.forward(training, material.text, material.tokens)
        if not material.is_sampled:
            return "nothing was sampled that it could be compared with"
        apart = float(np.mean(np.abs(learner - np.array(material.logprobs))))
        if not np.isfinite(apart) or apart > _MOST_APART:
            raise Unfit(f"sampler and learner differ by {apart:.3g} nats a token")
        return f"sampler and learner differ by {apart:.2g} nats a token"

    def _learn(self, training: tinker.TrainingClient, material: _Material) -> str:
        tokens = material.tokens
        before = self.forward(training, material.text, tokens)
        self.step(training, self._policy_datum(material))
        rise = float(np.sum(self.forward(training, material.text, tokens) - before))
        if not rise > 0:
            raise Unfit(
                f"an answer that was rewarded became no likelier (by {rise:.3g} nats): "
                "the step has no effect, or the wrong one"
            )
        return f"a rewarded answer became likelier by {rise:.2g} nats"

    def _learn_figure(self, training: tinker.TrainingClient, material: _Material) -> str:
        figure = self._figure_of(material)
        one = datum(figure, material.tokens, material.logprobs, 1.0)
        output = self.ask(lambda: training.forward_backward([one], "importance_sampling"))
        self.spent(train=one.model_input.length)
        logprobs_of_all(output, one)
        # Its gradient must not stay for the next step.
        self.ask(lambda: training.optim_step(tinker.AdamParams(learning_rate=RATE)))
        return ""

    def _save(self, training: tinker.TrainingClient) -> tuple[str, str]:
        name = f"probe-{time.time_ns():x}"
        state = self.ask(lambda: training.save_state(name, ttl_seconds=LIFETIME_S)).path
        self.saved.append(state)
        weights = self.ask(lambda: training.save_weights_for_sampler(name, ttl_seconds=LIFETIME_S))
        self.saved.append(weights.path)
        return state, weights.path

    def _info(self, state: str) -> str:
        info = self.ask(lambda: self.rest().get_weights_info_by_tinker_path(state))
        if info.base_model != self.model:
            raise Unfit(f"it says that the state is of {info.base_model}, not of {self.model}")
        return f"rank {info.lora_rank}"

    def _loaded(
        self,
        load: Callable[[], "tinker.APIFuture[tinker.TrainingClient]"],
        training: tinker.TrainingClient,
        material: _Material,
    ) -> tinker.TrainingClient:
        """A client of the saved state; its weights are those that were saved."""
        client = self.ask(load)
        there = self.forward(training, material.text, material.tokens)
        here = self.forward(client, material.text, material.tokens)
        apart = float(np.max(np.abs(there - here)))
        if not apart < _MOST_LOADED_APART:
            raise Unfit(f"the loaded weights are others: logprobs differ by {apart:.3g}")
        return client

    def _moments(
        self,
        training: tinker.TrainingClient,
        resumed: tinker.TrainingClient,
        weights: tinker.TrainingClient,
        material: _Material,
    ) -> str:
        """The next step, against the last one's direction, with and without Adam's moments.

        With them the two nearly cancel; without, Adam's first step is a whole one.
        """
        tokens = material.tokens
        after: list[Logprobs] = []
        for one in (training, resumed, weights):
            self.step(one, self._policy_datum(material, advantage=-1.0))
            after.append(self.forward(one, material.text, tokens))
        apart = float(np.sum(np.abs(after[0] - after[1])))
        without = float(np.sum(np.abs(after[0] - after[2])))
        if apart > 0.25 * without:
            raise Unfit(
                f"the step after loading is another ({apart:.2g} nats away, and {without:.2g} "
                "without moments): the optimizer was not loaded"
            )
        return f"the next step is the same to {apart:.2g} nats; without moments {without:.2g}"

    def _from_checkpoint(self, path: str, material: _Material) -> str:
        service = self.client()
        sampler = self.ask(lambda: service.create_sampling_client(path))
        self.sampled(sampler, material.text, 1)
        return ""

    def _seed_again(self, sampler: tinker.SamplingClient, material: _Material) -> str:
        one, other = (
            [list(found.tokens) for found in self.sampled(sampler, material.text, 2).sequences]
            for _ in range(2)
        )
        if one != other:
            raise Unfit("the same seed gives other answers")
        return ""

    def _base_logprobs(self, base: tinker.SamplingClient, material: _Material) -> str:
        tokens = material.tokens
        reply = self.ask(lambda: ask_logprobs(base, material.text, tokens))
        self.spent(prefill=material.text.length + len(tokens), sample=1)
        if logprobs_of(reply, len(tokens)) is None:
            raise Unfit("not every token of a prompt comes with a log-probability")
        return ""

    def _loss(self, training: tinker.TrainingClient, name: str, one: tinker.Datum) -> str:
        config = _LOSS_CONFIG.get(name)
        settings = None if config is None else dict(config)
        output = self.ask(lambda: training.forward_backward([one], name, settings))  # pyright: ignore[reportArgumentType]
        self.spent(train=one.model_input.length)
        logprobs_of_all(output, one)
        return ""

    def _stability(self, training: tinker.TrainingClient, material: _Material) -> str:
        sampler = self.ask(
            lambda: training.save_weights_and_get_sampling_client(record_stability_info=True)
        )
        self.sampled(sampler, material.text, 1)
        return "the loss itself was not computed"

    def _custom(self, training: tinker.TrainingClient, one: tinker.Datum) -> str:
        # The tensors are torch's, which is not imported here.
        self.ask(
            lambda: training.forward_backward_custom(
                [one],
                lambda _, logprobs: (-sum(part.sum() for part in logprobs), {}),  # pyright: ignore
            )
        )
        self.spent(train=2 * one.model_input.length)
        return ""

    def _external(self, training: tinker.TrainingClient) -> str:
        saved = self.ask(
            lambda: training.save_weights_external(
                f"probe-{time.time_ns():x}", ttl_seconds=LIFETIME_S
            )
        )
        self.saved.append(saved.path)
        urls = self.ask(lambda: self.rest().get_external_weights_urls(saved.path)).urls
        if not urls:
            raise Unfit("it names no file")
        return f"{len(urls)} files"

    def _delete(self, path: str) -> str:
        rest = self.rest()
        self.ask(lambda: rest.delete_checkpoint_from_tinker_path(path))
        self.saved.remove(path)
        try:
            self.ask(lambda: rest.get_weights_info_by_tinker_path(path))
        except BackendError:
            return ""
        raise Unfit("a checkpoint that was deleted is still there")

    def _policy_datum(
        self, material: _Material, loss: str = "", advantage: float = 1.0
    ) -> tinker.Datum:
        mask = SEQUENCE_MASK if loss == "gspo" else None
        return datum(material.text, material.tokens, material.logprobs, advantage, mask=mask)

    def _figure_of(self, material: _Material) -> tinker.ModelInput:
        if material.figure is None:
            raise Unfit(f"no prompt with a figure can be made: {material.why_no_figure}")
        return material.figure


def _figure() -> bytes:
    """A triangle, small: a few image tokens."""
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).polygon([(10, 80), (50, 10), (85, 80)], outline="black")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
