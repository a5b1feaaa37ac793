"""The configuration of a run: `RunConfig` and its sections."""

from visual_r1.config.alarms import AlarmAction, AlarmsSection
from visual_r1.config.data import ColumnsSection, DataSection, SplitsSection, listed
from visual_r1.config.learning import (
    AlgorithmSection,
    CurriculumSection,
    LimitsSection,
    OptimizerSection,
    SamplingSection,
    TrainSection,
)
from visual_r1.config.presets import differing_keys, merged, preset_names, read_preset, read_toml
from visual_r1.config.prices import PricesSection
from visual_r1.config.rewarding import PenaltySection, RewardSection, SecondPassSection
from visual_r1.config.run_config import STORED, RunConfig
from visual_r1.config.running import (
    BackendSection,
    EvaluationSection,
    LoggingSection,
    ModelSection,
    PromptSection,
    RunSection,
    ValidationSection,
)
from visual_r1.config.section import Section

__all__ = [
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
    "ModelSection",
    "OptimizerSection",
    "PenaltySection",
    "PricesSection",
    "PromptSection",
    "RewardSection",
    "RunConfig",
    "RunSection",
    "SamplingSection",
    "SecondPassSection",
    "Section",
    "SplitsSection",
    "TrainSection",
    "ValidationSection",
    "differing_keys",
    "listed",
    "merged",
    "preset_names",
    "read_preset",
    "read_toml",
]
