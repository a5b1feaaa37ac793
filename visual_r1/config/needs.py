"""Which settings count only where another has a certain value, as marks of the fields themselves.

    clip_epsilon: Annotated[float, Needs("train.loss", "ppo")] = Field(default=0.2, …)

Marked are settings that belong to what a run is: given in vain, such a one would begin a new run
under a new name, and be paid for, with the same weights at its end. What says only how a run is
judged or watched may be switched on later, and is not marked.
"""

from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True, init=False)
class Needs:
    """Marks a setting that has an effect only where `setting` has one of `values`, or holds one of
    them; without values, where it is neither off, none, nor 0.

    Of several marks one that is met is enough.
    """

    setting: str
    values: tuple[str, ...]

    def __init__(self, setting: str, *values: str) -> None:
        object.__setattr__(self, "setting", setting)
        object.__setattr__(self, "values", values)

    def met(self, value: object) -> bool:
        """Whether it is met where `setting` has this value."""
        if not self.values:
            return bool(value) and value != "none"
        held = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        return any(one in self.values for one in held)

    def __str__(self) -> str:
        """`train.loss ppo`, `optimizer.grad_clip_norm`."""
        return f"{self.setting} {' or '.join(self.values)}".rstrip()


def needs_of(metadata: list[Any]) -> list[Needs]:
    """The marks among a field's metadata."""
    return [one for one in metadata if isinstance(one, Needs)]
