"""Errors, exit codes and help of the command lines, in this process."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from logship.commandline import Command, Program, add_json_argument, run_program
from logship.errors import Code, ExitCode, LogshipError, RefusedError, UsageError

Run = Callable[[argparse.Namespace], int]


@pytest.fixture
def program() -> Iterator[Callable[[Run], Program]]:
    """Makes a program with one command, `work`, that does what it is given."""

    def make(run: Run) -> Program:
        module = ModuleType("tests_commandline_work", "Do the work.")

        def add_arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--count", type=int)
            add_json_argument(parser)

        vars(module).update(add_arguments=add_arguments, run=run)
        sys.modules[module.__name__] = module
        return Program("tool", "A tool.", {"work": Command(module.__name__, "do the work")})

    yield make
    sys.modules.pop("tests_commandline_work", None)


def raising(error: BaseException) -> Run:
    def run(_args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(("kind", "code"), [(LogshipError, 1), (UsageError, 2), (RefusedError, 3)])
def test_an_error_is_printed_with_its_hint_and_its_exit_code(
    program: Callable[[Run], Program],
    capsys: pytest.CaptureFixture[str],
    kind: type[LogshipError],
    code: int,
) -> None:
    run = raising(kind(Code.WAL_GAP, "it broke: password=hunter2", "mend it"))
    assert run_program(program(run), ["work"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: it broke: password=***\nhint: mend it\n")


def test_with_json_an_error_is_one_object_on_standard_output(
    program: Callable[[Run], Program], capsys: pytest.CaptureFixture[str]
) -> None:
    run = raising(LogshipError(Code.WAL_GAP, "it broke", "mend it", retryable=True))
    assert run_program(program(run), ["work", "--json"]) == ExitCode.FAILED
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {"code": "wal-gap", "what": "it broke", "hint": "mend it", "retryable": True}
    }


def test_a_bug_is_one_line_and_its_details_are_in_a_private_file(
    program: Callable[[Run], Program],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = raising(ValueError("odd password=hunter2\nsecond line"))
    assert run_program(program(run), ["work"]) == ExitCode.FAILED
    _, err = capsys.readouterr()
    (details,) = tmp_path.iterdir()
    assert err.startswith("error: unexpected ValueError: odd password=***\nhint: this is a bug")
    assert str(details) in err
    assert "Traceback" not in err
    assert details.stat().st_mode & 0o777 == 0o600
    assert "Traceback" in details.read_text()
    assert "hunter2" not in details.read_text()


def test_a_traceback_is_shown_to_those_who_ask(
    program: Callable[[Run], Program],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGSHIP_DEBUG", "1")
    run_program(program(raising(LogshipError(Code.WAL_GAP, "it broke"))), ["work"])
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_quietly(
    program: Callable[[Run], Program], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(program(raising(KeyboardInterrupt())), ["work"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["wrok"], "tool has no command 'wrok'", "did you mean `tool work`?"),
        (["zzz"], "tool has no command 'zzz'", "`tool --help` lists the commands"),
        (["--json", "work"], "tool takes a command first, not --json", "`tool --help` lists"),
        (
            ["work", "--count", "x"],
            "argument --count: invalid int value: 'x'",
            "`tool work --help`",
        ),
        (["work", "--coun", "1"], "unrecognized arguments: --coun 1", "`tool work --help`"),
    ],
)
def test_wrong_usage_is_explained(
    program: Callable[[Run], Program],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: str,
    hint: str,
) -> None:
    assert run_program(program(lambda _args: 0), arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    if "--json" in arguments:
        assert json.loads(out)["error"]["what"] == error
    else:
        assert err.startswith(f"error: {error}\nhint: {hint}")


def test_without_a_command_the_list_is_shown_as_a_usage_error(
    program: Callable[[Run], Program], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(program(lambda _args: 0), []) == ExitCode.USAGE
    assert "work  do the work" in capsys.readouterr().out


def test_help_and_version(
    program: Callable[[Run], Program], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(program(lambda _args: 0), ["--help"]) == ExitCode.DONE
    assert run_program(program(lambda _args: 0), ["--version"]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "usage: tool COMMAND" in out
    assert "\ntool " in out
    with pytest.raises(SystemExit) as ended:
        run_program(program(lambda _args: 0), ["work", "--help"])
    assert ended.value.code == 0
    assert "Do the work." in capsys.readouterr().out


def test_a_commands_result_is_the_exit_code(program: Callable[[Run], Program]) -> None:
    assert run_program(program(lambda args: args.count), ["work", "--count", "3"]) == 3
