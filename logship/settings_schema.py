"""What a settings file may hold: sections, and what is known of their keys.

The annotations of a `Section` carry everything there is to know about a key: its type, its
limits, what it means (`Meta.description`), an example for a key without a default
(`Meta.examples`), and in `Meta.extra` how to name its shape in messages ("shape"), a look
at its value ("check") and, for a table of named things, at each name ("check_name") or at
each (name, value) ("check_entry").  A subsection that may be left out, and the example of
such a key, stand in comments in what `init` writes, unless "suggested" is true.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta

Check = Callable[[str, Any], Iterator[tuple[str, str]]]
"""A look at one value that is of the right type: yields (what is wrong, hint).

Called with the dotted key and the value.
"""


class Contradiction(NamedTuple):
    """Values that are fine one by one and not together.  `key` is relative to the section."""

    key: tuple[str, ...]
    what: str
    hint: str


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of a settings file.  The docstring of each subclass is shown to operators."""

    def contradictions(self) -> Iterator[Contradiction]:
        """What is wrong with this section as a whole, its subsections being valid."""
        return iter(())


class Key(NamedTuple):
    """One key of a section, as its annotation describes it."""

    name: str
    type: Any
    """Without the annotation."""
    meta: Meta
    required: bool
    default: Any
    """What stands when the key is absent; None if `required`."""


def keys_of(kind: type[Section]) -> list[Key]:
    """The keys of a section, in the order of its definition."""
    keys = []
    for field in msgspec.structs.fields(kind):
        plain, meta = _unwrap(field.type)
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        keys.append(
            Key(field.name, plain, meta, field.required, None if field.required else default)
        )
    return keys


def section_of(kind: Any) -> type[Section] | None:
    """X if `kind` is a subsection's type X, or `X | None`: a table that may be left out."""
    kind = without_none(kind)
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def named_sections_of(kind: Any) -> type[Section] | None:
    """X if `kind` is dict[str, X] and X a section: a table of named tables."""
    if get_origin(kind) is dict:
        return section_of(get_args(kind)[1])
    return None


def listed_sections_of(kind: Any) -> type[Section] | None:
    """X if `kind` is list[X] and X a section: a list of tables."""
    if get_origin(kind) is list:
        return section_of(get_args(kind)[0])
    return None


def _unwrap(annotated: Any) -> tuple[Any, Meta]:
    if get_origin(annotated) is Annotated:
        plain, *rest = get_args(annotated)
        metas = [each for each in rest if isinstance(each, Meta)]
        return plain, metas[0] if metas else Meta()
    return annotated, Meta()


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def without_none(kind: Any) -> Any:
    """X for `X | None`: TOML has no null, so only a default can be None."""
    rest = [each for each in get_args(kind) if each is not types.NoneType]
    return rest[0] if types.NoneType in get_args(kind) and len(rest) == 1 else kind


def dotted(path: tuple[str, ...]) -> str:
    """`link.address`; a part that TOML would quote is quoted."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else f'"{part}"' for part in path)


def words_of(kind: Any) -> list[str]:
    """The words that a Literal key takes, also one that may be left out; none for other types."""
    kind = without_none(kind)
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else []


def expected(key: Key) -> str:
    """What a value of this key must be, for messages and docs."""
    words = words_of(key.type)
    if words:
        return "one of " + ", ".join(f'"{word}"' for word in words)
    origin, args = get_origin(key.type), get_args(key.type)
    if origin in (Union, types.UnionType):
        rest = [each for each in args if each is not types.NoneType]
        return " or ".join(_type_words(each, key.meta) for each in rest)
    if origin is list:
        return f"a list, each {_type_words(_unwrap(args[0])[0], Meta())}"
    if origin is dict:
        return "a table"
    return _type_words(key.type, key.meta)


def _type_words(kind: Any, meta: Meta) -> str:
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _limits(meta)
    if kind is bool:
        return "true or false"
    if kind is Path:
        return "a path"
    if kind is str:
        shape = (meta.extra or {}).get("shape")
        return str(shape) if shape else "non-empty text" if meta.min_length else "text"
    return "a table"


def _limits(meta: Meta) -> str:
    low = meta.ge if meta.ge is not None else meta.gt
    if low is not None and meta.le is not None:
        return f" from {low} to {meta.le}" if meta.gt is None else f" above {low} up to {meta.le}"
    if meta.gt is not None:
        return f" above {meta.gt}"
    if meta.ge is not None:
        return f" of at least {meta.ge}"
    return f" up to {meta.le}" if meta.le is not None else ""
