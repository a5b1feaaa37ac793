"""What a notebook shows of a run: a figure, and what the run came to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from visual_r1.errors import RunError
from visual_r1.report.charts import svg_uri, whole_svg
from visual_r1.report.figures import Figure
from visual_r1.storage import write_text
from visual_r1.wording import for_page

_FIGURE = Markup(
    '<figure style="display:inline-block;margin:0 1em 1em 0;vertical-align:top">'
    '<figcaption style="font-weight:600;margin-bottom:.3em">{}</figcaption>'
    '<img src="{}" alt="{}" style="max-width:100%"></figure>'
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure of the report that shows itself in a notebook, and can be saved as a file."""

    name: str
    title: str
    svg: str

    @classmethod
    def of(cls, figure: Figure) -> "Shown":
        """A figure of the report, as a picture of its own."""
        return cls(figure.name, figure.title, whole_svg(figure.chart))

    def save(self, path: str | Path) -> Path:
        """Write the figure to `path`, as SVG; raises `RunError` where it asks for another kind."""
        place = Path(path).expanduser()
        if place.suffix.lower() != ".svg":
            raise RunError(
                f"Figures are written as .svg, and {place} ends in {place.suffix or 'nothing'}: "
                f"name it {place.with_suffix('.svg')}; a browser or Inkscape makes others of it."
            )
        write_text(place, self.svg)
        return place

    def _repr_svg_(self) -> str:
        return self.svg

    def as_html(self) -> str:
        """The figure with its title."""
        # As a picture: a style sheet within the page would be the whole notebook's.
        return str(_FIGURE.format(self.title, svg_uri(self.svg), self.title))

    def _repr_html_(self) -> str:
        return self.as_html()

    def __repr__(self) -> str:
        return f"<figure {self.name!r}: {self.title}>"


class Gallery(Mapping[str, Shown]):
    """The figures of a run by name; shown, they stand side by side."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._figures = {figure.name: figure for figure in figures}

    def __getitem__(self, name: str) -> Shown:
        try:
            return Shown.of(self._figures[name])
        except KeyError as error:
            there = ", ".join(self._figures) or "none yet"
            raise RunError(f"This run has no figure {name!r}: there are {there}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __contains__(self, name: object) -> bool:
        return name in self._figures

    def _repr_html_(self) -> str:
        return "".join(self[name].as_html() for name in self)

    def __repr__(self) -> str:
        return f"<figures: {', '.join(self._figures) or 'none yet'}>"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table of text, all of it escaped; its first column is at the left."""
    cell = Markup('<{tag} style="text-align:{side};padding:.15em .8em .15em 0">{}</{tag}>')

    def line(values: Sequence[str], tag: str) -> Markup:
        sides = ["left", *["right"] * (len(values) - 1)]
        return Markup("").join(
            cell.format(for_page(value), tag=tag, side=side)
            for value, side in zip(values, sides, strict=True)
        )

    body = Markup("").join(Markup("<tr>{}</tr>").format(line(row, "td")) for row in rows)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        line(headings, "th"), body
    )
