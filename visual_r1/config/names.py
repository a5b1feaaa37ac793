"""All settings by their dotted names, and what somebody meant who wrote another."""

import difflib
import re
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from visual_r1.config.run_config import RunConfig


@cache
def settings() -> dict[str, FieldInfo]:
    """Every setting: `preset`, `train.steps`, `data.columns.problem`, …"""
    return dict(_fields(RunConfig, ""))


@cache
def sections() -> frozenset[str]:
    """What settings stand in: `train`, `data`, `data.columns`, …"""
    names = {name.rpartition(".")[0] for name in settings()}
    return frozenset(names | {name.partition(".")[0] for name in names}) - {""}


def _fields(section: type[BaseModel], prefix: str) -> Iterable[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def schema_of(name: str) -> list[dict[str, Any]]:
    """The JSON schemas of the kinds of value that a setting takes: types, bounds, choices."""
    schema = _schema()
    node = schema
    for part in name.split("."):
        node = node["properties"][part]
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    beside = {"default", "title", "description"}
    return [
        {key: value for key, value in kind.items() if key not in beside}
        for kind in node.get("anyOf", [node])
    ]


@cache
def _schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


def holds(name: str, kind: type) -> bool:
    """Whether the setting takes values of this type alone: `bool` for a switch, `dict`, …"""
    annotation = settings()[name].annotation
    return annotation is kind or getattr(annotation, "__origin__", None) is kind


def nearest(name: str, among: Collection[str]) -> list[str]:
    """Which of these were meant, none or a few: the same but for dashes, case and section first."""
    wanted = _plain(name)
    if same := [one for one in among if _plain(one) == wanted]:
        return same
    if leaves := [one for one in among if _plain(one.rpartition(".")[2]) == wanted]:
        return leaves
    by_spelling = {_plain(one): one for one in among}
    return [by_spelling[one] for one in difflib.get_close_matches(wanted, by_spelling, n=1)]


def did_you_mean(name: str, among: Collection[str], dashes: str = "") -> str:
    """A question with the nearest names, after a blank; nothing where none is near."""
    found = [f"{dashes}{one}" for one in nearest(name, among)]
    if not found:
        return ""
    *others, last = found
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def _plain(name: str) -> str:
    return re.sub(r"[-_.: ]+", "-", name.lower()).strip("-")
