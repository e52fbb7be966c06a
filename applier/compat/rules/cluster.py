"""Which cluster the WAL is of, and of which version of PostgreSQL."""

from __future__ import annotations

from applier.compat.case import BLOCK, PASS, WARN, Answer, Case, version
from logship.wal import PAGE_MAGIC

SUPPORTED_MAJORS = tuple(sorted(PAGE_MAGIC))


def system_identifier(case: Case) -> Answer:
    primary = str(case.primary.system_identifier)
    facts = case.standby.data_directory
    seeded = facts.system_identifier if facts is not None else None
    stored = case.expected.system_identifier if case.expected is not None else None
    # Both are compared: a store of the right cluster beside a data directory of another
    # (copied by hand) must not pass.
    others = [value for value in (stored, seeded) if value is not None]
    wrong = [value for value in others if value != case.primary.system_identifier]
    shown = str(wrong[0]) if wrong else (str(others[0]) if others else "")
    if not wrong:
        return Answer(PASS, primary, shown)
    if stored in (None, case.primary.system_identifier):
        remedy = "the data directory is another cluster's: replace it by a seed (applier seed NAME)"
    else:
        remedy = (
            "check which server the shipper reads from; if that cluster is to take this one's "
            f"place, on the recovery server: applier accept NAME {case.primary.incarnation}"
        )
    return Answer(BLOCK, primary, shown, remedy)


def supported_majors(case: Case) -> Answer:
    span = f"{SUPPORTED_MAJORS[0]}-{SUPPORTED_MAJORS[-1]}"
    if case.primary.major in SUPPORTED_MAJORS:
        return Answer(PASS, str(case.primary.major), span)
    return Answer(
        BLOCK, str(case.primary.major), span, "use a version of Logship that knows this major"
    )


def major(case: Case) -> Answer:
    primary, standby = case.primary.major, case.standby.major
    if case.expected is not None and case.expected.major != primary:
        return Answer(
            BLOCK,
            str(primary),
            str(case.expected.major),
            "check which server the shipper reads from: pg_upgrade gives a cluster another system "
            "identifier, and that one is seeded by itself when its shipper comes",
        )
    if primary == standby:
        return Answer(PASS, str(primary), str(standby))
    return Answer(
        BLOCK, str(primary), str(standby), f"install PostgreSQL {primary} on the recovery server"
    )


def minor_order(case: Case) -> Answer:
    primary = version(case.primary.server_version_num)
    standby = version(case.standby.server_version_num)
    if case.primary.major != case.standby.major or case.standby.minor >= case.primary.minor:
        return Answer(PASS, primary, standby)
    return Answer(
        BLOCK,
        primary,
        standby,
        f"install PostgreSQL {primary} or a later minor on the recovery server",
    )


def known_bad_minors(case: Case) -> Answer:
    primary = version(case.primary.server_version_num)
    standby = version(case.standby.server_version_num)
    found = [
        advisory
        for advisory in case.advisories
        if advisory.concerns(case.primary.server_version_num, case.standby.server_version_num)
    ]
    if not found:
        return Answer(PASS, primary, standby)
    reasons = "; ".join(f"{advisory.reason} (source: {advisory.source})" for advisory in found)
    # Several faults may have one remedy: the version that is free of all of them.
    fixed: dict[str, int] = {}
    for advisory in found:
        minor = advisory.fixed_minor(case.standby.major) or 0
        fixed[advisory.remedy] = max(minor, fixed.get(advisory.remedy, 0))
    remedies = (
        f"{remedy} ({case.standby.major}.{minor} or later)" for remedy, minor in fixed.items()
    )
    return Answer(WARN, primary, standby, "; ".join(remedies), f"{reasons}.")
