"""Which problems are the same in two evaluations: those of the same id and the same content.

Who compares evaluations, on the command line or on a page, goes by this, so that both speak of the
same pairs.
"""

from collections.abc import Mapping

from visual_r1.errors import DataError

MOST_OTHERS = 0.1
"""Where more of the shared ids stand for another problem, the data are different ones."""


def same_problems(
    first: Mapping[str, str], second: Mapping[str, str], names: tuple[str, str]
) -> list[str]:
    """The ids with the same content in both, in the order of the first.

    `first` and `second` have the content by id, digested, of the evaluations called `names`. Raises
    `DataError` where they are evaluations of different data.
    """
    shared = [id for id in first if id in second]
    same = [id for id in shared if first[id] == second[id]]
    others = len(shared) - len(same)
    if not same or others > MOST_OTHERS * len(shared):
        a, b = names
        why = (
            f"of the {len(shared)} ids that both have, {others} stand for another question, answer "
            f"or picture, and {len(same)} for the same problem"
            if shared
            else "they share no problem"
        )
        raise DataError(
            f"{a} ({len(first)} problems) and {b} ({len(second)}) are evaluations of different "
            f"data: {why}; evaluate both on one dataset to compare them."
        )
    return same
