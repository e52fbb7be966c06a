"""A primary's profile as text for a person.  Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from logship.environment import DatabaseFacts, Environment
from logship.identity import Profile

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_NOT_KNOWN = "not known"


def render_profile(profile: Profile, width: int = 100) -> str:
    """A line for each fact, wrapped, then a row for each database."""
    facts = [*_server(profile), *_surroundings(profile.environment)]
    label_width = max(len(label) for label, _ in facts)
    lines: list[str] = []
    for label, value in facts:
        lines += textwrap.wrap(
            f"{label:<{label_width}}  {value}",
            width,
            subsequent_indent=" " * (label_width + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    if profile.environment is not None and profile.environment.databases:
        lines += ["", *_databases(profile.environment.databases)]
    return "\n".join(lines)


def _server(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "PostgreSQL", f"{profile.major}.{profile.minor}, {profile.architecture or _NOT_KNOWN}"
    yield "system identifier", str(profile.system_identifier)
    yield (
        "format",
        f"catalog {profile.catalog_version}, pg_control {profile.control_version}, blocks of "
        f"{profile.block_size}, WAL blocks of {profile.wal_block_size}, WAL segments of "
        f"{profile.wal_segment_size}, relation segments of {profile.segment_size} bytes, "
        f"alignment {profile.alignment}",
    )
    yield "data checksums", "on" if profile.data_checksums else "off"
    yield (
        "parameters",
        f"max_connections {profile.max_connections}, max_worker_processes "
        f"{profile.max_worker_processes}, max_wal_senders {profile.max_wal_senders}, "
        f"max_prepared_transactions {profile.max_prepared_transactions}, "
        f"max_locks_per_transaction {profile.max_locks_per_transaction}, track_commit_timestamp "
        f"{'on' if profile.track_commit_timestamp else 'off'}, wal_level {profile.wal_level}",
    )
    yield "bootstrap superuser", profile.bootstrap_superuser


def _surroundings(environment: Environment | None) -> Iterator[tuple[str, str]]:
    if environment is None:
        yield "not read", "anything of what surrounds it"
        return
    yield "operating system", environment.operating_system or _NOT_KNOWN
    yield "libc", environment.libc or _NOT_KNOWN
    yield "ICU", environment.icu or _NOT_KNOWN
    yield "preloaded libraries", ", ".join(environment.preload_libraries) or "none"
    if environment.resource_managers:
        yield (
            "resource managers",
            ", ".join(f"{name} ({number})" for number, name in environment.resource_managers),
        )
    if environment.tablespaces:
        yield (
            "tablespaces",
            ", ".join(f"{each.name} in {each.location}" for each in environment.tablespaces),
        )
    if not environment.is_complete:
        yield "not read", ", ".join(environment.unread)


def _databases(databases: Iterable[DatabaseFacts]) -> Iterator[str]:
    header = ("database", "encoding", "order of text", "collations in use", "extensions")
    rows = [
        (
            each.name,
            each.encoding,
            _order(each.provider, each.collate, each.actual_version),
            ", ".join(
                f"{one.name} ({_order(one.provider, one.locale, one.actual_version)})"
                for one in each.collations
            )
            or "-",
            ", ".join(f"{one.name} {one.version}" for one in each.extensions) or "-",
        )
        for each in databases
    ]
    columns = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (cell.ljust(size) for cell, size in zip(row, columns, strict=True))
        yield "  ".join(cells).rstrip()


def _order(provider: str, locale: str, version: str) -> str:
    return " ".join(filter(None, (_PROVIDERS.get(provider, provider), locale, version)))
