"""How bytes lie on disk and in memory, and which processor reads them."""

from __future__ import annotations

from applier.compat.case import BLOCK, PASS, WARN, Answer, Case, equal

_SAME_POSTGRESQL = "install the same PostgreSQL on both sides: one of the two is a beta or a fork"


def catalog_version(case: Case) -> Answer:
    return equal(case.primary.catalog_version, case.standby.catalog_version, _alike(case))


def control_file_version(case: Case) -> Answer:
    return equal(case.primary.control_version, case.standby.control_version, _alike(case))


def _alike(case: Case) -> str:
    if case.primary.major != case.standby.major:
        return (
            f"install PostgreSQL {case.primary.major} on the recovery server: majors differ in it"
        )
    return _SAME_POSTGRESQL


def block_size(case: Case) -> Answer:
    return equal(case.primary.block_size, case.standby.block_size, _built_alike("--with-blocksize"))


def wal_block_size(case: Case) -> Answer:
    return equal(
        case.primary.wal_block_size,
        case.standby.wal_block_size,
        _built_alike("--with-wal-blocksize"),
    )


def relation_segment_size(case: Case) -> Answer:
    return equal(
        case.primary.segment_size, case.standby.segment_size, _built_alike("--with-segsize")
    )


def wal_segment_size(case: Case) -> Answer:
    facts = case.standby.data_directory
    if facts is None:
        return Answer(PASS, str(case.primary.wal_segment_size), "")
    return equal(
        case.primary.wal_segment_size,
        facts.wal_segment_size,
        "pg_resetwal changed the primary's WAL segment size: protect it under another instance "
        "name, for a store keeps one size",
    )


def alignment(case: Case) -> Answer:
    return equal(
        case.primary.alignment,
        case.standby.alignment,
        "use a recovery server of the primary's architecture",
    )


def float8(case: Case) -> Answer:
    words = {True: "by value", False: "by reference"}
    return equal(
        words[case.primary.float8_by_value],
        words[case.standby.float8_by_value],
        _built_alike("--disable-float8-byval"),
    )


def architecture(case: Case) -> Answer:
    # A shipper that went to another host does not know it any more.
    primary = case.primary.architecture or next(iter(case.lacked), "")
    standby = case.standby.architecture
    if not primary or not standby:
        return Answer(
            WARN,
            primary or "unknown",
            standby or "unknown",
            "compare the output of uname -m on both hosts",
        )
    answer = equal(
        _architecture_family(primary),
        _architecture_family(standby),
        f"use a recovery server of architecture {primary}",
    )
    return answer._replace(lacking=(primary,)) if answer.outcome is BLOCK else answer


def data_checksums(case: Case) -> Answer:
    words = {True: "on", False: "off"}
    primary = words[case.primary.data_checksums]
    facts = case.standby.data_directory
    if facts is None:
        return Answer(PASS, primary, "")
    standby = words[facts.data_checksums]
    if primary == standby:
        return Answer(PASS, primary, standby)
    verb = "--enable" if case.primary.data_checksums else "--disable"
    return Answer(
        WARN,
        primary,
        standby,
        "stop the standby (applier change NAME --set run_standby=false), run pg_checksums "
        f"{verb} on its data directory and take run_standby back (--unset run_standby); or seed "
        "it anew: applier seed NAME",
    )


def _built_alike(option: str) -> str:
    return f"install a PostgreSQL that was configured with the primary's value of {option}"


def _architecture_family(machine: str) -> str:
    # Two names of one architecture: `uname -m` differs between operating systems.
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())
