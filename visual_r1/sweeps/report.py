"""What a finished sweep leaves in its folder: numbers, page, picture and table.

`summary.json` comes last and names the digests of the others: it says that they are of one making.
"""

from pathlib import Path

from markupsafe import Markup

from visual_r1.hashing import file_digest
from visual_r1.report.templating import environment_of, report_css
from visual_r1.storage import write_json, write_text
from visual_r1.sweeps.comparison import Comparison
from visual_r1.sweeps.folder import PAGE_NAME, PICTURE_NAME, SUMMARY_NAME, TABLE_NAME
from visual_r1.sweeps.picture import forest
from visual_r1.sweeps.table import HEADINGS, markdown, ranked, row_of
from visual_r1.wording import percent


def write_report(found: Comparison, folder: Path) -> None:
    """Write all four; raises `StorageError` where the disk refuses it.

    The same runs give the same bytes: nothing in them says when, or how long it took.
    """
    picture = forest(found)
    write_text(folder / TABLE_NAME, markdown(found))
    write_text(folder / PAGE_NAME, _page(found, picture))
    made = [TABLE_NAME, PAGE_NAME]
    if picture:
        write_text(folder / PICTURE_NAME, f"{picture}\n")
        made.append(PICTURE_NAME)
    digests = {name: file_digest(folder / name) for name in made}
    write_json(folder / SUMMARY_NAME, found.to_json() | {"digests": digests})


def _page(found: Comparison, picture: Markup) -> str:
    return (
        environment_of("visual_r1.sweeps")
        .get_template("sweep.html.j2")
        .render(
            found=found,
            headline=_headline(found),
            css=report_css(),
            picture=picture,
            headings=HEADINGS,
            rows=[(one.label, row_of(one, found.chosen)) for one in ranked(found)],
            share=_share,
        )
    )


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _headline(found: Comparison) -> str:
    if found.chosen is None:
        return "Nothing to compare yet."
    if found.chosen_by == "validation":
        return f"Chosen by validation: {found.chosen}"
    return f"Highest on the test problems: {found.chosen}"
