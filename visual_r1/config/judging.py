"""How a policy is judged, while it trains and afterwards, and who is told of it."""

from typing import Annotated, Literal, cast, get_args

from pydantic import BeforeValidator, Field, field_validator

from visual_r1.config.section import LATER, Section
from visual_r1.config.sections import listed, with_commas

Control = Literal["blind", "other_image", "masked_image", "question_only", "scan_only"]
CONTROLS: tuple[Control, ...] = get_args(Control)


def _names_of_controls(value: object) -> object:
    """Commas are as good as a list; each counts once, in the order of `CONTROLS`."""
    names = listed(value) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        return value
    given = cast("list[object]", names)
    if set(given) <= set(CONTROLS):
        return tuple(name for name in CONTROLS if name in given)
    wrong = next(name for name in given if name not in CONTROLS)
    raise ValueError(f"{wrong!r} is no control: there are {', '.join(CONTROLS)}")


class EvaluationSection(Section):
    samples: int = Field(
        default=8,
        ge=0,
        description="Samples of each problem for pass@k; 0 asks for greedy answers alone.",
    )
    problems: int | None = Field(
        default=None, ge=1, description="How many of the test problems to use; default: all."
    )
    blind: bool = Field(default=True, description="Also evaluate with the image blanked.")
    seed: int = Field(default=0, description="Seed of the samples of pass@k.")
    suites: Annotated[str | None, BeforeValidator(with_commas), LATER] = Field(
        default=None,
        description="Named benchmarks that are evaluated as well, with commas: names of "
        "`visual-r1 suites`, or the paths of your own.",
    )
    controls: Annotated[tuple[Control, ...], BeforeValidator(_names_of_controls), LATER] = Field(
        default=(),
        description="Further ways of not seeing that are asked as well, with commas: blind (as "
        "evaluation.blind), other_image, masked_image, question_only, scan_only.",
    )
    temperature: Annotated[float | None, LATER] = Field(
        default=None,
        gt=0,
        description="Temperature of the samples of pass@k; default: sampling.temperature.",
    )

    @property
    def asks_blind(self) -> bool:
        """Whether the image is blanked, by either setting."""
        return self.blind or "blind" in self.controls

    def count(self, there: int) -> int:
        """How many problems are evaluated of so many that are there."""
        return min(self.problems or there, there)


class ValidationSection(Section):
    """Held-out problems at checkpoints: to watch training, and to choose the best checkpoint."""

    every: int = Field(
        default=0, ge=0, description="Validate every so many checkpoints, and the last; 0 is off."
    )
    problems: int | None = Field(
        default=128, ge=1, description="How many of the validation problems to use; none is all."
    )
    blind: bool = Field(default=True, description="Also evaluate with the image blanked.")
    seed: int = Field(default=0, description="Seed of which problems are used, where not all are.")


Tracker = Literal["auto", "wandb", "trackio", "none"]


class LoggingSection(Section):
    wandb: bool = Field(
        default=True,
        description="Log to Weights & Biases, as its own settings say; offline without a key.",
    )
    wandb_project: str = Field(
        default="visual-r1", description="Project on Weights & Biases, or of trackio."
    )
    tracker: Annotated[Tracker, LATER] = Field(
        default="auto",
        description="Who is told of steps, evaluations, alarms and samples: wandb, trackio "
        "(`pip install 'visual-r1[trackio]'`), none, or auto: wandb unless logging.wandb is off.",
    )

    @field_validator("tracker", mode="before")
    @classmethod
    def _nobody(cls, value: object) -> object:
        return "none" if value is None else value  # as a flag the word is no value at all

    @property
    def told(self) -> Tracker:
        """The tracker that is told: wandb, trackio or none."""
        if self.tracker != "auto":
            return self.tracker
        return "wandb" if self.wandb else "none"
