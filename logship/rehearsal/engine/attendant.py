"""Waits on a machine of a rehearsal for what is asked there, so that nothing needs to be started
for it: by the container engine no program, for a Python program no interpreter that imports all
over again.

Only the standard library, of any Python from 3.9 on: it is called by its path, beside no package.
It ends when standard input ends.

In, a line of JSON each: `arguments`, as `supervision` has them, or

    python SECONDS -- -m MODULE …, or -c CODE …    as the interpreter takes them

with `stdin` (base64), `environment` (what it has besides ours) and `imports` (modules that are
imported here before, where they can be had).  Out: a line BEGUN when it was read, then one of
JSON: `status`, `stdout`, `stderr` (base64), and `imported`, what it imported by itself.  What
the system refuses us meanwhile is told like that of a program that can't be run.

Each is a process of its own, forked off this one, so it finds what was imported here.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO, cast

_spec = importlib.util.spec_from_file_location(
    "supervision", Path(__file__).with_name("supervision.py")
)
if _spec is None or _spec.loader is None:
    raise ImportError("there is no supervision beside the attendant")
supervision = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(supervision)

BEGUN = b"begun\n"
PYTHON = "python"

_LEFT_OUT = ("__main__", "__mp_main__")
# Of an interpreter that can't write at its end what is still to be written.
_NOT_WRITTEN = 120


def attend() -> None:
    """Answer until standard input ends.  What is started here finds neither it nor our output."""
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    for line in questions:
        answers.write(BEGUN)
        answers.flush()
        asked = json.loads(line)
        _import(asked["imports"])
        try:
            answer = _answer(asked, (questions, answers))
        except OSError as error:  # no room, no further process: the next one may have them
            said = f"{asked['arguments'][0]}: {error}\n".encode()
            answer = _document(supervision.NOT_RUNNABLE, b"", said, [])
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _answer(asked: dict[str, Any], ours: Iterable[IO[bytes]]) -> dict[str, Any]:
    """ours: what the program is not to have."""
    arguments = asked["arguments"]
    seconds = float(arguments[1]) if arguments[0] == PYTHON else None
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(base64.b64decode(asked["stdin"]))
        stdin.seek(0)
        # It has a reader until the program ends; what that starts does not inherit it.
        until, end = os.pipe()
        with os.fdopen(until, "rb") as reader:
            with os.fdopen(end, "wb"):
                pid = os.fork()
                if pid == 0:
                    _become(asked, (stdin, stdout, stderr), (*ours, reader), end)
            said = _read_until(until, seconds)
            if said is None:
                supervision._kill_all({pid})
        _, status = os.waitpid(pid, 0)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        code = supervision.TIMED_OUT if said is None else code
        return _document(code, _content(stdout), _content(stderr), _imported(said))


def _document(status: int, stdout: bytes, stderr: bytes, imported: list[str]) -> dict[str, Any]:
    out, err = (base64.b64encode(each).decode("ascii") for each in (stdout, stderr))
    return {"status": status, "stdout": out, "stderr": err, "imported": imported}


def _imported(said: bytes | None) -> list[str]:
    """[]: it was killed, before it said so or in the midst of it."""
    try:
        return list(json.loads(said or b"[]"))
    except ValueError:
        return []


def _read_until(pipe: int, seconds: float | None) -> bytes | None:
    """All that is written there; None: it was not closed in time."""
    end = None if seconds is None else time.monotonic() + seconds
    said = b""
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            return None
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return said
        said += piece


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _become(
    asked: dict[str, Any], files: Iterable[IO[bytes]], not_its: Iterable[IO[bytes]], end: int
) -> NoReturn:
    """Be the program that was asked for, to its end."""
    status = 1
    known = set(sys.modules)
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        for file in not_its:
            os.close(file.fileno())
        os.setsid()
        os.environ.update(asked["environment"])
        sys.stdin = _anew(0, "r", sys.stdin)
        sys.stdout = _anew(1, "w", sys.stdout)
        sys.stderr = _anew(2, "w", sys.stderr)
        status = _status(asked["arguments"])
    except BaseException:
        _complain()
    finally:
        try:
            if not _flush():
                status = _NOT_WRITTEN
            imported = [name for name in sys.modules if name not in known and name not in _LEFT_OUT]
            os.write(end, json.dumps(imported).encode())
        finally:
            os._exit(status)


def _anew(number: int, mode: str, before: TextIO) -> TextIO:
    """A standard stream as the interpreter made the one before, by the locale."""
    how: dict[str, Any] = {"encoding": before.encoding, "errors": before.errors, "newline": "\n"}
    buffering = 1 if number == 2 else -1
    return cast("TextIO", open(number, mode, buffering, closefd=False, **how))


def _flush() -> bool:
    """Whether all that was printed is written."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:
            _complain()
            written = False
    return written


def _complain() -> None:
    with contextlib.suppress(OSError):
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))


def _status(arguments: list[str]) -> int:
    """As the interpreter ends with it."""
    name, *others = arguments
    try:
        if name == PYTHON:
            _run_python(others[others.index("--") + 1 :])
            return 0
        if "--" in others:
            others.remove("--")
        return int(supervision.COMMANDS[name](*others))
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
    except OSError as error:
        if name == PYTHON:
            traceback.print_exc()
        else:
            print(f"{name}: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1


def _run_python(words: list[str]) -> None:
    option, what, *arguments = words
    sys.argv = ["-c" if option == "-c" else what, *arguments]
    if option == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _import(names: list[str]) -> None:
    for name in names:
        # What can't be had here is imported by whoever wants it, as without us.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


if __name__ == "__main__":
    attend()
