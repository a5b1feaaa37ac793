"""The second pass with the shipped model: honest descriptions earn it, planted leaks do not."""

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tinker
from one_step import groups_of, train_step

from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.policy.passes import Question, question, second_pass, second_question
from visual_r1.policy.policy import Policy, open_policy
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prompts.templates import TEMPLATES_DIR

PROBLEMS = list(generate(5, "validation", 27))

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)


def config(**second_pass: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "preset": "vision_sr1",
            "train": {"group_size": 3, "batch_size": 3},
            "second_pass": second_pass,
        }
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[tinker.ServiceClient]:
    run = config().model_copy(update={"output_dir": tmp_path_factory.mktemp("second")})
    with open_backend(run) as backend, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_TELEMETRY", "0")
        with backend.session() as service:
            yield service


@pytest.fixture(scope="module")
def policy() -> Policy:
    return open_policy(config())


@pytest.fixture(scope="module")
def sampler(service: tinker.ServiceClient) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model=config().model.name).result(timeout=60)


def bonuses(sampler: tinker.SamplingClient, policy: Policy, scans: list[str]) -> list[bool]:
    """Whether a planted response with this description to each problem earns its second pass."""
    found: list[SecondPass] = []
    for problem, scan in zip(PROBLEMS, scans, strict=True):
        response = f"{scan}<think>t</think><answer>{problem.answer}</answer>"
        asked = second_question(policy, problem, response, 0, temperature=0.0)
        if isinstance(asked, Question):
            reply = sampler.sample(asked.prompt, 1, asked.params).result(timeout=60)
            asked = second_pass(policy, asked, reply.sequences[0])
        found.append(asked)
    return [one.right for one in found]


def in_words(number: int) -> str:
    """`two hundred and seven`, `thirty-five`."""
    if number < 20:
        return SMALL.split()[number]
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
    if number >= 100:
        rest = f" and {in_words(number % 100)}" if number % 100 else ""
        return f"{SMALL.split()[number // 100]} hundred{rest}"
    return tens[number // 10 - 2] + (f"-{in_words(number % 10)}" if number % 10 else "")


def facts(problem: Problem) -> str:
    return " ".join(f"{fact}." for fact in problem.meta["facts"])


def test_honest_descriptions_earn_it_and_leaks_do_not(
    sampler: tinker.SamplingClient, policy: Policy
) -> None:
    honest = bonuses(sampler, policy, [f"<scan>{facts(p)}</scan>" for p in PROBLEMS])
    assert sum(honest) >= len(PROBLEMS) / 2  # greedy, from true facts: about two of three
    leaks = {
        "nothing but the answer": "<scan>x reads {}.</scan>",
        "in words": "<scan>x reads {words}.</scan>",
        "its digits apart": "<scan>x reads {apart}.</scan>",
        "as a calculation": "<scan>x reads {less}+1.</scan>",
        "announced": "<scan>{facts} The answer is {}.</scan>",
        "in a tag": "<scan>{facts} <answer>{}</answer></scan>",
        "no description": "",
        "none closed": "<scan>{facts}",
    }
    for name, form in leaks.items():
        scans = [
            form.format(
                p.answer, words=in_words(int(p.answer)), apart=" ".join(p.answer),
                less=int(p.answer) - 1,
                facts=facts(p),
            )
            for p in PROBLEMS
        ]  # fmt: skip
        assert sum(bonuses(sampler, policy, scans)) <= 1, name  # a lucky guess at most


def test_a_step_pays_what_its_second_passes_earned(service: tinker.ServiceClient) -> None:
    model = config().model.name
    rows: list[dict[str, Any]] = []
    for _ in range(2):
        client = service.create_lora_training_client(base_model=model, rank=4, seed=5).result(60)
        result = train_step(client, open_policy(config()), PROBLEMS[:3], 4)
        for scored in result.rollouts:
            one = scored.rollout
            assert one.second is not None
            parts = one.scored.components
            bonus = 1.0 if one.second.right else -0.5
            base = 0.1 * parts["format"] + parts["accuracy"]
            assert one.scored.reward == pytest.approx(base + bonus)
            assert parts["second_pass"] == float(one.second.right)
        rows.append({k: v for k, v in result.metrics.row().items() if "seconds" not in k})
        tokens = sum(len(scored.rollout.tokens) for scored in result.rollouts)
        assert rows[-1]["sampled_tokens"] == tokens  # the second passes' are counted apart
        assert rows[-1]["second_pass_tokens"] > 0
        assert rows[-1]["tokens_sampled"] == tokens + rows[-1]["second_pass_tokens"]
        read = rows[-1]["prompt_tokens"] + rows[-1]["second_pass_prompt_tokens"]
        assert rows[-1]["tokens_prefill"] == read
    assert rows[0] == rows[1]


def test_what_the_question_alone_gives_away_is_taken_off(
    sampler: tinker.SamplingClient,
) -> None:
    known = [replace(problem, answer="5") for problem in PROBLEMS[:2]]
    policy = open_policy(config(minus_question_only=True))
    for group in groups_of(sampler, policy, known, 0):
        assert len(group.question_only) == 3
        assert not any(group.question_only)  # nobody guesses it
        asked = question(policy, group.problem, "question_only", 0, temperature=0.0).prompt.length
        seconds = sum(one.second.prompt_tokens for one in group.rollouts if one.second)
        assert group.spent.prefill == group.prompt.length + asked + seconds


def test_a_description_that_led_to_the_answer_is_read_again_with_its_numbers_moved(
    sampler: tinker.SamplingClient,
) -> None:
    plain, again = (
        groups_of(sampler, open_policy(config(**more)), PROBLEMS[:3], 0)
        for more in ({"moved_numbers": False}, {"moved_numbers": True, "named_by": 1})
    )
    asked_again = 0
    for before, after in zip(plain, again, strict=True):
        assert [one.tokens for one in before.rollouts] == [one.tokens for one in after.rollouts]
        for one, other in zip(before.rollouts, after.rollouts, strict=True):
            assert one.second is not None and other.second is not None
            # The shipped model's descriptions are honest: with other numbers it answers otherwise.
            assert one.second.verdict == other.second.verdict
            assert one.second.scan == other.second.scan
            read_twice = other.second.tokens > one.second.tokens
            assert read_twice is one.second.right
            asked_again += read_twice
        spent = sum(one.second.prompt_tokens for one in after.rollouts if one.second)
        assert after.spent.prefill == after.prompt.length + spent
    assert asked_again


def test_an_answer_that_stays_twice_when_the_numbers_move_is_paid_as_a_leak(
    sampler: tinker.SamplingClient, tmp_path: Path
) -> None:
    # A reader that has the facts from elsewhere answers alike, whatever the description says.
    shipped = (TEMPLATES_DIR / f"{config().second_pass.template}.txt").read_text()
    template = tmp_path / "knows.txt"
    told = f"{{% if scan %}}{facts(PROBLEMS[0])}{{% endif %}}"
    template.write_text(shipped.replace("{{ scan }}", told))
    before, after = (
        groups_of(sampler, open_policy(config(template=str(template), **more)), PROBLEMS[:1], 0)[0]
        for more in ({"moved_numbers": False}, {})
    )
    right = [one.second for one in before.rollouts if one.second and one.second.right]
    assert right
    for one, other in zip(before.rollouts, after.rollouts, strict=True):
        assert one.second is not None and other.second is not None
        if one.second.right:
            assert other.second.verdict == "leak"
            assert other.scored.components["second_pass"] == 0
            assert other.second.prompt_tokens > 2 * one.second.prompt_tokens
    assert after.spent.prefill == after.prompt.length + sum(
        one.second.prompt_tokens for one in after.rollouts if one.second
    )


def test_a_second_pass_that_the_server_refuses_takes_its_sample_out(
    sampler: tinker.SamplingClient, tmp_path: Path
) -> None:
    template = tmp_path / "endless.txt"
    template.write_text(
        "[user]\n{{ question }} {{ scan }}"
        "{% if 'endless' in question %}{% for _ in range(20000) %} Find x.{% endfor %}{% endif %}"
    )
    endless = replace(PROBLEMS[1], problem=PROBLEMS[1].problem + " endless")
    policy = open_policy(config(template=str(template)))
    whole, broken = groups_of(sampler, policy, [PROBLEMS[0], endless], 0)
    assert (len(whole.rollouts), whole.failed) == (3, 0)
    assert len(broken.rollouts) + broken.failed == 3
    assert broken.failed > 0
    assert "refused" in broken.failure
    # What was over without being asked stays.
    assert {one.second.verdict for one in broken.rollouts if one.second} <= {"no_scan", "leak"}


def test_a_second_reading_that_the_server_refuses_takes_its_sample_out_as_well(
    sampler: tinker.SamplingClient, tmp_path: Path
) -> None:
    group, _ = groups_of(sampler, open_policy(config()), PROBLEMS[:2], 0)
    seconds = [one.second for one in group.rollouts if one.second]
    known = json.dumps([second.scan.text for second in seconds if second.scan])
    moved = f"question == {json.dumps(group.problem.question)} and scan not in {known}"
    endless = "{% for _ in range(20000) %} Find x.{% endfor %}"
    shipped = (TEMPLATES_DIR / f"{config().second_pass.template}.txt").read_text()
    template = tmp_path / "endless_where_moved.txt"
    template.write_text(
        shipped.replace("[user]\n", f"[user]\n{{% if {moved} %}}{endless}{{% endif %}}")
    )
    kept, lost = (
        groups_of(sampler, open_policy(config(template=str(template), **more)), PROBLEMS[:2], 0)[0]
        for more in ({"moved_numbers": False}, {"moved_numbers": True})
    )
    right = sum(one.second.right for one in kept.rollouts if one.second)
    assert (kept.failed, lost.failed) == (0, right)
    assert lost.refused == right > 0
