"""train_step against the real engine: what it sends, and what comes of it."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tinker
from one_step import Listed, groups_of, train_step
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.types import RequestErrorCategory

from visual_r1.config import AlgorithmSection, LimitsSection, RunConfig, SamplingSection
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.engine.launch import RunningEngine, start_engine
from visual_r1.errors import BackendError, EngineError, LossError, RewardError, RunError
from visual_r1.grading import Grade, grade
from visual_r1.policy.policy import Policy, RolloutGroup, open_policy
from visual_r1.prices import Prices
from visual_r1.rewards import scoring
from visual_r1.rl.learning import StepLearner
from visual_r1.rl.metrics import SAMPLING_PHASES
from visual_r1.rl.step import StepResult

PROBLEMS = list(generate(3, "train", 3))
UNSOLVABLE = [replace(problem, answer="1234567") for problem in PROBLEMS]
# Far beyond the context of the shipped model.
ENDLESS = replace(PROBLEMS[0], id="endless", problem="<image>" + "Find x. " * 20_000)


def config(**train: Any) -> RunConfig:
    """A coin flip as reward: every group has something to tell apart, however good the model is."""
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "train": {"group_size": 4, "skip_without_contrast": False, **train},
            "sampling": {"max_new_tokens": 24},
            "reward": {"format": 0.0, "accuracy": 0.0, "visual_grounding": 0.0, "random": 1.0},
        }
    )


@pytest.fixture(scope="module")
def service(engine: RunningEngine) -> Iterator[tinker.ServiceClient]:
    client = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    yield client
    client.close("success").result(timeout=60)


@pytest.fixture
def training(service: tinker.ServiceClient) -> tinker.TrainingClient:
    model = config().model.name
    return service.create_lora_training_client(base_model=model, rank=4, seed=5).result(timeout=60)


def policy(settings: RunConfig) -> Policy:
    return open_policy(settings)


def tokens_of(result: StepResult) -> list[tuple[int, ...]]:
    return [scored.rollout.tokens for scored in result.rollouts]


def answered(result: StepResult) -> int:
    return sum(len(scored.rollout.tokens) for scored in result.rollouts)


def spent(result: StepResult) -> tuple[float, float, float]:
    cost = result.metrics.cost
    return cost.tokens_prefill, cost.tokens_sampled, cost.tokens_trained


def read(settings: RunConfig) -> list[int]:
    """Tokens of the prompts of `PROBLEMS`, those of their images included."""
    prompter = policy(settings).prompter
    return [prompter.model_input(problem).length for problem in PROBLEMS]


def learnt(result: StepResult, settings: RunConfig) -> int:
    """The positions of all datums: prompt and answer, but for the answer's last token."""
    prompts, rollouts = read(settings), [scored.rollout for scored in result.rollouts]
    taught = {scored.rollout.group for scored in result.rollouts if scored.advantage}
    return sum(prompts[one.group] + len(one.tokens) - 1 for one in rollouts if one.group in taught)


def test_a_step_updates_and_sampler_and_learner_agree(training: tinker.TrainingClient) -> None:
    priced = replace(policy(config()), prices=Prices(1.0, 2.0, 3.0))
    result = train_step(training, priced, PROBLEMS, 0)
    update = result.metrics.update
    assert update is not None
    assert update.kl_sampler_learner == pytest.approx(0, abs=1e-8)
    assert update.ratio_max == pytest.approx(1, abs=1e-4)
    assert update.ratio_min == pytest.approx(1, abs=1e-4)
    assert update.grad_norm is not None
    assert update.grad_norm > 0
    # Each prompt is read once for its four samples, and trained on with each of them.
    prompts, trained = sum(read(config())), learnt(result, config())
    assert spent(result) == (prompts, answered(result), trained)
    assert result.metrics.cost.tokens_cached == 3 * prompts
    cost = (prompts + 0.2 * 3 * prompts + 2 * answered(result) + 3 * trained) / 1e6
    row = result.metrics.row()
    assert row["cost_usd"] == pytest.approx(cost)
    parts = [row[f"seconds_{phase}"] for phase in SAMPLING_PHASES]
    assert sum(map(float, filter(None, parts))) <= float(row["seconds_sample"] or 0) + 0.01
    after = train_step(training, policy(config()), PROBLEMS, 0)
    assert after.metrics.cost.cost_usd is None
    assert tokens_of(after) != tokens_of(result)  # the next sampler has the new weights


def test_samples_stand_in_the_order_of_group_and_sample(training: tinker.TrainingClient) -> None:
    result = train_step(training, policy(config()), PROBLEMS, 0)
    places = [(scored.rollout.group, scored.rollout.sample) for scored in result.rollouts]
    assert places == [(group, sample) for group in range(3) for sample in range(4)]
    ids = [scored.rollout.problem_id for scored in result.rollouts]
    assert ids == [problem.id for problem in PROBLEMS for _ in range(4)]
    assert len(set(tokens_of(result))) > 6  # samples of a group are not copies of one another


def test_a_step_is_a_function_of_the_weights_and_its_number(service: tinker.ServiceClient) -> None:
    rows: list[dict[str, Any]] = []
    for step in (2, 2, 3):
        model = config().model.name
        client = service.create_lora_training_client(base_model=model, rank=4, seed=5).result(60)
        row = dict(train_step(client, policy(config()), PROBLEMS, step).metrics.row())
        rows.append({name: v for name, v in row.items() if not name.startswith("seconds_")})
    assert rows[0] == rows[1]
    assert rows[0]["loss"] != rows[2]["loss"]


def test_without_contrast_nothing_is_sent_and_the_weights_stay(
    training: tinker.TrainingClient,
) -> None:
    strict = policy(config(skip_without_contrast=True))
    first = train_step(training, strict, UNSOLVABLE, 0)
    assert first.metrics.update is None
    assert first.metrics.samples.groups_without_contrast == 3
    assert first.metrics.learning.datums == 0
    assert {scored.advantage for scored in first.rollouts} == {0.0}
    again = train_step(training, strict, UNSOLVABLE, 0)
    assert tokens_of(again) == tokens_of(first)


def test_a_refused_prompt_is_counted_and_the_step_goes_on(training: tinker.TrainingClient) -> None:
    problems: list[Problem] = [PROBLEMS[0], ENDLESS, PROBLEMS[1]]
    result = train_step(training, policy(config()), problems, 0)
    assert (result.metrics.samples.failed, result.metrics.samples.refused) == (4, 4)
    assert {scored.rollout.group for scored in result.rollouts} == {0, 2}
    assert result.metrics.update is not None


def test_rows_that_are_refused_end_no_run(
    training: tinker.TrainingClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Three of four, which is more than `limits.least_sampled` bears of what a server fails at."""
    broken = replace(PROBLEMS[1], id="broken", images=(b"\x89PNG\r\n\x1a\nnothing",))
    problems = [ENDLESS, PROBLEMS[0], broken, replace(ENDLESS, id="endless too")]
    result = train_step(training, policy(config()), problems, 0)
    samples = result.metrics.samples
    assert (samples.failed, samples.refused, samples.groups) == (12, 12, 4)
    assert {scored.rollout.group for scored in result.rollouts} == {1}
    assert result.metrics.update is not None and result.metrics.row()["refused"] == 12
    (said,) = [one.getMessage() for one in caplog.records if "left out" in one.getMessage()]
    assert "12 of 16 samples of step 0" in said
    assert "'endless', 'broken', 'endless too'" in said


def test_a_step_of_which_nothing_is_left_is_an_error(training: tinker.TrainingClient) -> None:
    with pytest.raises(BackendError, match=r"4 of 4 samples of step 7 failed.*refused"):
        train_step(training, policy(config()), [ENDLESS], 7)


def test_samples_that_a_users_reward_fails_on_leave_their_groups(
    training: tinker.TrainingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "moody.py").write_text(
        "def odd(sample, grade):\n    return 1 / (sample.seed % 2)\n\n"
        "def never(sample, grade):\n    return 'good'\n"
    )
    settings = config().model_dump()
    settings["reward"] |= {"random": 0.0, "length": 1.0, "custom": "moody:odd"}
    result = train_step(training, policy(RunConfig.model_validate(settings)), PROBLEMS, 0)
    failed = [scored for scored in result.rollouts if scored.rollout.scored.failure]
    assert len(result.rollouts) == 12
    assert 0 < result.metrics.samples.unscored == len(failed) < 12
    assert {scored.advantage for scored in failed} == {0.0}
    assert result.metrics.rewards.components["custom"] == 1.0
    assert result.metrics.learning.datums <= 12 - len(failed)

    settings["reward"]["custom"] = "moody:never"
    with pytest.raises(RewardError, match="any of the 12 samples of step 1: moody:never returned"):
        train_step(training, policy(RunConfig.model_validate(settings)), PROBLEMS, 1)


def test_samples_that_the_grader_fails_on_leave_their_groups(
    training: tinker.TrainingClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = count()

    def every_third_fails(*args: Any, **kwargs: Any) -> Grade:
        if next(calls) % 3 == 0:
            raise ValueError("Exceeds the limit (4300 digits)")
        return grade(*args, **kwargs)

    monkeypatch.setattr(scoring, "grade", every_third_fails)
    result = train_step(training, policy(config()), PROBLEMS, 0)
    failed = [scored for scored in result.rollouts if scored.rollout.scored.failure]
    assert len(failed) == result.metrics.samples.unscored == 4
    assert {scored.advantage for scored in failed} == {0.0}
    assert all(
        one.rollout.response and "4300 digits" in one.rollout.scored.failure for one in failed
    )
    (said,) = [one.getMessage() for one in caplog.records if "score 4 of 12" in one.getMessage()]
    assert "the grader failed with ValueError" in said


def test_the_losses_agree_at_the_sampling_weights(service: tinker.ServiceClient) -> None:
    """With r = 1 all have the gradient of -A logp; only dro counts prompt positions too."""
    norms: dict[str, float] = {}
    trained: dict[str, float] = {}
    for loss in ("importance_sampling", "ppo", "cispo", "gspo", "dro", "sapo"):
        model = config().model.name
        client = service.create_lora_training_client(base_model=model, rank=4, seed=5).result(60)
        result = train_step(client, policy(config(loss=loss)), PROBLEMS, 0)
        update = result.metrics.update
        assert update is not None
        assert update.grad_norm is not None
        assert update.clip_share == (0.0 if loss in ("ppo", "cispo", "gspo") else None)
        assert update.logged == ({"gate_mean": pytest.approx(1)} if loss == "sapo" else {})
        norms[loss], trained[loss] = update.grad_norm, update.tokens.train
    # What dro penalises, and what is computed here, take a forward ahead, paid as training.
    ones = trained["ppo"]
    assert list(trained.values()) == [ones, ones, ones, ones, 2 * ones, 2 * ones]
    assert norms == {loss: pytest.approx(norms["ppo"], rel=1e-4) for loss in norms}


LOSSES = """
import torch

def squared(data, logprobs, *, weight=1.0):
    parts = []
    for datum, logp in zip(data, logprobs):
        mask = datum.loss_fn_inputs["mask"].to_torch()
        parts.append(((logp - 1) ** 2 * mask).sum())
    return weight * torch.stack(parts).sum(), {"weight": weight}

def broken(data, logprobs):
    return squared(data, logprobs)[0] / 0 * 0, {}

def raising(data, logprobs):
    return data[0].loss_fn_inputs["rewards"], {}
"""


def test_a_users_own_loss_trains_and_one_that_fails_saves_nothing(
    service: tinker.ServiceClient,
    training: tinker.TrainingClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_losses.py").write_text(LOSSES)
    chosen = {"minibatches": 2, "epochs": 2, "loss_config": {"weight": 3.0}}
    settings = config(loss="own_losses:squared", learning_rate=1e-3).model_copy(
        update={"algorithm": AlgorithmSection.model_validate(chosen)}
    )
    result = train_step(training, policy(settings), PROBLEMS, 0)
    update = result.metrics.update
    assert update is not None and update.optimizer_steps == 4
    assert update.tokens.train == 2 * 2 * learnt(result, settings)
    assert result.metrics.row()["loss_weight"] == 3.0
    taught = {one.rollout.group for one in result.rollouts if one.advantage}
    squares = sum(
        (logp - 1) ** 2
        for one in result.rollouts
        if one.rollout.group in taught
        for logp in one.rollout.logprobs
    )
    assert update.loss == pytest.approx(3 * squares, rel=0.2)  # the weights move meanwhile
    for name, says in (
        (
            "broken",
            r"broken \(own_losses\.py, line 11\) returned the loss nan",
        ),
        ("raising", r"raising failed with KeyError: 'rewards' \(own_losses\.py, line 15\)"),
    ):
        other = service.create_lora_training_client(settings.model.name, rank=4).result(timeout=60)
        with pytest.raises(LossError, match=rf"own_losses:{says}.* Nothing of step 3 is saved"):
            train_step(other, policy(config(loss=f"own_losses:{name}")), PROBLEMS, 3)


@pytest.mark.parametrize("normalization", ["none", "token", "sequence", "constant"])
def test_normalisation_divides_the_gradient(
    service: tinker.ServiceClient, normalization: str
) -> None:
    settings = config().model_copy(
        update={"algorithm": AlgorithmSection.model_validate({"normalization": normalization})}
    )
    client = service.create_lora_training_client(
        base_model=settings.model.name, rank=4, seed=5
    ).result(60)
    result = train_step(client, policy(settings), PROBLEMS, 0)
    update = result.metrics.update
    assert update is not None
    taught = [one.rollout for one in result.rollouts if one.advantage]
    lengths = [len(rollout.tokens) for rollout in taught]
    assert result.metrics.learning.gradient_share == len(taught) / 12
    by_hand = {
        "none": 1.0,
        "token": 1 / sum(lengths),
        "constant": 1 / (len(lengths) * settings.sampling.max_new_tokens),
    }
    weights = [
        by_hand.get(normalization, 1 / (len(lengths) * len(rollout.tokens))) for rollout in taught
    ]
    # With r = 1 the loss is minus the sum of each token's advantage and share.
    total = sum(
        one.advantage * len(one.rollout.tokens) * weight
        for one, weight in zip([o for o in result.rollouts if o.advantage], weights, strict=True)
    )
    assert update.loss == pytest.approx(-total, rel=1e-3, abs=1e-5)


def test_minibatches_and_epochs_are_optimizer_steps_off_policy(
    service: tinker.ServiceClient,
) -> None:
    settings = config(loss="ppo", learning_rate=1e-3).model_copy(
        update={"algorithm": AlgorithmSection(minibatches=2, epochs=2)}
    )
    client = service.create_lora_training_client(
        base_model=settings.model.name, rank=4, seed=5
    ).result(60)
    result = train_step(client, policy(settings), PROBLEMS, 0)
    update = result.metrics.update
    assert update is not None
    assert update.optimizer_steps == 4
    assert update.tokens.train == 2 * learnt(result, settings)
    assert update.clip_share == 0.0
    assert update.off_policy_clip_share is not None
    assert 0 < update.off_policy_clip_share < 0.5
    assert update.kl_sampler_learner == pytest.approx(0, abs=1e-8)
    assert update.off_policy_kl is not None
    assert update.off_policy_kl > 1e-6
    assert update.off_policy_ratio_max is not None
    assert update.off_policy_ratio_max > 1.001


def test_the_divergence_from_the_base_model_is_in_the_reward(
    service: tinker.ServiceClient,
) -> None:
    settings = config(learning_rate=1e-2).model_copy(
        update={"algorithm": AlgorithmSection(kl_coefficient=0.5)}
    )
    model = settings.model.name
    client = service.create_lora_training_client(base_model=model, rank=4, seed=5).result(60)
    base = service.create_sampling_client(base_model=model).result(60)
    before = train_step(client, policy(settings), PROBLEMS, 0, base)
    # A new LoRA changes nothing yet: the policy is the base model.
    for one in before.rollouts:
        assert one.rollout.scored.components["kl"] == pytest.approx(0, abs=1e-3)
    scored_too = 4 * sum(read(settings)) + answered(before)
    assert before.metrics.cost.tokens_prefill == sum(read(settings)) + scored_too
    assert before.metrics.cost.tokens_sampled == answered(before) + len(before.rollouts)
    after = train_step(client, policy(settings), PROBLEMS, 1, base)
    assert after.metrics.rewards.components["kl"] < -0.01
    for one in after.rollouts:
        scored = one.rollout.scored
        expected = scored.components["random"] + 0.5 * scored.components["kl"]
        assert scored.reward == pytest.approx(expected)


def test_truncated_responses_give_no_gradient_where_they_are_masked(
    training: tinker.TrainingClient,
) -> None:
    settings = config().model_copy(update={"algorithm": AlgorithmSection(mask_truncated=True)})
    result = train_step(training, policy(settings), PROBLEMS, 0)
    cut = [one for one in result.rollouts if one.rollout.truncated]
    assert cut
    assert {one.advantage for one in cut} == {0.0}
    assert result.metrics.learning.datums <= 12 - len(cut)


def test_problems_are_drawn_until_the_batch_is_full_or_the_rounds_are_over(
    training: tinker.TrainingClient,
) -> None:
    class Drawn(Listed):
        """Nothing to learn from in the first two rounds."""

        rounds: ClassVar[list[int]] = []

        def places(self, _: int, round: int) -> Sequence[int]:
            self.rounds.append(round)
            return range(3) if round < 2 else range(3, 6)

    def step_of(settings: RunConfig) -> StepResult:
        Drawn.rounds.clear()
        problems = [*UNSOLVABLE, *generate(9, "train", 3)]
        return train_step(training, policy(settings), problems, 0, order=Drawn(6))

    settings = config(skip_without_contrast=True, batch_size=1).model_copy(
        update={"algorithm": AlgorithmSection(dynamic_rounds=1)}
    )
    bounded = step_of(settings)
    assert Drawn.rounds == [0, 1]
    assert bounded.metrics.update is None
    assert bounded.metrics.samples.groups == 6

    longer = {"sampling": SamplingSection(max_new_tokens=96, temperature=1.0)}
    patient = settings.model_copy(
        update={"algorithm": AlgorithmSection(dynamic_rounds=8), **longer}
    )
    found = step_of(patient)
    assert Drawn.rounds[:3] == [0, 1, 2]
    assert found.metrics.update is not None
    taught = {one.rollout.group for one in found.rollouts if one.advantage}
    assert len(taught) == 1  # a full batch, and not one group more
    numbers = [one.rollout.group for one in found.rollouts]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(found.metrics.samples.groups))


def test_a_server_that_died_ends_the_step(tmp_path: Path) -> None:
    model = config().model.name
    with start_engine(tmp_path / "home", model, threads=1, log=tmp_path / "engine.log") as engine:
        client = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
        training = client.create_lora_training_client(base_model=model, rank=4, seed=5).result(60)

        def watch() -> None:
            if engine.process.poll() is not None:
                raise EngineError("the engine died")

        engine.process.kill()
        with pytest.raises(EngineError):
            train_step(training, replace(policy(config()), watch=watch), PROBLEMS, 0)
    client.holder.close()


class Flaky:
    """A sampler whose server fails at each prompt's first requests."""

    def __init__(self, sampler: tinker.SamplingClient, failures: int) -> None:
        self.sampler, self.failures = sampler, failures
        self.asked: Counter[str] = Counter()

    def sample(self, prompt: tinker.ModelInput, **how: Any) -> Any:
        key = prompt.model_dump_json()
        self.asked[key] += 1
        if self.asked[key] > self.failures:
            return self.sampler.sample(prompt, **how)
        failed: Future[Any] = Future()
        category = RequestErrorCategory.Server
        failed.set_exception(tinker.RequestFailedError("a worker was lost", "r1", category))
        return AwaitableConcurrentFuture(failed)


def sampled(sampler: Any, **limits: Any) -> list[RolloutGroup]:
    settings = config().model_copy(update={"limits": LimitsSection(**limits)})
    return groups_of(sampler, policy(settings), PROBLEMS, 3)


def test_a_sample_that_failed_is_asked_for_again_and_is_the_same(
    training: tinker.TrainingClient,
) -> None:
    sampler = training.save_weights_and_get_sampling_client().result(timeout=60)
    flaky = Flaky(sampler, failures=2)
    assert sampled(flaky, sample_retries=2) == sampled(sampler)
    assert set(flaky.asked.values()) == {3}


def test_a_step_goes_on_with_what_is_left_and_stops_where_that_is_too_little(
    training: tinker.TrainingClient,
) -> None:
    sampler = training.save_weights_and_get_sampling_client().result(timeout=60)
    lost = Flaky(sampler, failures=1)
    lost.asked[policy(config()).prompter.model_input(PROBLEMS[1]).model_dump_json()] = 1
    lost.asked[policy(config()).prompter.model_input(PROBLEMS[2]).model_dump_json()] = 1
    groups = sampled(lost, sample_retries=0)
    assert [(len(group.rollouts), group.failed) for group in groups] == [(0, 4), (4, 0), (4, 0)]
    assert "a worker was lost" in groups[0].failure
    with pytest.raises(BackendError, match=r"12 of 12 samples of step 3 failed.*worker was lost"):
        sampled(Flaky(sampler, failures=9), sample_retries=0)
    lost = Flaky(sampler, failures=1)
    lost.asked[policy(config()).prompter.model_input(PROBLEMS[1]).model_dump_json()] = 1
    with pytest.raises(BackendError, match=r"8 of 12 .* limits.least_sampled asks for 50%"):
        sampled(lost, sample_retries=0)


def test_a_gradient_out_of_bounds_stops_the_run(training: tinker.TrainingClient) -> None:
    settings = config().model_copy(update={"limits": LimitsSection(max_grad_norm=1e-9)})
    with pytest.raises(RunError, match=r"gradient norm of step 0 is .*over limits.max_grad_norm"):
        train_step(training, policy(settings), PROBLEMS, 0)


def test_a_learner_that_is_not_what_was_sampled_stops_the_run(
    training: tinker.TrainingClient,
) -> None:
    sampler = training.save_weights_and_get_sampling_client().result(timeout=60)
    groups = [
        replace(
            group,
            rollouts=tuple(
                replace(rollout, logprobs=tuple(x + 2 for x in rollout.logprobs))
                for rollout in group.rollouts
            ),
        )
        for group in sampled(sampler)
    ]
    for staleness, advice in ((0, "mend that"), (2, "the weights of 2 steps before")):
        learner = StepLearner(training, policy(config()), 3, staleness=staleness)
        learner.take(groups)
        learner.finish()
        says = rf"over limits.max_kl \(1\).*before this step is saved.*{advice}"
        with pytest.raises(RunError, match=says):
            learner.update()
