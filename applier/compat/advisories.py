"""Known-bad minor releases: read from `advisories.toml`, which is part of the package."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from typing import Literal

import msgspec

from logship.decoders import convert


class Advisory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One known fault of PostgreSQL, and where it ends.

    Versions are minors as `17.11`, one for each affected major.
    """

    name: str
    fixed_in: tuple[str, ...]
    """First good minors."""
    reason: str
    remedy: str
    source: str
    """Where this is known from."""
    introduced_in: tuple[str, ...] = ()
    """First bad minors; none: it was there from the major's first release on."""
    side: Literal["standby", "primary"] = "standby"
    """Whose minor counts."""
    primary_before: tuple[str, ...] = ()
    """Only WAL that a primary before these minors wrote meets the fault; none: all WAL does."""

    def fixed_minor(self, major: int) -> int | None:
        """First good minor of `major`; None if `major` is not affected."""
        return _minor_of(self.fixed_in, major)

    def affects(self, major: int, minor: int) -> bool:
        """Whether a server of this version has the fault."""
        fixed = self.fixed_minor(major)
        introduced = _minor_of(self.introduced_in, major) or 0
        return fixed is not None and introduced <= minor < fixed

    def concerns(self, primary_version_num: int, standby_version_num: int) -> bool:
        """Whether this primary and this standby meet it together."""
        primary, standby = divmod(primary_version_num, 10000), divmod(standby_version_num, 10000)
        if not self.affects(*(primary if self.side == "primary" else standby)):
            return False
        before = _minor_of(self.primary_before, primary[0])
        return not self.primary_before or (before is not None and primary[1] < before)


def _minor_of(versions: tuple[str, ...], major: int) -> int | None:
    for version in versions:
        found_major, _, minor = version.partition(".")
        if int(found_major) == major:
            return int(minor)
    return None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    advisory: tuple[Advisory, ...]


def parse_advisories(text: str) -> tuple[Advisory, ...]:
    """Read the file's TOML text.  Raises ValueError for anything that is not as described."""
    try:
        found = convert(tomllib.loads(text), _File).advisory
    except msgspec.ValidationError as error:
        raise ValueError(f"advisories: {error}") from error
    for advisory in found:
        for version in (*advisory.fixed_in, *advisory.introduced_in, *advisory.primary_before):
            major, dot, minor = version.partition(".")
            if not (dot and major.isdigit() and minor.isdigit()):
                raise ValueError(f"advisories: {advisory.name}: not a minor: {version!r}")
    return found


@functools.cache
def load_advisories() -> tuple[Advisory, ...]:
    """Those that this version of Logship ships with."""
    path = importlib.resources.files("applier.compat") / "advisories.toml"
    return parse_advisories(path.read_text(encoding="utf-8"))
