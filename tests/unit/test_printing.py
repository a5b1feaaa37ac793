"""What is printed is printable, whoever wrote it, and everything that prints goes through here."""

import ast
import io
import logging
import sys
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from visual_r1.errors import ConfigError, DataError, RunError, VisualR1Error
from visual_r1.printing import (
    CommandParser,
    PrintableFormatter,
    Terminal,
    logging_handler,
    open_logger,
    say,
)
from visual_r1.progress import PlainProgress, TerminalProgress
from visual_r1.wording import LINE, as_markdown, for_page, printable

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "\x1b]0;owned\x07\x1b[31m\u202eevil\u2066\x9b2J\r\nerror: all is lost [red]x[/] :bomb: \ud800"
)
"""A title is set, colours, bidi override and isolate, C1, a forged line, markup, half a pair."""


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\x00\x07\x08\x7fb", r"a\x00\x07\x08\x7fb"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("one\ntwo\rthree\tfour", r"one\ntwo\rthree\tfour"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        (
            "\u202eabc\u202c \u2066x\u2069 \u200e\u200f\u061c",
            r"\u202eabc\u202c \u2066x\u2069 \u200e\u200f\u061c",
        ),
        ("6\u200b2\u200c\u200d\u2060\ufeff\u00ad", r"6\u200b2\u200c\u200d\u2060\ufeff\xad"),
        ("6\u3164\uffa0\u115f\u1160\u034f\u17b4", r"6\u3164\uffa0\u115f\u1160\u034f\u17b4"),
        ("g\ufe0f\U000e0100\u180b", r"g\ufe0f\U000e0100\u180b"),
        ("\U000e0001\U000e0041\U000e007f", r"\U000e0001\U000e0041\U000e007f"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
        ("\ue0a0 \U0010fffd", r"\ue0a0 \U0010fffd"),
        ("\u0378 \uffff \U0003fffe", r"\u0378 \uffff \U0003fffe"),
        ("\ufff9x\ufffa\U0001d173", r"\ufff9x\ufffa\U0001d173"),
        ("e" + "\u0301" * 9, "e" + "\u0301" * 6 + r"\u0301" * 3),
    ],
)
def test_what_does_not_show_becomes_an_escape_that_does(raw: str, shown: str) -> None:
    assert printable(raw) == shown
    assert DataError(f"column {raw}").args == (f"column {raw}",)
    assert str(DataError(f"column {raw}")) == f"column {shown}"


@pytest.mark.parametrize(
    "text",
    [
        "∠ABC = 62°, △ ≅ ½·√3",
        "角度是多少？",
        "ما هي الزاوية",
        "שלום",
        "ทำไม",
        "नमस्ते",
        "Ω≈ç√∫ é e\u0301",
        "😀🟦",
        "C:\\x",
        "",
    ],
)
def test_text_of_any_script_stays(text: str) -> None:
    assert printable(text) == text


_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


@given(st.text(alphabet=st.characters(), max_size=300), st.booleans())
def test_the_rule_holds_for_any_text(text: str, lines: bool) -> None:
    shown = printable(text, lines=lines)
    kept = "\n\t" if lines else ""
    assert all(category(c) not in _HIDDEN or c in kept for c in shown)
    assert printable(shown, lines=lines) == shown
    assert shown.encode() is not None
    if lines:
        assert shown.count("\n") == text.count("\n")


@pytest.mark.parametrize("piece", ["x", "\u202e", "\U000e0001", "ab "])
@pytest.mark.parametrize("count", [LINE - 1, LINE + 1, 300_000])
def test_a_line_is_bounded_and_keeps_both_of_its_ends(piece: str, count: int) -> None:
    shown = printable("start" + piece * count + "end")
    assert len(shown) <= LINE
    assert shown.startswith("start")
    assert shown.endswith("end")
    assert printable(shown) == shown
    if count > LINE:
        assert f"{8 + len(piece) * count:,} characters in all" in shown


def test_an_error_is_one_line_whatever_is_in_it_and_however_often_it_is_wrapped() -> None:
    try:
        raise ConfigError(f"no column {HOSTILE}")
    except VisualR1Error as error:
        again = RunError(f"the run stops: {error}")
    assert str(again).isprintable()
    assert str(again).count("\\x1b") == 2
    assert "\\nerror: all is lost [red]x[/] :bomb: \\ud800" in str(again)


def shown_by(console_width: int, *, colour: bool) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(
        out,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        width=console_width,
    ), out


@pytest.mark.parametrize("what", ["print", "sentence", "cell", "text", "title", "styled"])
def test_a_terminal_shows_what_came_and_does_not_obey_it(what: str) -> None:
    terminal, out = shown_by(300, colour=False)
    table = Table(title=HOSTILE if what == "title" else None)
    table.add_column("a")
    table.add_row(HOSTILE)
    match what:
        case "print":
            terminal.print(HOSTILE)
        case "sentence":
            terminal.sentence(HOSTILE, "error", "bold red")
        case "cell" | "title":
            terminal.print(table)
        case "text":
            terminal.print(Text(HOSTILE))
        case _:
            terminal.print(Text.assemble((HOSTILE, "bold")), soft_wrap=True)
    written = out.getvalue()
    assert all(c.isprintable() or c == "\n" for c in written), written
    assert "[red]x[/] :bomb: \\ud800" in written
    if what == "sentence":
        assert written.count("\n") == 1
        assert written.startswith("error: \\x1b]0;")


def test_colours_are_the_terminals_own() -> None:
    terminal, out = shown_by(300, colour=True)
    terminal.sentence("[red]no[/]\x1b[5m", "error", "bold red")
    assert out.getvalue().startswith("\x1b[1;31merror\x1b[0m: ")
    assert "\x1b[5m" not in out.getvalue()


def test_the_progress_of_a_stage_with_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainProgress(sys.stderr)
    plain.start(f"preparing {HOSTILE}", 4, "rows")
    plain.waiting(HOSTILE)
    plain.finish(HOSTILE)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    terminal, out = shown_by(300, colour=False)
    bar = TerminalProgress(terminal)
    bar.start(HOSTILE, 4, "rows")
    bar.waiting(HOSTILE)
    bar.finish(HOSTILE)
    assert all(c.isprintable() or c == "\n" for c in out.getvalue())


def test_the_log_is_lines_that_nobody_forges() -> None:
    out, other = io.StringIO(), io.StringIO()
    logger = open_logger("visual_r1.of_this_test")
    terminal, shown = shown_by(400, colour=False)
    plain = logging.StreamHandler(other)  # anybody's, Prefect's say
    ours = logging.StreamHandler(out)
    ours.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    handlers = [plain, ours, logging_handler(terminal)]
    logger.handlers, logger.propagate = handlers, False
    logger.warning("%s is %d", HOSTILE, 3)
    assert other.getvalue().count("\n") == 1
    assert out.getvalue().startswith("WARNING \\x1b]0;owned\\x07")
    assert out.getvalue().count("\n") == 1
    assert shown.getvalue().startswith("note: \\x1b]0;owned")
    assert "[red]x[/] :bomb:" in shown.getvalue()
    try:
        raise KeyError(HOSTILE) from ValueError("\x1b[2J")
    except KeyError:
        logger.exception("it failed")
    assert all(c.isprintable() or c == "\n" for c in out.getvalue() + shown.getvalue())
    assert "Traceback" in out.getvalue()
    assert open_logger("visual_r1.of_this_test").filters == logger.filters
    assert len(logger.filters) == 1


def test_the_engines_log_makes_lines_of_what_a_library_logs() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(PrintableFormatter("%(name)s: %(message)s"))
    library = logging.getLogger("some.library")
    library.handlers, library.propagate = [handler], False
    library.warning("GET /%s", "x\nERROR forged\x1b[2J")
    assert out.getvalue() == "some.library: GET /x\\nERROR forged\\x1b[2J\n"


def test_lines_on_standard_output_and_what_flags_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("two\nlines \x1b[2J")
    assert capsys.readouterr().out == "two\nlines \\x1b[2J\n"
    with pytest.raises(SystemExit):
        CommandParser(prog="p").parse_args(["\x1b[2J"])
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert "\\x1b[2J" in said


def test_markdown_and_pages() -> None:
    assert as_markdown("a|b `c` <img src=x> [l](javascript:x) www.x.org\n# h") == (
        r"a\|b \`c\` \<img src=x\> \[l\](javascript\:x) www\.x.org\\n\# h"
    )
    assert for_page("a\x1bb\nc") == "a\\x1bb\nc"
    assert for_page(0.5) == 0.5


# Whoever prints in another way is found here, and not by a user's terminal.
_FORBIDDEN = {
    "print", "Console", "RichHandler", "getLogger", "print_exc", "print_exception", "pprint",
    "warn", "ArgumentParser", "Formatter", "__excepthook__",
}  # fmt: skip


def test_nobody_prints_past_this_place() -> None:
    found: list[str] = []
    for house in ("flows", "tasks", "visual_r1"):
        for path in sorted((ROOT / house).rglob("*.py")):
            if path.name == "printing.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func
                owner = getattr(called, "value", None)
                name = getattr(called, "id", getattr(called, "attr", ""))
                on_stream = name == "write" and getattr(owner, "attr", "").startswith("std")
                # `console.print` is a Terminal's, `transformers_logging` says how loud that is.
                if on_stream or (name in _FORBIDDEN and not (name == "print" and owner)):
                    found.append(f"{path.relative_to(ROOT)}, line {node.lineno}: {name}")
    assert not found, "\n".join(found)
