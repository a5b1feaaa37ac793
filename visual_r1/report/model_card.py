"""The card of an exported model: what it is, what it was measured to do, and how to use it.

Everything in it is read from the run's own files; what is not known there is not in it.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCardData

from visual_r1.config import RunConfig
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import Report, read_reports
from visual_r1.evaluation.statistics import Comparison
from visual_r1.exports.record import CARD_NAME, Certificate, Export
from visual_r1.models import hub_id
from visual_r1.report.summary import FINAL, Summary, read_summary
from visual_r1.runs.origin import origin_of
from visual_r1.storage import write_text
from visual_r1.wording import (
    as_markdown,
    p_value_in_words,
    percent,
    percent_range,
    points_range,
    printable,
)


def write_card(place: Path, made: Export, licence: str | None, config: RunConfig | None) -> None:
    """Write `README.md` into the folder of an export; `config` is that of the run it is of.

    Raises `StorageError`.
    """
    is_merged = made.merged is not None
    base = hub_id(made.base_model)
    is_of_the_hub = base.count("/") == 1 and not Path(base).is_dir()
    front = cast(Any, ModelCardData)(
        license=licence,
        base_model=base if is_of_the_hub else None,
        library_name="transformers" if is_merged else "peft",
        pipeline_tag="image-text-to-text",
        tags=["visual-r1", "tinker", *_learning(config), *([] if is_merged else ["lora"])],
    ).to_yaml()
    lines = ["---", front, "---", *_body(place, made, licence, config)]
    write_text(place / CARD_NAME, "\n".join(lines) + "\n")


def _learning(config: RunConfig | None) -> list[str]:
    if config is None:  # trained elsewhere, and nobody here knows how
        return []
    return ["reinforcement-learning" if config.sft.responses is None else "sft"]


def _body(
    place: Path, made: Export, licence: str | None, config: RunConfig | None
) -> Iterator[str]:
    base, kind = as_markdown(hub_id(made.base_model)), "model" if made.merged else "LoRA adapter"
    yield f"\n# {as_markdown(config.run_name if config else place.name)}\n"
    told = f"step {made.step}, {made.updates} updates" if config else "trained elsewhere"
    yield f"A {kind} over {base} ({told}), exported by Visual R1 {version('visual-r1')}."
    if config and not made.trained:
        begun = "the base model" if config.model.start_from is None else "what the run began with"
        yield f"Nothing was trained: the weights are those of {begun}."
    yield "\n## Use\n"
    yield from _usage(made)
    if config is not None:
        yield from _measured(config, made)
        yield from _trained(config)
    yield "\n## Proof\n"
    yield from _proof(made)
    yield "\n## Licence\n"
    if licence:
        yield f"That of the base model holds: `{licence}`. Nothing is known here of the data's."
    else:
        yield f"The licence of {base} holds, which is not known here: see its page."


def _usage(made: Export) -> Iterator[str]:
    base = hub_id(made.base_model)
    yield "```python\nfrom transformers import AutoModelForImageTextToText\n"
    if made.merged:
        yield 'model = AutoModelForImageTextToText.from_pretrained("path/or/name/of/this")'
    else:
        yield "from peft import PeftModel\n"
        yield f'base = AutoModelForImageTextToText.from_pretrained("{base}")'
        yield 'model = PeftModel.from_pretrained(base, "path/or/name/of/this")'
    yield "```"


def _measured(config: RunConfig, made: Export) -> Iterator[str]:
    """The paired evaluation where this checkpoint is the final one, else its own figures."""
    yield "\n## Measured\n"
    reports = _reports(config.run_dir)
    summary = _summary(config.run_dir)
    final = reports.get(FINAL)
    if summary and final and final.conditions.sampler_path == made.sampler_path:
        yield f"{as_markdown(summary.conclusion)}\n"
        yield from _table(summary, config)
        return
    own = [
        one
        for one in reports.values()
        if one.conditions.sampler_path == made.sampler_path and one.conditions.split == "test"
    ]
    if own:
        report = own[0]
        yield (
            f"Accuracy on {report.n} test problems {percent(report.accuracy)} "
            f"({percent_range(report.accuracy_ci95)}), greedy. It was not compared as pairs with "
            "what the run began with."
        )
    else:
        yield "This checkpoint was not evaluated on test problems."


def _table(summary: Summary, config: RunConfig) -> Iterator[str]:
    before = "base model" if config.model.start_from is None else "the run's start"
    yield f"| the same test problems | {before} | this | difference (95 %) | exact McNemar |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    rows: dict[str, Comparison | None] = {
        f"accuracy, greedy, {summary.accuracy.n}": summary.accuracy,
        f"pass@{summary.k}": summary.pass_at_k,
        "accuracy with the image blanked": summary.blind,
        "accuracy from the description alone": summary.scan_only,
    }
    for name, of in rows.items():
        if of is not None:
            yield (
                f"| {name} | {percent(of.baseline)} | {percent(of.final)} | "
                f"{points_range(of.delta_ci95)} points | {p_value_in_words(of.p_value)} |"
            )


def _trained(config: RunConfig) -> Iterator[str]:
    data = config.data
    yield "\n## Trained\n"
    if (origin := origin_of(config.run_dir)) is not None:
        yield f"- Begun with: {as_markdown(str(origin))}"
    source = Path(str(data.source)).name if Path(str(data.source)).exists() else str(data.source)
    yield f"- Data: {as_markdown(source)}"
    yield from _learnt(config)
    yield "\n<details><summary>All settings that make the run</summary>\n\n```json"
    settings = _without_places(config.identity())
    yield printable(json.dumps(settings, indent=2, ensure_ascii=False), lines=True)
    yield "```\n\n</details>"


def _learnt(config: RunConfig) -> Iterator[str]:
    """What the weights were taught by: a reward, or responses that were there."""
    reward = config.reward
    if config.sft.responses is not None:
        yield f"- Learnt: the responses in {as_markdown(config.sft.responses)}, by cross entropy"
        return
    weights = {
        name: value
        for name, value in reward.model_dump(mode="json").items()
        if isinstance(value, float | int)
        and not isinstance(value, bool)
        and value
        # It is 1 where nobody gives a function as well.
        and (name != "custom_weight" or reward.custom)
    }
    told = ", ".join(f"{name} {value:g}" for name, value in weights.items())
    yield f"- Reward: {as_markdown(told)}"
    if reward.custom:
        yield f"- and a reward function of the user's: {as_markdown(Path(str(reward.custom)).name)}"
    loss = as_markdown(str(config.train.loss))
    yield f"- Algorithm: {config.algorithm.advantage} advantages, loss {loss}"


def _without_places(value: Any) -> Any:
    """Settings without where things lie on the machine that trained: of a path its last part."""
    if isinstance(value, Mapping):
        return {key: _without_places(of) for key, of in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, str) and "/" in value and Path(value).exists():
        return Path(value).name
    return value


def _proof(made: Export) -> Iterator[str]:
    if not made.certificates:
        yield (
            "Whether this says what the server said was not compared (`visual-r1 export RUN "
            "--check`)."
        )
    for one in made.certificates:
        yield from _certificate(one)
    if made.changed:
        yield f"\n{as_markdown(made.changed)}"


def _certificate(one: Certificate) -> Iterator[str]:
    yield (
        f"The {one.subject} against the log-probabilities of the server that trained it, on "
        f"{one.tokens} tokens of {one.prompts} prompts with their images: "
        f"**{as_markdown(one.verdict)}**.\n"
    )
    yield "| | nats |\n| --- | ---: |"
    yield f"| largest difference | {one.largest:.2g} |"
    yield f"| mean difference | {one.mean:.2g} |"
    yield f"| allowed: {as_markdown(one.because)} | {one.tolerance:.2g} |"
    yield f"| what the training changed (root mean square) | {one.effect:.2g} |"
    yield ""
    yield (
        f"Matrix by matrix: an error of 1 % in the scale of {one.resolved} of {one.matrices} would "
        f"have shown; most of the differences lie along {as_markdown(one.worst)}, whose scale is "
        f"estimated to be off by {100 * one.scale_error:.2g} %."
    )
    versions = ", ".join(f"{name} {of}" for name, of in one.versions.items())
    yield f"Computed in {one.computed_in} with {versions}, {one.created_at}.\n"


def _reports(run_dir: Path) -> Mapping[str, Report]:
    try:
        return read_reports(run_dir)
    except DataError:
        return {}


def _summary(run_dir: Path) -> Summary | None:
    try:
        return read_summary(run_dir)
    except DataError:
        return None
