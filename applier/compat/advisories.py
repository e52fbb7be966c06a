"""Known-bad minor releases: read from `advisories.toml`, which is part of the package."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib

import msgspec


class Advisory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One known fault of PostgreSQL, and where it ends."""

    name: str
    fixed_in: tuple[str, ...]
    """First good minor of each affected major: `17.11`."""
    reason: str
    remedy: str
    source: str
    """Where this is known from."""

    def fixed_minor(self, major: int) -> int | None:
        """First good minor of `major`; None if `major` is not affected."""
        for version in self.fixed_in:
            fixed_major, _, minor = version.partition(".")
            if int(fixed_major) == major:
                return int(minor)
        return None

    def affects(self, major: int, minor: int) -> bool:
        fixed = self.fixed_minor(major)
        return fixed is not None and minor < fixed


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    advisory: tuple[Advisory, ...]


def parse_advisories(text: str) -> tuple[Advisory, ...]:
    """Read the file's TOML text.  Raises ValueError for anything that is not as described."""
    try:
        found = msgspec.convert(tomllib.loads(text), _File).advisory
    except msgspec.ValidationError as error:
        raise ValueError(f"advisories: {error}") from error
    for advisory in found:
        for version in advisory.fixed_in:
            major, dot, minor = version.partition(".")
            if not (dot and major.isdigit() and minor.isdigit()):
                raise ValueError(f"advisories: {advisory.name}: not a minor: {version!r}")
    return found


@functools.cache
def load_advisories() -> tuple[Advisory, ...]:
    """Those that this version of Logship ships with."""
    path = importlib.resources.files("applier.compat") / "advisories.toml"
    return parse_advisories(path.read_text(encoding="utf-8"))
