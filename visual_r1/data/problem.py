"""The unit of data: one question about one or more figures, in one of three splits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
IMAGE_MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class Problem:
    """One visual question with its gold answer.

    `problem` holds one `<image>` marker per image at the place where the model sees it. `images`
    are encoded files (PNG or JPEG bytes), never decoded pixels, so that a problem stays small.
    `meta` is JSON-able; procedural problems keep `family`, `facts` and `solution` in it.
    """

    id: str
    images: tuple[bytes, ...]
    problem: str
    answer: str
    choices: tuple[str, ...] = ()
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def question(self) -> str:
        """The text of the problem without its image markers."""
        return self.problem.replace(IMAGE_MARKER, "").strip()

    @property
    def family(self) -> str:
        """The kind of problem, for reports by family; the source's name where there is none."""
        return str(self.meta.get("family", self.source))

    @property
    def difficulty(self) -> str | None:
        """How hard the dataset says it is: the `difficulty` or `level` of its row, as text."""
        said = self.meta.get("difficulty", self.meta.get("level"))
        return None if said is None else str(said)
