"""Settings: one TOML file, read once, into frozen structs.

A settings file is described by `Section` structs (`logship.settings_schema`).  From their
annotations come the reading and its error messages, the commented file that `init` writes
(`logship.settings_text`) and docs/settings.md: one source for all.

Reading collects every problem of a file before it raises, each with line, dotted key, what
is wrong and, for a mistyped name, the nearest known one.  Values are never repeated in a
message unless their key takes one of a few words: a connection string may hold a password.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from logship.decoders import convert
from logship.errors import Code, UsageError
from logship.identity import check_instance_name
from logship.settings_environment import merge_environment
from logship.settings_schema import (
    Check,
    Key,
    Section,
    dotted,
    expected,
    keys_of,
    listed_sections_of,
    section_of,
    without_none,
    words_of,
)

MAX_SETTINGS_BYTES: Final = 4 * 1024 * 1024
"""A larger file is not settings; it is refused before it is parsed."""


_NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})


class LogSettings(Section, frozen=True, kw_only=True):
    """What the process says while it runs, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe message to write."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description='"auto": readable on a terminal, one JSON object a line otherwise.'),
    ] = "auto"


def check_name(key: str, name: str) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if `name` may name an instance."""
    try:
        check_instance_name(name)
    except UsageError as error:
        yield f"{key}: {error.what}", error.hint


class Finding(NamedTuple):
    """One problem of a settings file.  `line` counts from 1; 0 when it has no place."""

    line: int
    key: str
    what: str
    hint: str


class SettingsError(UsageError):
    """A settings file can't be used.  `findings` has every problem, in the file's order."""

    def __init__(
        self,
        file: Path,
        findings: Sequence[Finding],
        hint: str = "docs/settings.md has every setting",
    ) -> None:
        """hint: for a file with several problems; a single one has its own."""
        self.file = file
        self.findings = tuple(findings)
        if len(findings) == 1:
            only = findings[0]
            super().__init__(Code.SETTINGS, f"{_place(file, only.line)}: {only.what}", only.hint)
        else:
            lines = [f"{file} has {len(findings)} problems"]
            lines += [
                f"  {_place(file, each.line)}: {each.what}"
                + (f" ({each.hint})" if each.hint else "")
                for each in findings
            ]
            super().__init__(Code.SETTINGS, "\n".join(lines), hint)

    def as_dict(self) -> dict[str, object]:
        """Adds `file` and `findings`, a list of {line, key, what, hint}."""
        return {
            **super().as_dict(),
            "file": str(self.file),
            "findings": [each._asdict() for each in self.findings],
        }


_S = TypeVar("_S", bound=Section)


def load_settings(file: Path, kind: type[_S], *, environment: Mapping[str, str] = os.environ) -> _S:
    """Read `file` into `kind`.  Raises SettingsError (exit 2) with everything that is wrong.

    Variables `LOGSHIP__SECTION__KEY` of `environment` stand above the file's settings, see
    `logship.settings_environment`.  Relative paths are taken from the file's own directory; `~`
    is the home directory.
    """
    file = file.absolute()
    try:
        if file.stat().st_size > MAX_SETTINGS_BYTES:
            raise _unreadable(file, f"it is larger than {MAX_SETTINGS_BYTES} bytes")
        raw = file.read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            file, [Finding(0, "", "there is no such file", "`init --output FILE` writes one")]
        ) from None
    except OSError as error:
        raise _unreadable(file, error.strerror or type(error).__name__) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SettingsError(
            file, [Finding(line, "", "this is not UTF-8 text", "save the file as UTF-8")]
        ) from None
    return parse_settings(text, kind, file=file, environment=environment)


def parse_settings(
    text: str, kind: type[_S], *, file: Path, environment: Mapping[str, str] = _NO_VARIABLES
) -> _S:
    """As load_settings, from text.  `file` names it in messages and anchors relative paths."""
    try:
        # TOML allows CRLF, tomllib wants it normalised when it is given a string.
        document = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(file, [_syntax_finding(error, text)]) from None
    except (RecursionError, ValueError):
        # tomllib lets Python's own limits through: of nesting, and of digits in a number.
        what = "values nested too deeply, or a number with too many digits"
        raise SettingsError(file, [Finding(0, "", what, "no setting needs either")]) from None
    merged = merge_environment(document, kind, environment)
    reader = _Reader(file.parent, _key_lines(text), merged.variables)
    built = reader.section(kind, merged.document, ())
    if reader.findings or built is None:
        raise SettingsError(file, sorted(reader.findings, key=lambda each: each.line or 1 << 30))
    return built


def convert_settings(document: object, kind: type[_S], *, path: tuple[str, ...] = ()) -> _S:
    """As parse_settings, from what came otherwise than in a settings file, such as JSON.

    path: of the section, for messages.  Paths in it must be absolute.  Raises
    UsageError(SETTINGS) with everything that is wrong.
    """
    reader = _Reader(Path("/"), {})
    built = reader.section(kind, document, path)
    if reader.findings or built is None:
        hints = dict.fromkeys(each.hint for each in reader.findings if each.hint)
        raise UsageError(
            Code.SETTINGS, "; ".join(each.what for each in reader.findings), "; ".join(hints)
        )
    return built


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line of a valid TOML text in which a key or a table stands, or what is around it; 0
    if nothing is.  The tables of a list are counted from 1."""
    return _line_of(_key_lines(text), path)


def suggestion(word: str, known: Sequence[str]) -> str:
    """`did you mean 'x'?` for the known word nearest to `word`, or ""."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def _place(file: Path, line: int) -> str:
    return f"{file}:{line}" if line else str(file)


def _unreadable(file: Path, why: str) -> SettingsError:
    return SettingsError(file, [Finding(0, "", f"it can't be read: {why}", "check the path")])


def _syntax_finding(error: tomllib.TOMLDecodeError, text: str) -> Finding:
    message, line = str(error), 0
    match = re.search(r" \(at line (\d+), column (\d+)\)", message)
    if match:
        line = int(match[1])
        message = message[: match.start()] + f", at column {match[2]}"
    elif "at end of document" in message:
        line = max(1, len(text.splitlines()))
    hint = "text needs quotes, and a name stands once in its table"
    return Finding(line, "", f"this is not TOML: {message}", hint)


# --- from a TOML document to structs ------------------------------------------------------

_Path = tuple[str, ...]


class _Reader:
    """Builds structs bottom-up; a section with a problem in it is None."""

    def __init__(
        self,
        directory: Path,
        lines: Mapping[_Path, int],
        variables: Mapping[_Path, str] = MappingProxyType({}),
    ) -> None:
        """lines, variables: where keys stand in the file; which of the environment they are."""
        self.directory = directory
        self.lines = lines
        self.variables = variables
        self.findings: list[Finding] = []

    def found(self, path: _Path, what: str, hint: str = "") -> None:
        line = _line_of(self.lines, path)
        if path in self.variables:
            line, what = 0, f"{what}, given by {self.variables[path]} in the environment"
        self.findings.append(Finding(line, dotted(path), what, hint))

    def section(self, kind: type[_S], value: object, path: _Path) -> _S | None:
        if not isinstance(value, dict):
            self.found(path, f"{dotted(path)} must be a table, not {_kind_of(value)}")
            return None
        before = len(self.findings)
        keys = {key.name: key for key in keys_of(kind)}
        for name in value.keys() - keys.keys():
            self._unknown(name, sorted(keys), path)
        built: dict[str, Any] = {}
        for name, key in keys.items():
            section = section_of(key.type)
            if name in value or (section is not None and key.required):
                # A required table that is absent has its own required keys to name.
                built[name] = self.value(key, value.get(name, {}), (*path, name))
            elif key.required:
                self._missing(key, (*path, name))
        if len(self.findings) > before:
            return None
        result = kind(**built)
        for each in result.contradictions():
            self.found((*path, *each.key), each.what, each.hint)
        return result if len(self.findings) == before else None

    def value(self, key: Key, value: object, path: _Path) -> Any:
        section = section_of(key.type)
        if section is not None:
            return self.section(section, value, path)
        if get_origin(key.type) is dict:
            return self._named(key, value, path)
        listed = listed_sections_of(key.type)
        if listed is not None:
            return self._listed(listed, value, path)
        return self._leaf(key, value, path)

    def _named(self, key: Key, value: object, path: _Path) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self.found(path, f"{dotted(path)} must be a table, not {_kind_of(value)}")
            return None
        extra = key.meta.extra or {}
        entry = Key("", get_args(key.type)[1], Meta(), True, None)
        built = {}
        for name, each in value.items():
            self._check(extra.get("check_name"), name, (*path, name))
            built[name] = self.value(entry, each, (*path, name))
            if built[name] is not None:
                self._check(extra.get("check_entry"), (name, built[name]), (*path, name))
        return built

    def _listed(self, kind: type[Section], value: object, path: _Path) -> list[Any]:
        """Of a list of tables, which are counted from 1 in messages."""
        if not isinstance(value, list):
            self.found(path, f"{dotted(path)} must be a list of tables, not {_kind_of(value)}")
            return []
        numbered = enumerate(value, start=1)
        return [self.section(kind, each, (*path, str(number))) for number, each in numbered]

    def _leaf(self, key: Key, value: object, path: _Path) -> Any:
        try:
            built = convert(
                value,
                Annotated[without_none(key.type), key.meta],
                dec_hook=self._convert_path,
            )
        except msgspec.ValidationError as error:
            self._wrong(key, value, path, error)
            return None
        self._check((key.meta.extra or {}).get("check"), built, path)
        return built

    def _check(self, check: Check | None, value: object, path: _Path) -> None:
        for what, hint in check(dotted(path), value) if check else ():
            self.found(path, what, hint)

    def _convert_path(self, kind: type[Any], value: object) -> Path:
        if kind is not Path:
            raise NotImplementedError(f"settings of type {kind}")
        if not isinstance(value, str) or not value:
            raise ValueError("empty text")
        if "\0" in value:
            raise ValueError("text with a zero byte")
        try:
            return (self.directory / Path(value).expanduser()).absolute()
        except RuntimeError as error:
            raise ValueError("a home directory that does not exist") from error

    def _unknown(self, name: str, known: list[str], path: _Path) -> None:
        where = f"[{dotted(path)}]" if path else "the top level"
        hint = suggestion(name, known) or f"{where} takes {', '.join(known)}"
        self.found((*path, name), f"{dotted((*path, name))} is not a setting", hint)

    def _missing(self, key: Key, path: _Path) -> None:
        example = f"for example {key.meta.examples[0]!r}" if key.meta.examples else ""
        what = f"{dotted(path)} is missing and has no default"
        self.found(path, what, f"it must be {expected(key)}" + (f", {example}" if example else ""))

    def _wrong(self, key: Key, value: object, path: _Path, error: Exception) -> None:
        words = words_of(key.type)
        got, hint = _kind_of(value), ""
        if words and isinstance(value, str):
            got, hint = repr(value), suggestion(value, words)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            got = str(value)
        elif Path in (key.type, *get_args(key.type)) and isinstance(value, str):
            got = str(error)
        what = f"{dotted(path)} must be {expected(key)}, not {got}"
        if key.meta.pattern and isinstance(value, str):
            what = f"{dotted(path)} must be {expected(key)}"
        if isinstance(value, list) and get_origin(key.type) is list:
            what = f"{dotted(path)} must be {expected(key)}, and one of them is not"
        self.found(path, what, hint)


def _kind_of(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
        type(None): "nothing",
    }
    if isinstance(value, str) and not value:
        return "empty text"
    return names.get(type(value), "a date or time")


# --- where a key stands -------------------------------------------------------------------

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_KEY = rf"{_KEY_PART}(?:\s*\.\s*{_KEY_PART})*"
_TABLE_LINE = re.compile(rf"\s*\[(\[?)\s*({_KEY})\s*\]")
_KEY_LINE = re.compile(rf"\s*({_KEY})\s*=\s*(.*)")


def _key_lines(text: str) -> dict[_Path, int]:
    """Where each key and table header of a valid TOML text stands (a light scan, for messages)."""
    lines: dict[_Path, int] = {}
    counts: dict[_Path, int] = {}
    table: _Path = ()
    open_string = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if open_string:
            if open_string in line:
                open_string = ""
            continue
        header = _TABLE_LINE.match(line)
        entry = _KEY_LINE.match(line)
        if header:
            table = _numbered(_key_parts(header[2]), counts, begins=bool(header[1]))
            lines.setdefault(table, number)
        elif entry:
            lines.setdefault((*table, *_key_parts(entry[1])), number)
            for quote in ('"""', "'''"):
                if entry[2].startswith(quote) and quote not in entry[2][3:]:
                    open_string = quote
    return lines


def _numbered(table: _Path, counts: dict[_Path, int], *, begins: bool) -> _Path:
    """A table's path with the number of each list of tables that it leads through.

    counts: of the tables of each list so far.  begins: the header is that of a list's next.
    """
    path: _Path = ()
    for depth, part in enumerate(table, start=1):
        path = (*path, part)
        if begins and depth == len(table):
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = (*path, str(counts[path]))
    return path


def _key_parts(key: str) -> _Path:
    return tuple(part.strip("\"'") for part in re.findall(_KEY_PART, key))


def _line_of(lines: Mapping[_Path, int], path: _Path) -> int:
    """The line of `path`, or of the nearest thing around it; 0 if there is none."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
        # [a.b] makes the table `a` too.
        inside = [line for key, line in lines.items() if key[:length] == path[:length]]
        if inside:
            return min(inside)
    return 0
