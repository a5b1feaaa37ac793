"""How long the prompts of a run are, measured on its first problems."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from tinker.types import ImageChunk

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.rows import BadRow, Row, check_row
from visual_r1.data.sources import open_source
from visual_r1.data.splits import cut_sizes
from visual_r1.policy.policy import open_policy

LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class PromptSizes:
    """Tokens of the prompts, images included, and of their images alone; `thinks` says that an
    answer begins with a thought of the model.

    `unseen_mean` is of the prompts without image that a second pass has, its scan left out; None
    where there is no second pass.
    """

    prompts: int
    mean: float
    longest: int
    image_mean: float
    image_longest: int
    thinks: bool = False
    unseen_mean: float | None = None

    @property
    def unseen(self) -> float:
        """Tokens of a prompt without image: a second pass's own, else the run's less its images."""
        return self.mean - self.image_mean if self.unseen_mean is None else self.unseen_mean


@dataclass(frozen=True, slots=True)
class FirstRows:
    """The first problems of the training split, what was wrong with the rows among them, and how
    many rows the splits have."""

    problems: tuple[Problem, ...]
    rejected: tuple[str, ...]
    training_rows: int
    test_rows: int
    validation_rows: int = 0

    @property
    def rows(self) -> int:
        """All rows, in whichever split."""
        return self.training_rows + self.test_rows + self.validation_rows


def first_rows(config: RunConfig) -> FirstRows:
    """Look at the first rows of the source, as a preparation would. Raises `DataError`."""
    source = open_source(config.data)
    sizes = source.sizes()
    problems: list[Problem] = []
    rejected: list[str] = []
    rows: Iterator[Row] = source.rows("train") if sizes.get("train") else iter(())
    for row in (one.read() for one in islice(rows, LOOKED_AT)):
        try:
            problems.append(check_row(row).problem)
        except BadRow as error:
            rejected.append(f"{row.place}: {error}")
    train, test, validation = (sizes.get(name, 0) for name in ("train", "test", "validation"))
    if set(sizes) == {"train"}:  # a preparation will cut it
        test, validation = cut_sizes(train)
        train -= test + validation
    return FirstRows(tuple(problems), tuple(rejected), train, test, validation)


def measure_prompts(config: RunConfig, problems: Sequence[Problem]) -> PromptSizes:
    """The prompts of `problems` under the run's template, model and `max_pixels`."""
    policy = open_policy(config)
    prompter, unseen_mean = policy.prompter, None
    if (reader := policy.reader) is not None:
        unseen_mean = max(
            fmean(one.model_input(problem, "none", scan="").length for problem in problems)
            for one in (reader.prompter, reader.question_only_prompter)
        )
    prompts = [prompter.model_input(problem) for problem in problems]
    images = [
        sum(chunk.length for chunk in prompt.chunks if isinstance(chunk, ImageChunk))
        for prompt in prompts
    ]
    lengths = [prompt.length for prompt in prompts]
    return PromptSizes(
        prompts=len(prompts),
        mean=fmean(lengths),
        longest=max(lengths),
        image_mean=fmean(images),
        image_longest=max(images),
        thinks=prompter.opens_think,
        unseen_mean=unseen_mean,
    )
