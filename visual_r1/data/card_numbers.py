"""What the card of a dataset tells of its problems, counted in the journal's file."""

from collections.abc import Mapping

from visual_r1.data.journal_file import JournalFile


class CardNumbers:
    """Numbers of the problems that were kept and not withdrawn."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def answer_kinds(self) -> Mapping[str, int]:
        """How many problems have an answer of each kind, the most frequent first."""
        query = """SELECT kind, COUNT(*) AS problems FROM kept WHERE NOT withdrawn
            GROUP BY kind ORDER BY problems DESC, kind"""
        return dict(self._file.rows(query))

    def images_each(self) -> Mapping[int, int]:
        """How many problems have one image, two, ..."""
        query = """SELECT images, COUNT(*) FROM kept WHERE NOT withdrawn
            GROUP BY images ORDER BY images"""
        return dict(self._file.rows(query))

    def spread(self, value: str) -> tuple[int, int, int]:
        """Smallest, median and largest of `value`, an expression in an image's width and height."""
        middle = self._file.number("SELECT COUNT(*) FROM sizes") // 2
        place = f"SELECT {value} FROM sizes ORDER BY {value} LIMIT 1 OFFSET ?"
        return (
            self._file.number(f"SELECT MIN({value}) FROM sizes"),
            self._file.number(place, middle),
            self._file.number(f"SELECT MAX({value}) FROM sizes"),
        )
