"""What the two command lines, `shipper` and `applier`, have in common.

A program is a table of commands, each a module with a docstring (its long help),
`add_arguments(parser)` and `run(args) -> int`.  Only the module of the command in hand is
imported, and this module imports next to nothing, so that `status` answers at once.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a check; 130 after an interrupt (128 +
SIGINT) and 141 when the reader of the output went away (128 + SIGPIPE), as shells have it.
A failure is printed as `error: what is wrong` and `hint: what to do` on standard error, with
`--json` as {"error": {code, what, hint, retryable}} on standard output.  A user never sees
a traceback unless LOGSHIP_DEBUG=1 asks for one, or the interpreter itself has crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, cast

from logship import __version__
from logship.errors import Code, ExitCode, LogshipError, UsageError
from logship.redaction import redact

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Command(NamedTuple):
    """module: dotted name.  summary: one line for the list of commands."""

    module: str
    summary: str


class Program(NamedTuple):
    """A command line: its name, what it is for, and its commands in the order of the list."""

    name: str
    purpose: str
    commands: Mapping[str, Command]


class CommandModule(Protocol):
    """What a command's module offers."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def run_program(program: Program, arguments: Sequence[str]) -> int:
    """Run one command line.  Returns the exit code and never raises but for SystemExit(0)
    after `--help`."""
    as_json = "--json" in arguments
    _have_crashes_told()
    try:
        code = _dispatch(program, arguments)
        sys.stdout.flush()
    except LogshipError as error:
        return _failed(error, as_json=as_json)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Nobody reads standard output any more, and Python must not try once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _failed(_internal_error(program, error), as_json=as_json)
    return int(code)


def add_config_argument(parser: argparse.ArgumentParser, default: Path) -> None:
    """`--config`, the same in every command that reads a settings file."""
    parser.add_argument(
        "--config",
        metavar="F",
        type=Path,
        default=default,
        help="settings file (default: %(default)s)",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`, the same in every command that prints a result."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def print_json(document: object) -> None:
    """One JSON object on one line of standard output."""
    import json

    print(json.dumps(document, ensure_ascii=False, default=str), flush=True)


def _have_crashes_told() -> None:
    """On standard error, with the place of each thread: where the interpreter itself dies (of a
    mistake in a compiled library, or bad memory) nothing else says a word."""
    if sys.stderr is not None and not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it is no file
            faulthandler.enable()


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(Code.USAGE, message, f"`{self.prog} --help` shows what it takes")


def _dispatch(program: Program, arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(_overview(program))
        return ExitCode.DONE if arguments else ExitCode.USAGE
    if name in ("-V", "--version"):
        _show_version(program, as_json="--json" in arguments)
        return ExitCode.DONE
    if name not in program.commands:
        raise _no_such_command(program, name)
    import importlib

    module = cast(CommandModule, importlib.import_module(program.commands[name].module))
    parser = _Parser(
        prog=f"{program.name} {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments[1:]))


def _show_version(program: Program, *, as_json: bool) -> None:
    if not as_json:
        print(f"{program.name} {__version__}")
        return
    from logship.frames import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION

    protocol = {"oldest": OLDEST_PROTOCOL_VERSION, "newest": PROTOCOL_VERSION}
    print_json({"program": program.name, "version": __version__, "protocol": protocol})


def _overview(program: Program) -> str:
    width = max(len(name) for name in program.commands)
    lines = [f"usage: {program.name} COMMAND [OPTIONS]", "", program.purpose, ""]
    lines += [f"  {name:<{width}}  {each.summary}" for name, each in program.commands.items()]
    lines += [
        "",
        f"`{program.name} COMMAND --help` explains a command; --version prints the version,",
        "with --json also the versions of the link's protocol that it speaks.",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a check.",
    ]
    return "\n".join(lines)


def _no_such_command(program: Program, name: str) -> UsageError:
    import difflib

    if name.startswith("-"):
        what = f"{program.name} takes a command first, not {name}"
        return UsageError(Code.USAGE, what, f"`{program.name} --help` lists the commands")
    near = difflib.get_close_matches(name, program.commands, n=1)
    hint = f"did you mean `{program.name} {near[0]}`?" if near else ""
    return UsageError(
        Code.USAGE,
        f"{program.name} has no command {name!r}",
        hint or f"`{program.name} --help` lists the commands",
    )


def _failed(error: LogshipError, *, as_json: bool) -> int:
    if os.environ.get("LOGSHIP_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    try:
        if as_json:
            print_json({"error": _redacted(error.as_dict())})
        else:
            print(f"error: {redact(error.what)}", file=sys.stderr)
            if error.hint:
                print(f"hint: {redact(error.hint)}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(error.exit_code)


def _redacted(document: dict[str, Any]) -> dict[str, Any]:
    return {key: redact(v) if isinstance(v, str) else v for key, v in document.items()}


def _internal_error(program: Program, error: Exception) -> LogshipError:
    """Our own bug: the traceback goes to a file that only this user can read."""
    import tempfile
    import traceback

    text = redact("".join(traceback.format_exception(error)))
    kind = type(error).__name__
    said = str(error).partition("\n")[0]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{program.name}-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{program.name} {__version__}, Python {sys.version}\n{text}")
        hint = f"this is a bug in Logship: report it with the details in {file.name}"
    except OSError as failure:
        hint = (
            "this is a bug in Logship, and its details could not be written "
            f"({failure.strerror}): repeat with LOGSHIP_DEBUG=1"
        )
    internal = LogshipError(Code.INTERNAL, f"unexpected {kind}: {said}", hint)
    internal.__cause__ = error
    return internal
