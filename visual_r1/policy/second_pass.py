"""The second pass: the same weights answer again, from the scan alone.

Vision-SR1 (Li et al. 2025, arXiv:2508.19652) rewards a description from which the question can be
answered without the image. As published that can be cheated: an answer written into the
description is a perfect description, and a response without one was handed over whole. Here

    no scan                          is wrong, without asking
    the answer in the scan           is masked before anybody reads it
    a leak that survives masking     is wrong, without asking
    everything else                  is asked once more: template `second_pass.template`, the
                                     question without its image, the masked scan; no choices where
                                     the answer is a value, and those in words in another order
                                     (`rewards.blindfold.choices`)
    an answer that stays when the    is a leak, whatever it was written in: with
    scan's numbers are moved         `second_pass.moved_numbers`, which asks once more for it, and
                                     where it stays once again, with other numbers

    bonus = reward · (1 - q)   where the second pass is right
            penalty            where it is not

whatever the first pass came to. q is the share of answers that are right without image and scan
(`second_pass.minus_question_only`, else 0), so that what the question alone gives away earns
nothing. The tokens of a second pass get no gradient.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from visual_r1.config import RunConfig, SecondPassSection
from visual_r1.data.problem import Problem
from visual_r1.errors import ConfigError
from visual_r1.grading import Rounding, extract_answer
from visual_r1.prompts.templates import load_template
from visual_r1.rewards import Part, Scored
from visual_r1.rewards.blindfold.choices import unaided
from visual_r1.rewards.blindfold.masking import (
    MaskedScan,
    Masks,
    extract_scan,
    figure_facts,
    mask_scan,
)
from visual_r1.rewards.blindfold.stated import free_numbers, numbers_in, with_numbers_moved
from visual_r1.rewards.blindfold.targets import is_value
from visual_r1.rewards.grounding import opened, spoken

if TYPE_CHECKING:
    from visual_r1.models.processor import Processor
    from visual_r1.prompts.prompts import Prompter

SecondVerdict = Literal["right", "wrong", "gave_up", "no_scan", "leak"]
Outcome = Literal["both", "image_only", "scan_only", "neither"]
OUTCOMES: tuple[Outcome, ...] = ("both", "image_only", "scan_only", "neither")

COMPONENT = "second_pass"
DESCRIBES = "scan_think"
"""The template that asks for a scan, where an evaluation wants one and the run's own has none."""
# How often numbers are moved until an answer that stays is a leak: once, and by chance, it may.
MOST_MOVES = 2


@dataclass(frozen=True, slots=True)
class SecondPass:
    """What came of the second pass of one sample.

    `scan` is the masked scan; None where there was none. `response` is None, and `prompt_tokens`
    and `tokens` are 0, where nothing was asked. `reason` is the grader's, or says what was wrong
    with the scan. `order` is that of the choices as they were asked for (`CAB`), empty where they
    stayed as they are or were not shown, None where nothing was asked.
    """

    verdict: SecondVerdict
    reason: str
    scan: MaskedScan | None = None
    response: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    order: str | None = None

    @property
    def right(self) -> bool:
        """Whether the scan alone led to the right answer."""
        return self.verdict == "right"


def outcome_of(image: bool, scan: bool) -> Outcome:
    """The outcome of a sample: right with the image, and right from the scan."""
    if image:
        return "both" if scan else "image_only"
    return "scan_only" if scan else "neither"


def with_bonus(
    scored: Scored, second: SecondPass, settings: SecondPassSection, known: float
) -> Scored:
    """`scored` with the bonus of its second pass.

    The component `second_pass` is 1 - `known` where the second pass is right (`known`: the share
    of answers that the question alone gives away), and 0 where it is not.
    """
    credit = 1.0 - known if second.right else 0.0
    bonus = settings.reward * credit if second.right else settings.penalty
    return scored.plus(COMPONENT, Part(credit, settings.reward, bonus))


@dataclass(frozen=True, slots=True)
class ScanReader:
    """What the passes without the image are made with.

    `prompter` has the template of the second pass, `question_only_prompter` that of the pass
    without image and scan. `describer` has one that asks for a scan, where the policy's own does
    not; then scans are read from the answers to that.
    """

    prompter: "Prompter"
    question_only_prompter: "Prompter"
    rounding: Rounding
    masks: Masks = "all"
    describer: "Prompter | None" = None

    def look(
        self,
        problem: Problem,
        response: str,
        *,
        opens_think: bool,
        named: Collection[Fraction] | None = None,
    ) -> SecondPass | MaskedScan:
        """The scan of a response as it may be read; a second pass that is over where it may not.

        `named` are the numbers that others see in the figure; None where nobody was asked.
        """
        scan = extract_scan(spoken(response, opens_think))
        if scan is None:
            return SecondPass("no_scan", "there is not exactly one <scan> with something in it")
        own = extract_answer(opened(response, opens_think))
        answers = [problem.answer] if own is None else [problem.answer, own]
        masked = mask_scan(scan, problem, answers, self.rounding, self.masks, named)
        if masked.leak:
            return SecondPass("leak", masked.leak, masked)
        return masked


def open_reader(config: RunConfig, processor: "Processor") -> ScanReader | None:
    """The reader that the configuration asks for; None where it asks for no second pass."""
    return reader_of(config, processor) if config.second_pass.enabled else None


def reader_of(config: RunConfig, processor: "Processor") -> ScanReader:
    """A reader with the templates of `second_pass`, whether or not the reward has such a pass.

    Where the run's template asks for no scan, `describer` does, by `DESCRIBES`.
    """
    settings, model = config.second_pass, config.model

    # Here and not above: who only reads what was written does without the SDK behind it.
    from visual_r1.prompts.prompts import Prompter

    def prompter(template: str) -> Prompter:
        return Prompter(processor, template, model.max_pixels, model.thinking)

    has_scan = "scan" in load_template(config.prompt.template).tags
    return ScanReader(
        prompter(settings.template),
        prompter(settings.question_only_template),
        config.reward.rounding,
        settings.masks,
        None if has_scan else prompter(DESCRIBES),
    )


def moved(
    problem: Problem, second: SecondPass, seed: int, others: Sequence[str] | None = None
) -> tuple[Problem, MaskedScan] | SecondPass | None:
    """What to ask about a second pass that was right: its problem and scan, the numbers moved.

    The question's numbers stay, and those of the scan that it states; where the scan has no others,
    they are moved in both, for then the value comes of them. None where that would tell nothing:
    the answer is no value, or the figure has no numbers either, by its facts or, where nobody knows
    them, by `others`: the group's other responses, None where they do not count. Else a second pass
    that is a leak: what its scan said was not in numbers.
    """
    shown = unaided(problem)
    if second.scan is None or not is_value(shown.answer):
        return None
    question, scan = shown.problem, second.scan.text
    facts = figure_facts(problem)
    seen = [facts] if facts else [extract_scan(response) or "" for response in others or ()]
    free = (token.number for text in seen for token in free_numbers(text))
    figure = {number for number in free if number is not None}
    rng, gold = random.Random(seed), numbers_in(shown.answer)
    alone = with_numbers_moved([scan], rng, numbers_in(question), gold, figure)
    if alone is not None:
        return shown, replace(second.scan, text=alone[0])
    both = with_numbers_moved([question, scan], rng, (), gold, figure)
    if both is not None:
        return replace(shown, problem=both[0]), replace(second.scan, text=both[1])
    if not figure and (facts or others is not None):
        return None
    return replace(second, verdict="leak", reason="its scan has no number, and led to a value")


def after_moving(second: SecondPass, again: SecondPass, *, last: bool) -> SecondPass:
    """The second pass, after its scan was read again with other numbers, with the tokens of both: a
    leak where the answer was the same, and was so before (`last`)."""
    spent = replace(
        second,
        prompt_tokens=second.prompt_tokens + again.prompt_tokens,
        tokens=second.tokens + again.tokens,
    )
    if not again.right or not last:
        return spent
    return replace(spent, verdict="leak", reason="the answer stays when the scan's numbers do not")


def require_scan(config: RunConfig) -> None:
    """Raise `ConfigError` where the templates of a second pass do not fit together."""
    settings = config.second_pass
    if not settings.enabled:
        return
    if "scan" not in load_template(config.prompt.template).tags:
        raise ConfigError(
            f"second_pass.enabled needs a prompt that asks for a <scan>, and the template "
            f"{config.prompt.template!r} does not: set --prompt.template scan_think."
        )
    if not load_template(settings.template).uses_scan:
        raise ConfigError(
            f"second_pass.template = {settings.template!r} does not use {{{{ scan }}}}, so the "
            "second pass would not read any; scan_only is the shipped one."
        )
    if load_template(settings.question_only_template).uses_scan:
        raise ConfigError(
            f"second_pass.question_only_template = {settings.question_only_template!r} uses "
            "{{ scan }}, and the pass without image and scan has none; think is the shipped one."
        )
