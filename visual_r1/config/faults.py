"""What is wrong with a value, in a sentence, and how it is written where that can be seen."""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from visual_r1.config.names import did_you_mean, sections, settings

_NUMBER = re.compile(
    r"[$€£]?\s*([-+]?[\d.,_]*\d(?:\.0*)?(?:e[-+]?\d+)?)\s*([a-zµ%]*)", re.IGNORECASE
)
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FACTORS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}


def value_error(error: ValidationError) -> str:
    """What pydantic found wrong, a sentence a fault, with the nearest name of an unknown one."""
    return " ".join(_sentence(fault) for fault in error.errors(include_url=False))


def _sentence(fault: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        asked = did_you_mean(name, settings()).lower()
        return f"There is no setting {name}" + (f",{asked}" if asked else ".")
    if fault["type"] == "model_type" and name in sections():
        return f"{name} is a section: its settings go beneath [{name}]."
    if not isinstance(fault["input"], Mapping | list | BaseModel):
        told = f"{name} = {fault['input']!r}: {reason[:1].lower()}{reason[1:]}"
        return f"{told}{_as_it_is_written(name, fault)}."
    if fault["type"] == "value_error":  # of a whole section: the sentence names its keys
        return f"{reason}."
    return f"{name}: {reason[:1].lower()}{reason[1:]}."


def _as_it_is_written(name: str, fault: Mapping[str, Any]) -> str:
    """What the value should be, where it can be told from the one that was given."""
    given = fault["input"]
    if not isinstance(given, str):
        return ""
    if fault["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        near = difflib.get_close_matches(given.lower(), choices, n=1)
        return f", and {near[0]} is nearest" if near else ""
    if fault["type"] in ("int_parsing", "float_parsing"):
        number = number_in(given, seconds=name.endswith("_seconds"))
        whole = number is not None and number == int(number)
        if number is not None and (whole or fault["type"] == "float_parsing"):
            return f"; write {int(number) if whole else number:{'d' if whole else 'g'}}"
    return ""


def number_in(text: str, *, seconds: bool = False) -> float | None:
    """The number that `1e3`, `0,5`, `20k`, `7d` (where seconds are asked for) or `$0.2` mean.

    A unit of no meaning here is left out: `6 steps` are 6. None where it is no number at all.
    """
    found = _NUMBER.fullmatch(text.strip().strip("'\"").rstrip(",;"))
    if found is None:
        return None
    digits, unit = found[1].replace("_", ""), found[2]
    if _GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    try:
        number = float(digits.replace(",", "."))
    except ValueError:
        return None
    if not math.isfinite(number):  # 1e999
        return None
    if seconds:
        name = unit.lower() if unit.lower() in _SECONDS else unit.lower().rstrip("s")
        name = name if name in _SECONDS else name[:3] if name.startswith("min") else name[:1]
        return number * _SECONDS.get(name, 1)
    return number * _FACTORS.get(unit, 1)
