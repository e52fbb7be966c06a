"""Who is asked on a machine, and what becomes of a question when one that waits there has ended."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from logship.errors import LogshipError
from logship.rehearsal.engine.attendant import BEGUN
from logship.rehearsal.engine.attendants import Answer, Attendants, program_of

PYTHON = ("env", "PYTHONPATH=/code", "python3")
RUN = ["python", "9", "--", "-m", "sql"]


def answer(stdout: str, *imported: str) -> bytes:
    said = base64.b64encode(stdout.encode()).decode()
    document = {"status": 0, "stdout": said, "stderr": "", "imported": imported}
    return json.dumps(document).encode() + b"\n"


class FakeLine:
    """Says what it is given, and nothing afterwards."""

    def __init__(self, *says: bytes) -> None:
        self._says = list(says)
        self.asked: list[dict[str, Any]] = []
        self.closed = False

    def send(self, data: bytes) -> None:
        self.asked.append(json.loads(data))

    def receive(self) -> bytes:
        return self._says.pop(0) if self._says else b""

    def close(self) -> str:
        self.closed = True
        return "killed"


def attendants(lines: Sequence[FakeLine], imports: dict[Any, Any] | None = None) -> Attendants:
    waiting: Iterator[FakeLine] = iter(lines)
    return Attendants("recovery", lambda _: next(waiting), {} if imports is None else imports)


def test_one_is_asked_again_and_ends_with_the_machine() -> None:
    line = FakeLine(BEGUN, answer("one"), BEGUN, answer("two"))
    asked = attendants([line])
    assert asked.ask(["read", "a"]) == Answer(0, b"one", b"")
    assert asked.ask(["read", "b"], stdin=b"\0") == Answer(0, b"two", b"")
    assert [each["arguments"] for each in line.asked] == [["read", "a"], ["read", "b"]]
    assert not line.closed
    asked.end()
    assert line.closed


def test_one_that_is_at_work_while_the_machine_ends_is_not_asked_again() -> None:
    class Ending(FakeLine):
        def send(self, data: bytes) -> None:
            super().send(data)
            asked.end()

    line = Ending(BEGUN, answer("late"))
    asked = attendants([line, FakeLine(BEGUN, answer("of the next"))])
    assert asked.ask(["read", "a"]).stdout == b"late"
    assert line.closed
    assert asked.ask(["read", "a"]).stdout == b"of the next"


def test_one_that_has_ended_is_replaced_if_it_had_not_begun() -> None:
    gone = FakeLine()
    asked = attendants([gone, FakeLine(BEGUN, answer("well"))])
    assert asked.ask(["read", "a"]).stdout == b"well"
    assert gone.closed
    with pytest.raises(LogshipError, match=r"recovery does not answer: .* ended: killed"):
        attendants([FakeLine(), FakeLine()]).ask(["read", "a"])


def test_what_was_begun_is_not_asked_twice() -> None:
    other = FakeLine(BEGUN, answer("twice"))
    with pytest.raises(LogshipError, match="ended in the midst of write: killed"):
        attendants([FakeLine(BEGUN), other]).ask(["write", "a"])
    with pytest.raises(LogshipError, match="in the midst"):
        attendants([FakeLine(BEGUN, b'{"status": 0'), other]).ask(["write", "a"])
    assert not other.asked


def test_what_a_program_imports_is_imported_for_it_on_other_machines() -> None:
    imports: dict[Any, Any] = {}
    attendants([FakeLine(BEGUN, answer("", "psycopg"))], imports).ask(RUN, python=PYTHON)
    line = FakeLine(BEGUN, answer(""), BEGUN, answer(""))
    asked = attendants([line], imports)
    asked.ask(RUN, python=PYTHON)
    asked.ask([*RUN[:4], "digest"], python=PYTHON)
    assert [each["imports"] for each in line.asked] == [["psycopg"], []]


def test_only_modules_and_code_of_a_known_python_need_no_interpreter() -> None:
    words = [*PYTHON, "-m", "sql", "x"]
    assert program_of(words, [PYTHON]) == (PYTHON, ["-m", "sql", "x"])
    assert program_of([*PYTHON, "file.py"], [PYTHON]) == ((), [])
    assert program_of(list(PYTHON), [PYTHON]) == ((), [])
    assert program_of(["cat"], [PYTHON]) == ((), [])
