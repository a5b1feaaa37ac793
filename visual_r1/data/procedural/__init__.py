"""Plane geometry drawn from numbers: problems in which the picture is needed.

Every figure is 96 x 96 pixels, schematic (angles are not to scale), and every answer is a whole
number. Without the picture, no guess is right more often than the commonest answer of a family.
"""

from visual_r1.data.procedural.generator import (
    FAMILIES,
    Split,
    capacity,
    fresh_values,
    generate,
    id_of,
    problem,
    require_capacity,
    rule_of,
    split_of,
    value_count,
)

__all__ = [
    "FAMILIES",
    "Split",
    "capacity",
    "fresh_values",
    "generate",
    "id_of",
    "problem",
    "require_capacity",
    "rule_of",
    "split_of",
    "value_count",
]
