"""The attendants of one machine: processes that wait there for what is asked, one question each at
a time, as long as the machine runs."""

from __future__ import annotations

import base64
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import RUN_SECONDS, attendant

_COMPLAINT_CHARACTERS = 600
# What an answer may take longer than the question: a program is killed, its output is sent.
_LATE_SECONDS = 60.0
# Of `python SECONDS -- -c CODE COMMAND …`.  Of `-m MODULE …` the third word is its first argument:
# by another one it may import something else too.
_PROGRAM = slice(3, 6)


class Answer(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


class Line(Protocol):
    """To the standard streams of an attendant that runs."""

    def send(self, data: bytes, silence_seconds: float) -> None:
        """silence_seconds: how long it may be silent until the next `send`, where the road to it
        may be cut and nobody is told.  Raises OSError: it has ended."""

    def receive(self) -> bytes:
        """The next line of its output; b"" when it has ended.  Raises TimeoutError."""

    def close(self) -> str:
        """End it.  Returns what it complained of.  May be called twice."""


Imports = dict[tuple[str, ...], list[str]]
"""What a program imported when it was asked for before, on whichever machine: the next attendant
imports it once for all whom it starts, and no more than that."""


class Attendants:
    """Of the machine `name`.

    begin: starts an attendant by a Python: by the words that call it, or the machine's own way if
    there are none.  imports: of all machines of the engine.
    """

    def __init__(
        self, name: str, begin: Callable[[tuple[str, ...]], Line], imports: Imports
    ) -> None:
        self._name = name
        self._imports = imports
        self._begin = begin
        self._idle: dict[tuple[str, ...], list[Line]] = defaultdict(list)
        self._lock = threading.Lock()
        self._lives = 0

    def ask(
        self,
        arguments: Sequence[str],
        *,
        python: tuple[str, ...] = (),
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = RUN_SECONDS,
    ) -> Answer:
        """The answer to `arguments` (see `attendant`), by one that runs `python`.

        Threads may ask at once.  One that has ended by itself is replaced, by one that is new, if
        it had not begun with the question.  timeout_seconds: how long it may take there.

        Raises LogshipError: it ended in the midst of it, or nothing is heard of it; OSError and
        what `begin` raises: none can be started.
        """
        program = (*python, *arguments[_PROGRAM]) if python else ()
        question = {
            "arguments": list(arguments),
            "stdin": base64.b64encode(stdin).decode("ascii"),
            "environment": dict(environment or {}),
            "imports": self._imports.get(program, []),
        }
        data = json.dumps(question).encode() + b"\n"
        begun, said = False, ""
        for is_replaced in (False, True):
            if is_replaced:
                # Whoever ended it may have ended those that wait as well.
                self._drop(python)
            line, life = self._take(python)
            try:
                begun, answer = _asked(line, data, timeout_seconds + _LATE_SECONDS)
            except TimeoutError:
                line.close()
                raise self._silent(arguments[0]) from None
            if answer is not None:
                self._give_back(python, line, life)
                if program and answer["imported"]:
                    self._imports.setdefault(program, answer["imported"])
                return Answer(
                    int(answer["status"]),
                    base64.b64decode(answer["stdout"]),
                    base64.b64decode(answer["stderr"]),
                )
            said = line.close().strip()[-_COMPLAINT_CHARACTERS:]
            if begun:
                break
        raise LogshipError(
            Code.REHEARSAL_FAILED,
            f"machine {self._name} does not answer: who attends to it ended"
            f"{' in the midst of ' + arguments[0] if begun else ''}: {said or 'it said nothing'}",
            "rehearse again; look who ends processes on this host",
        )

    def _silent(self, asked: str) -> LogshipError:
        return LogshipError(
            Code.REHEARSAL_FAILED,
            f"machine {self._name} does not answer: nothing is heard of {asked} any more",
            "rehearse again; look at the container engine, and at the way to it",
        )

    def end(self) -> None:
        """All that wait, as the machine ends.  One that is at work now is ended when it has
        answered, unless the machine kills it before: then it "ended in the midst".  Others can be
        asked for afterwards."""
        with self._lock:
            self._lives += 1
            idle = [line for lines in self._idle.values() for line in lines]
            self._idle.clear()
        for line in idle:
            line.close()

    def _drop(self, python: tuple[str, ...]) -> None:
        with self._lock:
            idle = self._idle.pop(python, [])
        for line in idle:
            line.close()

    def _take(self, python: tuple[str, ...]) -> tuple[Line, int]:
        with self._lock:
            life, waiting = self._lives, self._idle[python]
            if waiting:
                return waiting.pop(), life
        return self._begin(python), life

    def _give_back(self, python: tuple[str, ...], line: Line, life: int) -> None:
        with self._lock:
            if life == self._lives:
                self._idle[python].append(line)
                return
        line.close()


def program_of(
    words: Sequence[str], pythons: Iterable[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[str]]:
    """Which of `pythons` a command calls for a module or for code, and what it tells it; (): none
    of them.  Pure."""
    for python in pythons:
        program = list(words[len(python) :])
        if tuple(words[: len(python)]) == python and program[:1] in (["-m"], ["-c"]):
            return python, program
    return (), []


def _asked(line: Line, data: bytes, silence_seconds: float) -> tuple[bool, dict[str, Any] | None]:
    """Whether it began with it, and its answer if there is one.  Raises TimeoutError: nobody knows
    whether it began."""
    begun = False
    try:
        line.send(data, silence_seconds)
        begun = line.receive() == attendant.BEGUN
        answer = line.receive() if begun else b""
    except TimeoutError:
        raise
    except OSError:
        return begun, None
    return begun, json.loads(answer) if answer.endswith(b"\n") else None
