"""RunConfig: everything a run depends on, in sections.

The field defaults are the values of the scripts this project grew from, to the letter (preset
`seed` overrides nothing). Order of precedence, highest first: flags, `--config FILE.toml`, the
preset, the defaults. Settings that make no sense together are refused before anything is spent on
them.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from visual_r1.config.judging import EvaluationSection, LoggingSection, ValidationSection
from visual_r1.config.pipeline import CORRECTED, PipelineSection, why_whole
from visual_r1.config.presets import merged, read_preset
from visual_r1.config.reward import PenaltySection, RewardSection, SecondPassSection
from visual_r1.config.section import LATER, STORED, Place, without_later_defaults
from visual_r1.config.sections import (
    AlgorithmSection,
    BackendSection,
    CurriculumSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    PromptSection,
    RunSection,
    SamplingSection,
    TrainSection,
)
from visual_r1.config.sft import SftSection
from visual_r1.config.watch import AlarmsSection, LimitsSection, PricesSection
from visual_r1.hashing import digest
from visual_r1.models import hub_id
from visual_r1.storage import read_sealed

# What may differ without making it another run: names, places, logging, and how far it goes.
NOT_IDENTITY: dict[str, set[str] | bool] = {
    "preset": True,
    "output_dir": True,
    "run": True,
    "logging": True,
    "limits": True,
    "prices": True,
    "alarms": True,
    # What is asked of the weights does not change them; see `older_identity`.
    "evaluation": True,
    "data": {"max_rejected_share"},
    "backend": {
        "server",
        "base_url",
        "engine_home",
        "checkpoint_ttl_seconds",
        "keep_checkpoints",
        "keep_best",
        "recoveries_per_hour",
    },
    "train": {"steps", "more_steps", "resume_from_step"},
    # How often does not change what is found; which problems does.
    "validation": {"every"},
}

# Off by default when they came, and on since: ledgers and folders of then know them left out.
_ONCE_OFF = {"named_by": 0, "moved_numbers": False}


class RunConfig(BaseModel):
    """One run, resolved.

    `RunConfig()` holds the defaults; `RunConfig(preset="quickstart", …)` lays what is given over
    the preset of that name in `visual_r1/presets`. Raises `ConfigError` where there is none, with
    those there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field(default="seed", description="Which preset lies beneath the other values.")
    output_dir: Place = Field(Path(), description="Where runs/, data/ and .visual-r1/ are.")
    run: RunSection = RunSection()
    backend: BackendSection = BackendSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    prompt: PromptSection = PromptSection()
    train: TrainSection = TrainSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    pipeline: Annotated[PipelineSection, LATER] = PipelineSection()
    curriculum: CurriculumSection = CurriculumSection()
    optimizer: OptimizerSection = OptimizerSection()
    sampling: SamplingSection = SamplingSection()
    limits: LimitsSection = LimitsSection()
    alarms: AlarmsSection = AlarmsSection()
    reward: RewardSection = RewardSection()
    second_pass: SecondPassSection = SecondPassSection()
    penalty: PenaltySection = PenaltySection()
    sft: Annotated[SftSection, LATER] = SftSection()
    evaluation: EvaluationSection = EvaluationSection()
    validation: ValidationSection = ValidationSection()
    logging: LoggingSection = LoggingSection()
    prices: PricesSection = PricesSection()

    @model_validator(mode="before")
    @classmethod
    def _lay_over_preset(cls, values: Any, context: ValidationInfo) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, Any]", values)
        preset = read_preset(str(given.get("preset", "seed")))
        laid = merged(_of_its_server(_of_its_model(preset, given), given), given)
        return _as_it_was_used(laid) if context.context == STORED else laid

    @model_validator(mode="after")
    def _makes_sense(self, given: ValidationInfo) -> Self:
        """Not asked of a run that was stored: it can still be read, shown and gone on with."""
        if given.context != STORED:
            for sentence in (*_wrong_address(self.backend), *contradictions(self)):
                raise ValueError(sentence)
        return self

    def identity(self) -> dict[str, Any]:
        """What makes this run the run it is, as JSON-able values: no steps, logging or paths."""
        found = without_later_defaults(self, self.model_dump(mode="json", exclude=NOT_IDENTITY))
        # Without a second pass nothing is done by them, on or off.
        return found if self.second_pass.enabled else _as_when_off(found)

    def digest(self) -> str:
        """Eight hex digits of `identity()`."""
        return digest(self.identity())

    def older_identity(self) -> dict[str, Any]:
        """`identity()` by an older rule, to which `evaluation` belonged: it names old runs."""
        asked = self.evaluation.model_dump(mode="json")
        return self.identity() | {"evaluation": without_later_defaults(self.evaluation, asked)}

    def older_digest(self) -> str:
        """Eight hex digits of `older_identity()`, which old ledgers hold."""
        return digest(self.older_identity())

    def has_digest(self, known: str) -> bool:
        """Whether `known` is the digest of this run, by any rule that there was."""
        rules = self.identity(), self.older_identity()
        return any(known in (digest(one), digest(_as_when_off(one))) for one in rules)

    @property
    def run_name(self) -> str:
        """`run.name`, else `<preset>-<digest>`.

        Where `output_dir` has this run under a name by the older rule, that is its name.
        """
        if self.run.name:
            return self.run.name
        name, runs = f"{self.preset}-{self.digest()}", self.output_dir.absolute() / "runs"
        if holds_run(runs / name) or not runs.is_dir():
            return name
        older = f"{self.preset}-{self.older_digest()}"
        if holds_run(runs / older):
            return older
        return _of_older_name(runs, runs.stat().st_mtime_ns, self.preset, self.digest()) or name

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.output_dir / "runs" / self.run_name

    @property
    def state_dir(self) -> Path:
        """Where the engine's home and Prefect's records are."""
        return self.output_dir / ".visual-r1"


def _of_its_model(preset: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The preset without how its model thinks, where another model is named.

    That is a trait of the model. And runs from before the setting, or before the preset named
    another model, have their model's name in what is stored of them: they stay what they were.
    """
    model, named = preset.get("model", {}), given.get("model")
    name: object = (
        cast("Mapping[str, Any]", named).get("name") if isinstance(named, Mapping) else None
    )
    if "thinking" not in model or name is None or hub_id(str(name)) == hub_id(model["name"]):
        return preset
    return {**preset, "model": {key: model[key] for key in model if key != "thinking"}}


def _of_its_server(preset: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The preset without its server, where an address is given and no server is.

    Who names a server means that one, and not the engine that the preset would start.
    """
    backend, named = preset.get("backend", {}), given.get("backend")
    if "server" not in backend or not isinstance(named, Mapping):
        return preset
    there = cast("Mapping[str, Any]", named)
    if there.get("base_url") is None or "server" in there:
        return preset
    return {**preset, "backend": {key: backend[key] for key in backend if key != "server"}}


def _as_it_was_used(stored: dict[str, Any]) -> dict[str, Any]:
    """Without an address that was ignored in its day: an empty one, or one beside "embedded"."""
    backend = stored.get("backend")
    if not isinstance(backend, Mapping):
        return stored
    there = cast("Mapping[str, Any]", backend)
    if there.get("base_url") == "" or there.get("server") == "embedded":
        return {**stored, "backend": {**there, "base_url": None}}
    return stored


def _wrong_address(backend: BackendSection) -> Iterator[str]:
    if backend.base_url is None:
        return
    if not backend.base_url.strip():
        yield (
            "backend.base_url is empty: give an address such as http://host:port, or none to "
            "leave it out"
        )
    elif backend.server == "embedded":
        yield (
            "backend.server is embedded and backend.base_url names a server: set backend.server to "
            "auto to use that one, or backend.base_url to none for the engine on this machine"
        )


def _as_when_off(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a time when what is `_ONCE_OFF` was left out of it at that value."""
    second = {
        name: value
        for name, value in identity["second_pass"].items()
        if name not in _ONCE_OFF or value != _ONCE_OFF[name]
    }
    return {**identity, "second_pass": second}


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in the folder."""
    return any((folder / name).exists() for name in ("config.json", "ledger.jsonl"))


@lru_cache(maxsize=16)
def _of_older_name(runs: Path, changed_ns: int, preset: str, digest: str) -> str | None:
    """The folder in `runs` of that run, whose evaluation was another when it was named."""
    del changed_ns  # a part of the key: when a folder came or went
    for path in sorted(runs.glob(f"{preset}-{'[0-9a-f]' * 8}/config.json")):
        try:
            stored = RunConfig.model_validate(read_sealed(path).content, context=STORED)
        except (OSError, ValueError):  # damaged, or of a newer version: not this one
            continue
        if stored.preset == preset and stored.digest() == digest:
            return path.parent.name
    return None


def contradictions(config: RunConfig) -> Iterator[str]:
    """What makes no sense together: a sentence, without its full stop, for each.

    It names the keys and the way out.
    """
    train, algorithm, second = config.train, config.algorithm, config.second_pass
    samples = train.batch_size * train.group_size
    pays = [*config.reward.weights.values(), algorithm.kl_coefficient]
    if second.enabled:
        pays += [second.reward, second.penalty]

    if config.model.start_optimizer and config.model.start_from is None:
        yield (
            "model.start_optimizer takes the optimizer of model.start_from along, and that names "
            "nothing: set it to a checkpoint, or leave model.start_optimizer out"
        )
    if config.logging.tracker == "wandb" and not config.logging.wandb:
        yield (
            "logging.tracker is wandb and logging.wandb is false: leave one of them out; "
            "logging.tracker none tells nobody"
        )
    if train.more_steps is not None and train.resume_from_step is not None:
        yield (
            "train.more_steps counts from where the run is, and train.resume_from_step goes back: "
            "give train.steps in place of train.more_steps"
        )
    if config.sft.responses is not None:
        if config.curriculum.rule != "none":
            yield (
                f"curriculum.rule {config.curriculum.rule} draws problems by what was sampled, and "
                "a supervised run (sft.responses) samples nothing: set curriculum.rule to none"
            )
        if algorithm.kl_coefficient:
            yield (
                "algorithm.kl_coefficient is a part of the reward, and a supervised run "
                "(sft.responses) has none: set it to 0"
            )
    yield from _of_the_pipeline(config)
    if algorithm.dynamic_rounds and not train.skip_without_contrast:
        yield (
            "algorithm.dynamic_rounds draws until enough groups have contrast, so it needs "
            "train.skip_without_contrast"
        )
    if algorithm.clip_higher is not None and train.loss != "ppo":
        yield (
            f"algorithm.clip_higher is ppo's upper clip, and train.loss is {train.loss}: set "
            "train.loss to ppo, or leave algorithm.clip_higher out (none)"
        )
    if algorithm.minibatches > samples:
        yield (
            f"algorithm.minibatches is {algorithm.minibatches}, and a step has {samples} samples "
            f"(train.batch_size {train.batch_size} x train.group_size {train.group_size}): lower "
            f"it to {samples} at most, or raise one of those"
        )
    if not any(pays):
        yield (
            "Nothing can be learnt: all weights of reward are 0, there is no second pass to pay "
            "for and algorithm.kl_coefficient is 0; give one of them a weight, such as "
            "reward.accuracy 1"
        )


def _of_the_pipeline(config: RunConfig) -> Iterator[str]:
    train, pipeline, staleness = config.train, config.pipeline, config.algorithm.max_staleness
    sampled = config.sft.responses is None
    if not sampled and (staleness or (pipeline.parts or 1) > 1 or pipeline.correction != "none"):
        yield (
            "algorithm.max_staleness and pipeline are about samples, and a supervised run "
            "(sft.responses) samples nothing: leave them out"
        )
    if 0 < train.chunk_steps <= staleness:
        yield (
            f"algorithm.max_staleness is {staleness} and train.chunk_steps {train.chunk_steps}: "
            "each checkpoint waits until all that is sampled has been learnt from, so no batch "
            f"gets so old; raise train.chunk_steps above {staleness}"
        )
    if (pipeline.parts or 1) > 1 and (why := why_whole(train, config.algorithm)):
        yield (
            f"pipeline.parts is {pipeline.parts}, and {why}: leave pipeline.parts out, or change "
            "the other"
        )
    if pipeline.correction != "none" and train.loss not in CORRECTED:
        yield (
            f"pipeline.correction {pipeline.correction} takes the ratio of the loss to other "
            f"weights than those that sampled, which {train.loss} does not allow: set train.loss "
            f"to one of {', '.join(CORRECTED)}, or leave pipeline.correction out"
        )
