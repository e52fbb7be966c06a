"""Who is asked on a machine, what becomes of a question when one that waits there has ended, and
how a program that is forked off one differs from one that is started: not at all."""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import CURRENT_LOGSHIP, ImageFacts, attendant, containers
from logship.rehearsal.engine.attendant import BEGUN
from logship.rehearsal.engine.attendants import Answer, Attendants, program_of
from logship.rehearsal.engine.exchange import Call, Conversation
from logship.rehearsal.engine.images import Probed

PYTHON = ("env", "PYTHONPATH=/code", "python3")
RUN = ["python", "9", "--", "-m", "sql"]
MOST_BYTES = 1 << 16

STREAMS = """
import sys
for each in (sys.stdin, sys.stdout, sys.stderr):
    print(each.encoding, each.errors, each.newlines, each.line_buffering)
print(ascii(sys.stdin.read()))
"""
FULL = """
import os, sys
os.dup2(os.open("/dev/full", os.O_WRONLY), sys.{0}.fileno())
sys.{0}.write("lost")
""".strip()
# As if it was killed while it says what it imported.
KILLED_EARLY = """
import os, sys
frame = sys._getframe()
while "end" not in frame.f_locals:
    frame = frame.f_back
os.write(frame.f_locals["end"], b'["half')
os.kill(os.getpid(), 9)
"""


def answer(stdout: str, *imported: str) -> bytes:
    said = base64.b64encode(stdout.encode()).decode()
    document = {"status": 0, "stdout": said, "stderr": "", "imported": imported}
    return json.dumps(document).encode() + b"\n"


class FakeLine:
    """Says what it is given, and nothing afterwards."""

    def __init__(self, *says: bytes) -> None:
        self._says = list(says)
        self.asked: list[dict[str, Any]] = []
        self.silences: list[float] = []
        self.closed = False

    def send(self, data: bytes, silence_seconds: float) -> None:
        self.silences.append(silence_seconds)
        self.asked.append(json.loads(data))

    def receive(self) -> bytes:
        return self._says.pop(0) if self._says else b""

    def close(self) -> str:
        self.closed = True
        return "killed"


def code(source: str, stdin: bytes = b"", **environment: str) -> dict[str, Any]:
    return {
        "arguments": ["python", "20", "--", "-c", source],
        "stdin": base64.b64encode(stdin).decode(),
        "environment": environment,
        "imports": [],
    }


def answers_of_one(*questions: dict[str, Any], locale: str = "C.UTF-8") -> list[Answer]:
    """Of one that may write no more than MOST_BYTES to a file."""
    done = subprocess.run(
        [sys.executable, attendant.__file__],
        input=b"".join(json.dumps(each).encode() + b"\n" for each in questions),
        env={"LC_ALL": locale},
        capture_output=True,
        check=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES)),
    )
    assert done.stderr == b""
    said = done.stdout.splitlines(keepends=True)
    assert said[::2] == [BEGUN] * len(questions)
    documents = [json.loads(each) for each in said[1::2]]
    assert all(isinstance(each["imported"], list) for each in documents)
    return [
        Answer(each["status"], *(base64.b64decode(each[name]) for name in ("stdout", "stderr")))
        for each in documents
    ]


def answer_of_interpreter(source: str, stdin: bytes = b"", locale: str = "C.UTF-8") -> Answer:
    done = subprocess.run(
        [sys.executable, "-c", source],
        input=stdin,
        env={"LC_ALL": locale},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


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
        def send(self, data: bytes, silence_seconds: float) -> None:
            super().send(data, silence_seconds)
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


def test_a_new_one_replaces_one_that_has_ended_as_those_that_wait_may_have_ended_too() -> None:
    class Busy(FakeLine):
        """Another thread asks meanwhile."""

        def send(self, data: bytes, silence_seconds: float) -> None:
            super().send(data, silence_seconds)
            if len(self.asked) == 1:
                asked.ask(["read", "b"])

    lines = [Busy(BEGUN, answer("one")), FakeLine(BEGUN, answer("two"))]
    asked = attendants([*lines, FakeLine(BEGUN, answer("of the new one"))])
    asked.ask(["read", "a"])
    assert asked.ask(["read", "c"]).stdout == b"of the new one"
    assert [line.closed for line in lines] == [True, True]


def test_what_was_begun_is_not_asked_twice() -> None:
    other = FakeLine(BEGUN, answer("twice"))
    with pytest.raises(LogshipError, match="ended in the midst of write: killed"):
        attendants([FakeLine(BEGUN), other]).ask(["write", "a"])
    with pytest.raises(LogshipError, match="in the midst"):
        attendants([FakeLine(BEGUN, b'{"status": 0'), other]).ask(["write", "a"])
    assert not other.asked


def test_one_of_which_nothing_is_heard_is_given_up_and_not_asked_again() -> None:
    class Silent(FakeLine):
        def receive(self) -> bytes:
            raise TimeoutError

    silent, other = Silent(), FakeLine(BEGUN, answer("twice"))
    asked = attendants([silent, other])
    with pytest.raises(LogshipError, match="recovery does not answer: nothing is heard of run"):
        asked.ask(["run", "9", "0", "--", "true"], timeout_seconds=9)
    assert silent.silences == [pytest.approx(69)]
    assert silent.closed and not other.asked


def test_a_stream_that_nobody_ends_is_silent_for_no_longer_than_it_may() -> None:
    ours, theirs = socket.socketpair()
    client = MagicMock()
    client.api.exec_start.return_value = ours
    with theirs, ours:
        talk = Conversation(client, Call("container", ["attend"], user="postgres"))
        talk.send(b"question", 0.05)
        with pytest.raises(TimeoutError):
            talk.receive()


def test_what_a_program_imports_is_imported_for_it_on_other_machines() -> None:
    imports: dict[Any, Any] = {}
    attendants([FakeLine(BEGUN, answer("", "psycopg"))], imports).ask(RUN, python=PYTHON)
    line = FakeLine(BEGUN, answer(""), BEGUN, answer(""))
    asked = attendants([line], imports)
    asked.ask(RUN, python=PYTHON)
    asked.ask([*RUN[:4], "digest"], python=PYTHON)
    assert [each["imports"] for each in line.asked] == [["psycopg"], []]


def test_a_program_that_did_not_say_what_it_imports_may_say_so_later() -> None:
    line = FakeLine(BEGUN, answer(""), BEGUN, answer("", "psycopg"), BEGUN, answer(""))
    asked = attendants([line])
    for _ in range(3):
        asked.ask(RUN, python=PYTHON)
    assert [each["imports"] for each in line.asked] == [[], [], ["psycopg"]]


def test_only_modules_and_code_of_a_known_python_need_no_interpreter() -> None:
    words = [*PYTHON, "-m", "sql", "x"]
    assert program_of(words, [PYTHON]) == (PYTHON, ["-m", "sql", "x"])
    assert program_of([*PYTHON, "file.py"], [PYTHON]) == ((), [])
    assert program_of(list(PYTHON), [PYTHON]) == ((), [])
    assert program_of(["cat"], [PYTHON]) == ((), [])


@pytest.mark.parametrize("locale", ["POSIX", "C.UTF-8"])
def test_a_program_has_the_standard_streams_that_an_interpreter_gives_it(locale: str) -> None:
    stdin = b"\xff\r\n"
    [said] = answers_of_one(code(STREAMS, stdin), locale=locale)
    assert said == answer_of_interpreter(STREAMS, stdin, locale)
    assert said.returncode == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_can_not_write_its_last_words_fails_as_an_interpreter_does(
    stream: str,
) -> None:
    lost, fine = FULL.format(stream), f"import sys; sys.{stream}"
    programs = [lost, f"{lost}; raise SystemExit(5)", f"{fine}.close()", f"{fine} = None"]
    said = answers_of_one(*map(code, programs))
    assert said[0].returncode == 120
    assert (b"No space left on device" in said[0].stderr) == (stream == "stdout")
    assert [each.returncode for each in said] == [
        answer_of_interpreter(each).returncode for each in programs
    ]


def test_it_is_said_why_a_program_did_not_begin() -> None:
    [said, next_one] = answers_of_one(code("", WORD="a\0"), code("print('well')"))
    assert (said.returncode, said.stdout) == (1, b"")
    assert b"embedded null byte" in said.stderr
    assert next_one == (0, b"well\n", b"")


def test_what_the_system_refuses_or_kills_does_not_end_one_that_waits() -> None:
    refused, killed, next_one = answers_of_one(
        code("", b"x" * (MOST_BYTES + 1)), code(KILLED_EARLY), code("print('well')")
    )
    assert (refused.returncode, refused.stdout) == (126, b"")
    assert refused.stderr.decode() == f"python: [Errno 27] {os.strerror(27)}\n"
    assert killed == (137, b"", b"")
    assert next_one == (0, b"well\n", b"")


def test_who_asks_while_a_container_goes_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Going(FakeLine):
        def send(self, data: bytes, silence_seconds: float) -> None:
            machine.remove()
            raise BrokenPipeError

    engine = MagicMock(imports={})
    engine.images.probe.return_value = Probed(
        "postgres:16", ImageFacts("", "glibc 2.36", {}), (3, 11), "x86_64"
    )
    machine = containers.ContainerMachine(engine, "standby", "postgres:16", CURRENT_LOGSHIP)
    machine._container = MagicMock()
    monkeypatch.setattr(containers, "Conversation", lambda *_, **__: Going())
    with pytest.raises(LogshipError, match="standby has no container now") as gone:
        machine.run(["true"])
    assert gone.value.code is Code.CONTAINER_FAILED
