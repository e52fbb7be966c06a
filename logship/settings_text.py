"""Settings as text: the commented file that `init` writes, and the tables of docs/settings.md.

Both are made from the `Section` structs, so neither can fall behind them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from logship.settings_schema import (
    Key,
    Section,
    dotted,
    expected,
    keys_of,
    named_sections_of,
    section_of,
)

_WIDTH = 88

Values = Mapping[str, object]
"""Dotted key → value, as `instances.main.port`: 5433."""

_NO_VALUES: Values = MappingProxyType({})


def render_commented(kind: type[Section], title: str, values: Values = _NO_VALUES) -> str:
    """A settings file of `kind` with every key explained.

    Keys in `values` and keys that are required or suggested stand as settings (the latter with
    their example); the others stand in comments with their defaults, or an example where they
    have none, and so does a named table for which there are no values.  Reading it back gives
    the defaults plus `values` plus the examples of the first.
    """
    lines = [f"# {line}" for line in textwrap.wrap(title, _WIDTH)]
    lines += ["# A line that starts with #name shows a default, or an example where there is none:"]
    lines += ["# remove the # to change it."]
    lines += _section_lines(kind, (), values)
    return "\n".join(lines) + "\n"


def _section_lines(kind: type[Section], path: tuple[str, ...], values: Values) -> Iterator[str]:
    keys = keys_of(kind)
    plain = [key for key in keys if not section_of(key.type) and not named_sections_of(key.type)]
    if path:
        yield ""
        yield from (f"# {line}" for line in textwrap.wrap(_doc(kind), _WIDTH))
        yield f"[{dotted(path)}]"
    for key in plain:
        yield ""
        yield from _key_lines(key, dotted((*path, key.name)), values)
    for key in keys:
        section, named = section_of(key.type), named_sections_of(key.type)
        if section is not None:
            inner = (*path, key.name)
            lines = _section_lines(section, inner, values)
            yield from lines if _is_used(key, dotted(inner), values) else _in_comments(lines)
        if named is not None:
            given = _names(dotted((*path, key.name)), values)
            for name in given or map(str, key.meta.examples or []):
                lines = _section_lines(named, (*path, key.name, name), values)
                yield from lines if given else _in_comments(lines)


def _is_used(key: Key, full_name: str, values: Values) -> bool:
    """Whether a subsection stands as settings: not if it may be left out, and is."""
    if key.required or key.default is not None or (key.meta.extra or {}).get("suggested"):
        return True
    return any(each.startswith(f"{full_name}.") for each in values)


def _in_comments(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("["):
            yield "# All of this may be left out.  To use it, remove the # of the next line too."
        yield line if not line or line.startswith("#") else f"#{line}"


def _names(prefix: str, values: Values) -> list[str]:
    """Of the named tables that have values."""
    given = [each[len(prefix) + 1 :].split(".")[0] for each in values if each.startswith(prefix)]
    return list(dict.fromkeys(given))


def _key_lines(key: Key, full_name: str, values: Values) -> Iterator[str]:
    description = f"{key.meta.description} ({expected(key)})"
    yield from (f"# {line}" for line in textwrap.wrap(description, _WIDTH))
    if full_name in values:
        yield f"{key.name} = {toml_value(values[full_name])}"
    elif key.meta.examples:
        # One that may be left out is not there by itself: it may name what this host has not.
        suggested = key.required or (key.meta.extra or {}).get("suggested")
        sign = "" if suggested else "#"
        yield f"{sign}{key.name} = {toml_value(key.meta.examples[0])}"
    elif key.default is None:
        yield f"#{key.name} ="
    else:
        yield f"#{key.name} = {toml_value(key.default)}"


def toml_value(value: object) -> str:
    """`value` as TOML writes it.  Raises TypeError for what no setting holds."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        # JSON's escapes are a subset of TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    if isinstance(value, dict):
        inner = ", ".join(f"{dotted((name,))} = {toml_value(v)}" for name, v in value.items())
        return "{ " + inner + " }" if inner else "{}"
    raise TypeError(f"no setting is a {type(value).__name__}")


def render_markdown(kind: type[Section]) -> str:
    """Every key of `kind` in Markdown tables, one for each section."""
    return "\n".join(_markdown_lines(kind, ())).strip() + "\n"


def _markdown_lines(
    kind: type[Section], path: tuple[str, ...], *, optional: bool = False
) -> Iterator[str]:
    keys = keys_of(kind)
    doc = _doc(kind) + (" May be left out." if optional else "")
    yield from ("", f"### `[{dotted(path)}]`" if path else "### Top level", "", doc, "")
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    for key in keys:
        if section_of(key.type) or named_sections_of(key.type):
            continue
        meaning = key.meta.description or ""
        cells = (f"`{key.name}`", expected(key), _default(key), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    for key in keys:
        section, named = section_of(key.type), named_sections_of(key.type)
        if section is not None:
            optional = not key.required and key.default is None
            yield from _markdown_lines(section, (*path, key.name), optional=optional)
        if named is not None:
            yield from _markdown_lines(named, (*path, key.name, "NAME"))


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "not set" if key.default is None else f"`{toml_value(key.default)}`"


def _doc(kind: type[Section]) -> str:
    return " ".join((kind.__doc__ or "").split())
