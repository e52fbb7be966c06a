"""Lines on a terminal: what goes to no terminal is plain text."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from logship.terminal import Line, Terminal, Tone, bar, draw, paint

LINES = [Line("NAME", Tone.HEADING), Line(""), Line("main"), Line("lost", Tone.BAD)]
WIDE = Terminal(80, 10, has_colour=True)


def test_without_a_terminal_there_are_no_colours_and_no_limits() -> None:
    terminal = Terminal.of(io.StringIO(), {})
    assert terminal == Terminal(None, None, has_colour=False)
    assert not terminal.can_be_drawn_over
    assert paint(LINES, terminal) == "NAME\n\nmain\nlost"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_a_terminal_has_colours_unless_they_are_not_wanted(
    environment: dict[str, str], coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w") as stream:
            assert Terminal.of(stream, environment) == Terminal(80, 24, coloured), "no size is set"
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
            assert Terminal.of(stream, environment) == Terminal(100, 30, coloured)
            assert Terminal.of(stream, {"TERM": "dumb"}) == Terminal()
    finally:
        os.close(ours)


def test_tones_are_closed_on_each_line() -> None:
    assert paint(LINES, WIDE) == "\x1b[1mNAME\x1b[0m\n\nmain\n\x1b[31mlost\x1b[0m"
    assert paint(LINES, WIDE._replace(has_colour=False)) == "NAME\n\nmain\nlost"


def test_a_screen_is_drawn_over_without_clearing_it_first() -> None:
    drawn = draw(LINES, WIDE._replace(has_colour=False))
    assert drawn == "\x1b[HNAME\x1b[K\n\x1b[K\nmain\x1b[K\nlost\x1b[K\n\x1b[J"


def test_what_does_not_fit_is_wrapped_and_then_counted() -> None:
    terminal = Terminal(width=20, height=6)
    drawn = draw([Line(f"line {number}") for number in range(9)], terminal)
    assert "line 3" in drawn and "line 4" not in drawn
    assert "... 5 more lines" in drawn
    assert drawn.count("\n") == 5, "one line fewer than the terminal has, or it would scroll"
    drawn = draw([Line("  main  one two three four five", Tone.BAD)], terminal)
    assert drawn.splitlines()[0].startswith("\x1b[H  main  one")
    assert drawn.splitlines()[1].startswith("    "), "what goes on is indented"


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(0, "[----]"), (0.5, "[##--]"), (0.99, "[###-]"), (1, "[####]"), (7, "[####]")],
)
def test_bars(share: float, drawn: str) -> None:
    assert bar(share, 6) == drawn
