import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.grading.characters import unescaped

PARTS = st.sampled_from(
    ["&", "#", "x", "X", "0", "1", "9", "a", "f", ";", "lt", "nbsp", "amp", "deg", "notit", " ",
     "<", "\n", "&#", "&#x", "&#0000", "8203", "d800"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=12).map("".join))
def test_references_are_read_as_html_reads_them(text: str) -> None:
    assert unescaped(text) == html.unescape(text)


@pytest.mark.parametrize("number", ["1" * 5000, "x" + "f" * 5000, "0" * 5000 + "99999999"])
def test_a_number_of_no_character_may_be_of_any_length(number: str) -> None:
    assert unescaped(f"a&#{number};b") == "a\ufffdb"
    assert unescaped(f"&#{'0' * 5000}176;") == "°"
