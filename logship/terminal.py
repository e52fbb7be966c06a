"""Lines for a terminal: toned, cut to its size, and drawn over what stood there.

Plain ANSI, as every `shipper status` pays for what it imports.  Pure but for `Terminal.of`,
which looks at a stream.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Self, TextIO

_RESET = "\x1b[0m"
_HOME = "\x1b[H"
_END_OF_LINE = "\x1b[K"
_END_OF_SCREEN = "\x1b[J"
_MIN_WIDTH = 20
_USUAL_SIZE = (80, 24)


class Tone(StrEnum):
    """How a line is meant; the value is its ANSI attribute."""

    PLAIN = ""
    HEADING = "1"
    BAD = "31"
    WARNING = "33"
    FAINT = "2"


class Line(NamedTuple):
    text: str
    tone: Tone = Tone.PLAIN


class Terminal(NamedTuple):
    """What the output goes to.  width, height: None where there is no terminal to fill."""

    width: int | None = None
    height: int | None = None
    has_colour: bool = False

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Self:
        """NO_COLOR (https://no-color.org) and TERM=dumb are heeded."""
        if not stream.isatty() or environment.get("TERM") == "dumb":
            return cls()
        width, height = os.get_terminal_size(stream.fileno())
        if not width or not height:  # as a terminal says that was never told its size
            width, height = _USUAL_SIZE
        return cls(max(width, _MIN_WIDTH), height, not environment.get("NO_COLOR"))

    @property
    def can_be_drawn_over(self) -> bool:
        return self.height is not None


def paint(lines: Iterable[Line], terminal: Terminal) -> str:
    """The lines as text."""
    return "\n".join(_painted(line, terminal) for line in lines)


def draw(lines: Sequence[Line], terminal: Terminal) -> str:
    """The lines in place of all that the terminal shows; what does not fit is counted.

    Nothing is cleared before it is written anew: a screen that is drawn often must not flicker.
    """
    assert terminal.width is not None and terminal.height is not None
    wrapped = [part for line in lines for part in _wrapped(line, terminal.width)]
    room = max(1, terminal.height - 1)
    if len(wrapped) > room:
        left_out = len(wrapped) - room + 1
        wrapped = [*wrapped[: room - 1], Line(f"... {left_out} more lines", Tone.FAINT)]
    drawn = "".join(f"{_painted(line, terminal)}{_END_OF_LINE}\n" for line in wrapped)
    return f"{_HOME}{drawn}{_END_OF_SCREEN}"


def bar(share: float, width: int) -> str:
    """`[#####-----]`, `width` characters wide; share: 0 to 1."""
    cells = max(1, width - 2)
    done = int(min(1.0, max(0.0, share)) * cells)
    return f"[{'#' * done}{'-' * (cells - done)}]"


def _wrapped(line: Line, width: int) -> list[Line]:
    indent = " " * (len(line.text) - len(line.text.lstrip()) + 2)
    parts = textwrap.wrap(line.text, width, subsequent_indent=indent, drop_whitespace=True)
    return [Line(part, line.tone) for part in parts] or [Line("")]


def _painted(line: Line, terminal: Terminal) -> str:
    if not terminal.has_colour or not line.tone or not line.text:
        return line.text
    return f"\x1b[{line.tone.value}m{line.text}{_RESET}"
