"""Settings from the environment: `LOGSHIP__SECTION__KEY` stands above the settings file's.

For containers, where a variable is easier to give than a file.  `LOGSHIP__LINK__LISTEN` is
`link.listen`, `LOGSHIP__INSTANCES__MAIN__PORT` is `instances.main.port`: between two underscores
stands one part of the dotted key, in any case.  Text is given as it is; numbers, true and false,
lists and tables as TOML writes them.  What a variable says is checked as a file's settings are.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from logship.settings_schema import Section, keys_of, section_of, without_none

PREFIX: Final = "LOGSHIP__"
_MISSPELT: Final = re.compile(r"LOGSHIP_.*__", re.IGNORECASE)
"""What can only be meant as a setting.  Orchestrators make variables of a service's name too
(LOGSHIP_APPLIER_SERVICE_HOST), with single underscores."""

_Path = tuple[str, ...]


class Merged(NamedTuple):
    """document: the settings file's, with what the environment says.  variables: the name of
    the variable that each key came from."""

    document: dict[str, Any]
    variables: Mapping[_Path, str]


def merge_environment(
    document: Mapping[str, Any], kind: type[Section], environment: Mapping[str, str]
) -> Merged:
    """`document` with the settings in `environment` put in; it is not changed itself.

    Where the document has no table for a variable's key to be in, it stays as it is: reading it
    says what is wrong.
    """
    merged = dict(document)
    variables: dict[_Path, str] = {}
    for name, text in sorted(environment.items()):
        if name.startswith(PREFIX):
            path = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        elif _MISSPELT.match(name):
            path = (name,)  # which is no setting: reading says so
        else:
            continue
        if _put(merged, path, _value(_type_of(kind, path), text)):
            variables[path] = name
    return Merged(merged, variables)


def _put(document: dict[str, Any], path: _Path, value: object) -> bool:
    """Whether there is a table for it.  The tables on the way to it are copied: they are the
    caller's, and how deep a file nests them is not for a recursion to find out."""
    table = document
    for part in path[:-1]:
        below = table.get(part, {})
        if not isinstance(below, dict):
            return False
        table[part] = dict(below)
        table = table[part]
    table[path[-1]] = value
    return True


def _type_of(kind: Any, path: _Path) -> Any:
    """The annotation of the key at `path`, str where there is no such key."""
    for part in path:
        section = section_of(kind)
        if section is not None:
            kind = next((key.type for key in keys_of(section) if key.name == part), str)
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else str
    return without_none(kind)


def _value(kind: Any, text: str) -> object:
    if kind in (str, Path) or get_origin(kind) is Literal:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return text
    # A line break may have begun another key.
    value = parsed.pop("value", text)
    return text if parsed or not isinstance(value, str | int | float | list | dict) else value
