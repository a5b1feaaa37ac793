"""docs/settings.md: every setting with its default, what it takes, and what it does.

python -m visual_r1.config.page > docs/settings.md
"""

import json
from typing import Any

from visual_r1.config.names import schema_of, settings
from visual_r1.config.needs import needs_of
from visual_r1.config.presets import preset_names
from visual_r1.config.run_config import RunConfig
from visual_r1.printing import say

_ABOUT = """# Settings

Every setting of a run, by the name that it has everywhere: as a flag (`--train.steps 40`), in a
TOML file (`train.steps = 40`), and in the `overrides` of a deployment (`{"train.steps": 40}`). The
highest counts: flags or overrides, a file, the preset, the default. `--config` may be given several
times: of the files, each lies over those before it, setting by setting. Where no preset is named,
commands and deployments take `quickstart`. Where a setting may be empty, the words none and null
say so. A place that begins with `~` is in the home of the user who runs it, in a deployment of the
worker. A setting that counts "only with" another is refused where it is given without it, for the
run would have another name and the same weights.

This page is written by `python -m visual_r1.config.page > docs/settings.md`."""

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "object": "names with numbers",
    "null": "empty",
}


def settings_page() -> str:
    """The page, in Markdown."""
    lines = [_ABOUT]
    default = RunConfig.model_validate({}).model_dump(mode="json")
    presets = {
        name: RunConfig.model_validate({"preset": name}).model_dump(mode="json")
        for name in preset_names()
    }
    order = list(dict.fromkeys(_section(name) for name in settings()))
    section = None
    for name in sorted(settings(), key=lambda name: order.index(_section(name))):
        if _section(name) != section:
            section = _section(name)
            lines += [
                f"\n## {section or 'the run'}\n",
                "| setting | default | takes | what it is |",
                "| --- | --- | --- | --- |",
            ]
        others = [
            f"{preset} {_shown(there)}"
            for preset, values in presets.items()
            if name != "preset" and (there := _value(values, name)) != _value(default, name)
        ]
        cells = [
            f"`{name}`",
            "; ".join([_shown(_value(default, name)), *others]),
            _takes(name),
            _what_it_is(name),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _what_it_is(name: str) -> str:
    field = settings()[name]
    told = str(field.description)
    if needs := needs_of(field.metadata):
        told += f" Only with {' or '.join(f'`{one}`' for one in needs)}."
    return told


def _section(name: str) -> str:
    return name.rpartition(".")[0]


def _value(values: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def _shown(value: object) -> str:
    if value is None or value == []:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _takes(name: str) -> str:
    if name == "preset":
        return ", ".join(preset_names())
    told: list[str] = []
    for kind in schema_of(name):
        if "enum" in kind:
            told.append(", ".join(kind["enum"]))
            continue
        if "enum" in kind.get("items", {}):
            told.append(f"a list of {', '.join(kind['items']['enum'])}")
            continue
        bounds = [text.format(kind[key]) for key, text in _BOUNDS.items() if key in kind]
        told.append(", ".join([_KINDS[kind["type"]], *bounds]))
    return " or ".join(told)


if __name__ == "__main__":
    say(settings_page())
