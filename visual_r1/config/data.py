"""Where problems come from."""

from typing import cast

from pydantic import Field, field_validator

from visual_r1.config.section import Section


def listed(names: str | None) -> tuple[str, ...]:
    """The names in a setting that takes several with commas between them."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


class Names(Section):
    """Settings that name columns or splits of a source; a TOML list is as good as commas."""

    @field_validator("*", mode="before")
    @classmethod
    def _joined(cls, names: object) -> object:
        return ",".join(map(str, cast("list[object]", names))) if isinstance(names, list) else names


class ColumnsSection(Names):
    """Which of a source's columns hold what; where nothing is said, this project's own names."""

    problem: str | None = Field(default=None, description="Default: problem")
    answer: str | None = Field(default=None, description="Default: answer")
    answer_index: str | None = Field(
        default=None, description="The number of the right choice, from 0, in place of an answer."
    )
    images: str | None = Field(
        default=None, description="One column, or several with commas. Default: images, or image"
    )
    choices: str | None = Field(
        default=None, description="A column of lists, or one column a choice. Default: choices"
    )
    id: str | None = Field(default=None, description="Default: id")
    family: str | None = Field(default=None, description="What reports are broken down by.")
    keep: str | None = Field(default=None, description="Others to keep in meta, with commas.")


class SplitsSection(Names):
    """Which of a source's splits serve as ours; once one is named, no other is used."""

    train: str | None = Field(default=None, description="One, or several with commas.")
    validation: str | None = Field(default=None, description="One, or several with commas.")
    test: str | None = Field(default=None, description="One, or several with commas.")


class DataSection(Section):
    source: str = Field(
        default="hiyouga/geometry3k",
        description="procedural, a hub id, or a folder or file: Parquet, JSONL, images with "
        "metadata, the Inter-GPS layout.",
    )
    subset: str | None = Field(default=None, description="Of a hub id: its configuration.")
    splits: SplitsSection = SplitsSection()
    columns: ColumnsSection = ColumnsSection()
    show_choices: bool = Field(
        default=False, description="Put the choices, lettered, behind the problem."
    )
    max_rejected_share: float = Field(
        default=0.2, ge=0, le=1, description="Stop where more of the rows are bad."
    )
    seed: int = Field(
        default=0, description="Seed of the procedural problems and of a split by hash."
    )
    train: int | None = Field(
        default=None, ge=1, description="Training problems; default all (procedural: 4096)."
    )
    validation: int | None = Field(default=None, ge=1, description="Default all (procedural: 256).")
    test: int | None = Field(default=None, ge=1, description="Default all (procedural: 512).")
