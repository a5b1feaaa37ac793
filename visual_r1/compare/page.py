"""The comparison as one page that needs nothing but itself: no script, nothing loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from visual_r1.compare.comparison import Compared, SeedsCompared
from visual_r1.compare.gallery import Changed, all_of
from visual_r1.report.templating import environment_of, report_css
from visual_r1.storage import write_text


def write_page(found: Compared | SeedsCompared, path: Path) -> set[str]:
    """Write the page to `path`; the anchors of the problems that it shows.

    Raises `StorageError` where the disk refuses it.
    """
    galleries: Mapping[str, Sequence[Changed]] = {}
    if isinstance(found, Compared):
        galleries = all_of(found.reference, found.folder, found.against)
    page = (
        environment_of("visual_r1.compare")
        .get_template("compare.html.j2")
        .render(
            found=found,
            of_seeds=isinstance(found, SeedsCompared),
            css=report_css(),
            galleries=galleries,
            scale=_scale(found),
        )
    )
    write_text(path, page)
    return {
        one.anchor for changed in galleries.values() for gallery in changed for one in gallery.shown
    }


def _scale(found: Compared | SeedsCompared) -> float:
    """What half of the axis of differences is worth: a multiple of five points."""
    ends = [abs(end) for one in found.against for end in one.interval]
    return max(-(-max(ends, default=0.0) // 0.05), 1) * 0.05
