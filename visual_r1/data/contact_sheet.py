"""A picture of problems side by side: each with its first figure, its question and its answer."""

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from visual_r1.data.problem import Problem
from visual_r1.storage import replaced_whole

SHEET_FILE = "contact_sheet.png"
COLUMNS = 4
_WIDTH, _FIGURE, _MARGIN = 260, 180, 12
_TEXT_SIZE, _LINE, _LINES, _CHARACTERS = 13, 17, 4, 36
_HEIGHT = _FIGURE + (_LINES + 1) * _LINE + 3 * _MARGIN
_PAPER, _INK, _ANSWER, _FRAME = "white", (40, 40, 48), (20, 90, 60), (222, 222, 228)


def write_contact_sheet(path: Path, problems: Iterable[Problem]) -> None:
    """Draw the problems into a PNG file; the same problems give the same bytes."""
    cells = [_cell(problem) for problem in problems]
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * _WIDTH, max(1, rows) * _HEIGHT), _PAPER)
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % COLUMNS * _WIDTH, index // COLUMNS * _HEIGHT))
    with replaced_whole(path) as temporary:
        sheet.save(temporary, "PNG")


def _cell(problem: Problem) -> Image.Image:
    cell = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(cell)
    draw.rectangle((2, 2, _WIDTH - 3, _HEIGHT - 3), outline=_FRAME)
    with Image.open(io.BytesIO(problem.images[0])) as image:
        figure = image.convert("RGB")
    figure.thumbnail((_WIDTH - 2 * _MARGIN, _FIGURE), Image.Resampling.LANCZOS)
    cell.paste(figure, ((_WIDTH - figure.width) // 2, _MARGIN + (_FIGURE - figure.height) // 2))
    font = ImageFont.load_default(_TEXT_SIZE)
    top = _FIGURE + 2 * _MARGIN
    for line in _wrapped(problem.question, _LINES):
        draw.text((_MARGIN, top), line, fill=_INK, font=font)
        top += _LINE
    answer = _wrapped(problem.answer, 1)
    bottom = _HEIGHT - _MARGIN - _LINE
    draw.text((_MARGIN, bottom), "".join(answer), fill=_ANSWER, font=font)
    return cell


def _wrapped(text: str, lines: int) -> list[str]:
    return textwrap.wrap(text, _CHARACTERS, max_lines=lines, placeholder=" ...")
