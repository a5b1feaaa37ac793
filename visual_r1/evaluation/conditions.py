"""Under which conditions an evaluation is made, which passes it makes, and whether one is complete.

Apart from `evaluate`, which asks: who only looks at what is there needs no SDK.
"""

from dataclasses import replace
from pathlib import Path

from visual_r1.config import RunConfig
from visual_r1.config.judging import CONTROLS
from visual_r1.data.problem import Split
from visual_r1.errors import DataError
from visual_r1.evaluation.deciding import Conditions, vouched
from visual_r1.evaluation.metrics import Report, read_report
from visual_r1.evaluation.prediction import PASSES, Pass
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.grading import GRADER_VERSION
from visual_r1.hashing import digest, file_digest
from visual_r1.policy.second_pass import DESCRIBES
from visual_r1.prompts.templates import load_template


def passes_of(config: RunConfig) -> list[Pass]:
    """The passes that an evaluation by this configuration makes, in the order they are asked."""
    asks, second = config.evaluation, config.second_pass.enabled
    wanted: set[Pass] = {"greedy", *asks.controls}
    if asks.asks_blind:
        wanted.add("blind")
    if asks.samples:
        wanted.add("sampled")
    if second:  # then the template asks for a scan
        wanted |= {"question_only", "scan_only"}
    elif "scan_only" in wanted and "scan" not in load_template(config.prompt.template).tags:
        wanted.add("described")
    return [name for name in PASSES if name in wanted]


def conditions_of(
    config: RunConfig,
    sampler_path: str,
    dataset_digest: str,
    *,
    split: Split = "test",
    decisions: str = "",
) -> Conditions:
    """Under which an evaluation by this configuration is made; `decisions` is the digest of those
    about labels that hold for its problems. Raises `ConfigError` for a template that cannot be
    read."""
    asks = config.evaluation
    return Conditions(
        sampler_path=sampler_path,
        model=config.model.name,
        dataset_digest=dataset_digest,
        seed=asks.seed,
        k=asks.samples,
        temperature=asks.temperature or config.sampling.temperature,
        max_new_tokens=config.sampling.max_new_tokens,
        template=config.prompt.template,
        rounding=config.reward.rounding,
        grader_version=str(GRADER_VERSION),
        blind=asks.asks_blind,
        thinking=config.model.thinking,
        split=split,
        control_passes=tuple(name for name in CONTROLS if name in asks.controls),
        reader=_reader(config),
        decisions=decisions,
        template_digest=_template_digest(config.prompt.template),
        max_pixels=config.model.max_pixels,
    )


def _reader(config: RunConfig) -> str:
    """A digest of what passes without the image are made with; empty where none is asked for."""
    second = config.second_pass
    if not second.enabled and not {"question_only", "scan_only"} & set(config.evaluation.controls):
        return ""
    names = (second.template, second.question_only_template, DESCRIBES)
    return digest([second.masks, *(file_digest(load_template(name).path) for name in names)], 16)


def _template_digest(name: str) -> str:
    return file_digest(load_template(name).path)[:16]


def is_complete(folder: Path, config: RunConfig, conditions: Conditions, problems: int) -> bool:
    """Whether the folder holds a whole evaluation under these conditions, of a split with so many
    problems.

    What a newer grader says of the same answers is no reason to ask for them again, and neither are
    controls that it has more. For what an earlier version did not write down the run vouches.
    """
    try:
        there = vouched(read_report(folder).conditions, conditions)
        predictions = read_predictions(folder, ["id"])
    except DataError:
        return False
    wanted = replace(conditions, grader_version=there.grader_version)
    if set(wanted.control_passes) <= set(there.control_passes):
        wanted = replace(
            wanted, control_passes=there.control_passes, reader=wanted.reader or there.reader
        )
    # The control `blind` may be there by either setting.
    if there.blind and "blind" in there.control_passes:
        wanted = replace(wanted, blind=True)
    return there == wanted and len(predictions) == config.evaluation.count(problems) > 0


def in_a_line(report: Report) -> str:
    """The figures of an evaluation, for a terminal."""
    low, high = report.accuracy_ci95
    parts = [f"accuracy {report.accuracy:.1%} [{low:.1%}, {high:.1%}]"]
    if report.k:
        parts.append(f"pass@{report.k} {report.pass_at_k:.1%}")
    if report.blind_accuracy is not None:
        parts.append(f"blind {report.blind_accuracy:.1%}")
    asked, controls = report.conditions.control_passes, report.controls
    if report.second_pass is not None and "scan_only" not in asked:
        parts.append(f"from the scan {report.second_pass.scan_only_accuracy:.1%}")
    if asked and controls is not None:
        shown = controls.by_name
        others = [name for name in asked if name in shown and name != "blind"]
        parts += [f"{name} {shown[name].accuracy:.1%}" for name in others]
        if (seeing := controls.seeing) is not None:
            lowest = "-inf" if seeing.ci95[0] is None else f"{seeing.ci95[0]:.1%}"
            parts.append(f"seeing {seeing.value:.1%} [{lowest}, {seeing.ci95[1]:.1%}]")
    failed = sum(report.failed.values())
    return "  ".join([*parts, *([f"{failed} requests failed"] if failed else [])])
