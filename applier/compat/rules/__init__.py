"""The rules of the version check, each a small function, by theme; here is their table.

A rule compares and returns an `Answer`; the table gives it its name, says why it exists and
whether an operator may override it.  What PostgreSQL itself would refuse to start on, or
would corrupt, can't be overridden.

What is not known of one side is not compared, and passes unless it blocked when it was known.
`primary-facts` and `host-facts` warn then.
"""

from __future__ import annotations

from applier.compat.case import Rule
from applier.compat.rules import (
    cluster,
    collations,
    facts,
    layout,
    libraries,
    parameters,
    tablespaces,
)

RULES: tuple[Rule, ...] = (
    Rule(
        "system-identifier",
        cluster.system_identifier,
        "WAL of one cluster replayed on the data of another destroys it.",
    ),
    Rule(
        "supported-majors",
        cluster.supported_majors,
        "Logship checks each WAL page against the format of its major, and knows these.",
    ),
    Rule("major", cluster.major, "WAL can be replayed by its own major only."),
    Rule(
        "minor-order",
        cluster.minor_order,
        "A newer minor may write WAL that an older one does not know: PostgreSQL asks that "
        "standbys are upgraded before their primary.",
        overridable=True,
    ),
    Rule(
        "known-bad-minors",
        cluster.known_bad_minors,
        "Some minor releases have faults that stop a standby or spoil what it has.",
    ),
    Rule(
        "catalog-version",
        layout.catalog_version,
        "The system catalogs are laid out differently, so the server would not start.",
    ),
    Rule(
        "control-file-version",
        layout.control_file_version,
        "The control file is laid out differently, so the server would not start.",
    ),
    Rule("block-size", layout.block_size, "Data pages are of another size."),
    Rule("wal-block-size", layout.wal_block_size, "WAL pages are of another size."),
    Rule(
        "wal-segment-size",
        layout.wal_segment_size,
        "WAL positions are cut into files differently, so the standby would not find them.",
    ),
    Rule(
        "relation-segment-size",
        layout.relation_segment_size,
        "Tables are cut into files differently, so blocks would be looked for in wrong files.",
    ),
    Rule("alignment", layout.alignment, "Rows are laid out differently in memory and on disk."),
    Rule(
        "float8", layout.float8, "Eight-byte values are passed differently; the server won't start."
    ),
    Rule(
        "architecture",
        layout.architecture,
        "PostgreSQL replays WAL on the architecture that wrote it only: byte order, the sign "
        "of char and index order may differ elsewhere.",
        overridable=True,
    ),
    Rule(
        "data-checksums",
        layout.data_checksums,
        "Replay works, but the standby verifies its pages by another rule than its primary "
        "until pg_checksums was run on both.",
    ),
    Rule(
        "parameter-floors",
        parameters.parameter_floors,
        "A standby that has less of one of these stops replaying, so it is always given the "
        "primary's values.",
    ),
    Rule(
        "primary-facts",
        facts.primary_facts,
        "What the shipper could not read from the primary is not compared.",
    ),
    Rule(
        "host-facts",
        facts.host_facts,
        "What the recovery server does not tell of itself is not compared.",
    ),
    Rule(
        "operating-system",
        collations.operating_system,
        "Other versions of libc and ICU may order text otherwise, and here nothing tells whether "
        "they do: a promoted server could miss rows that are there, or take duplicates.",
    ),
    Rule(
        "collation-versions",
        collations.collation_versions,
        "Indexes on text are in the order of the library that built them. By another version a "
        "promoted server could miss rows that are there, or take duplicates.",
    ),
    Rule(
        "locales",
        collations.locales,
        "PostgreSQL lets nobody connect to a database whose locale the host does not have, and a "
        "collation can't be used without its locale.",
        overridable=True,
    ),
    Rule(
        "preload-libraries",
        libraries.preload_libraries,
        "The primary loads it at its start: without it a promoted server does not do all that "
        "the primary did.",
        overridable=True,
    ),
    Rule(
        "resource-managers",
        libraries.resource_managers,
        "The WAL has records of a library's own, and PostgreSQL stops at the first one unless "
        "that library is preloaded.",
        overridable=True,
    ),
    Rule(
        "extension-libraries",
        libraries.extension_libraries,
        "After a promotion the functions of these extensions fail.",
    ),
    Rule(
        "extension-versions",
        libraries.extension_versions,
        "The library here may lack what the extension's objects in the database call.",
    ),
    Rule(
        "tablespaces",
        tablespaces.tablespaces,
        "Replay of CREATE TABLESPACE wants the primary's path on the recovery server. A standby "
        "that can't have it for itself is held there, and can't be promoted meanwhile.",
    ),
)

OVERRIDABLE_RULES = frozenset(rule.name for rule in RULES if rule.overridable)
