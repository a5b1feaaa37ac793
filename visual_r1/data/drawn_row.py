"""A procedural problem as a row that is drawn where it is checked."""

from dataclasses import dataclass

from visual_r1.data import procedural
from visual_r1.data.problem import Split
from visual_r1.data.rows import SourceRow


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """Problem number `index` of (seed, split)."""

    seed: int
    split: Split
    index: int

    def read(self) -> SourceRow:
        """The row, drawn."""
        problem = procedural.problem(self.seed, self.split, self.index)
        return SourceRow(
            place=f"{self.split} {self.index}",
            id=problem.id,
            images=problem.images,
            problem=problem.problem,
            answer=problem.answer,
            choices=problem.choices,
            source=problem.source,
            meta=problem.meta,
        )
