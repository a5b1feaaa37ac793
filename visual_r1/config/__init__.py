"""The configuration of a run: `RunConfig` and its sections."""

from visual_r1.config.judging import EvaluationSection, LoggingSection, ValidationSection
from visual_r1.config.pipeline import PipelineSection, why_whole
from visual_r1.config.presets import (
    DEFAULT_PRESET,
    apart,
    differing_keys,
    merged,
    preset_names,
    read_preset,
    read_toml,
)
from visual_r1.config.reward import CUSTOM, PenaltySection, RewardSection, SecondPassSection, Weight
from visual_r1.config.run_config import RunConfig
from visual_r1.config.section import LATER, STORED, Section, without_later_defaults
from visual_r1.config.sections import (
    AlgorithmSection,
    BackendSection,
    ColumnsSection,
    CurriculumSection,
    DataSection,
    LossName,
    ModelSection,
    OptimizerSection,
    PromptSection,
    RunSection,
    SamplingSection,
    SplitsSection,
    TrainSection,
    listed,
)
from visual_r1.config.sft import SftSection
from visual_r1.config.watch import AlarmAction, AlarmsSection, LimitsSection, PricesSection

__all__ = [
    "CUSTOM",
    "DEFAULT_PRESET",
    "LATER",
    "STORED",
    "AlarmAction",
    "AlarmsSection",
    "AlgorithmSection",
    "BackendSection",
    "ColumnsSection",
    "CurriculumSection",
    "DataSection",
    "EvaluationSection",
    "LimitsSection",
    "LoggingSection",
    "LossName",
    "ModelSection",
    "OptimizerSection",
    "PenaltySection",
    "PipelineSection",
    "PricesSection",
    "PromptSection",
    "RewardSection",
    "RunConfig",
    "RunSection",
    "SamplingSection",
    "SecondPassSection",
    "Section",
    "SftSection",
    "SplitsSection",
    "TrainSection",
    "ValidationSection",
    "Weight",
    "apart",
    "differing_keys",
    "listed",
    "merged",
    "preset_names",
    "read_preset",
    "read_toml",
    "why_whole",
    "without_later_defaults",
]
