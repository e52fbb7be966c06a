"""The rules of the version check: one small function each, listed in a table.

A rule compares and returns an `_Answer`; the table gives it its name, says why it exists and
whether an operator may override it.  What PostgreSQL itself would refuse to start on, or
would corrupt, can't be overridden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from applier.compat.advisories import Advisory, load_advisories
from applier.compat.profiles import StandbyProfile
from applier.compat.verdict import Finding, Outcome, Verdict
from logship.errors import Code, UsageError
from logship.identity import Incarnation, Profile
from logship.wal import PAGE_MAGIC

SUPPORTED_MAJORS = tuple(sorted(PAGE_MAGIC))

PASS, WARN, BLOCK = Outcome.PASS, Outcome.WARN, Outcome.BLOCK


class Case(NamedTuple):
    """Everything that a rule may look at."""

    primary: Profile
    standby: StandbyProfile
    expected: Incarnation | None
    advisories: tuple[Advisory, ...]


class _Answer(NamedTuple):
    outcome: Outcome
    primary: str
    standby: str
    remedy: str = ""
    why: str = ""
    """Instead of the rule's own, where the reason depends on what was found."""


class Rule(NamedTuple):
    name: str
    compare: Callable[[Case], _Answer]
    why: str
    overridable: bool = False


def check(
    primary: Profile,
    standby: StandbyProfile,
    expected_incarnation: Incarnation | None,
    overrides: frozenset[str] = frozenset(),
    *,
    advisories: tuple[Advisory, ...] | None = None,
) -> Verdict:
    """Compare a primary with the standby that would replay its WAL.

    expected_incarnation: what the instance's store and seed are of; None before the first.
    overrides: names of rules whose block counts as a warning; names of rules that can't be
    overridden have no effect (`check_override_names` refuses them where they are configured).
    advisories: known-bad minors, by default those that ship with Logship.

    The caller must not start the standby while the verdict is `blocked`, must go on receiving
    and storing, and asks again when the profile, the installation or the settings change.
    """
    known = load_advisories() if advisories is None else advisories
    case = Case(primary, standby, expected_incarnation, known)
    return Verdict(tuple(_apply(rule, case, overrides) for rule in RULES))


def _apply(rule: Rule, case: Case, overrides: frozenset[str]) -> Finding:
    answer = rule.compare(case)
    overridden = answer.outcome is BLOCK and rule.overridable and rule.name in overrides
    remedy = answer.remedy
    if answer.outcome is BLOCK and rule.overridable and not overridden:
        remedy += f"; or override the rule by its name, {rule.name}, for this instance"
    return Finding(
        rule=rule.name,
        outcome=WARN if overridden else answer.outcome,
        primary=answer.primary,
        standby=answer.standby,
        why=answer.why or rule.why,
        remedy=remedy,
        overridden=overridden,
    )


def check_override_names(names: frozenset[str]) -> frozenset[str]:
    """Return `names` if each may be overridden, else raise UsageError(SETTINGS)."""
    for name in sorted(names - OVERRIDABLE_RULES):
        known = any(rule.name == name for rule in RULES)
        raise UsageError(
            Code.SETTINGS,
            f"the version rule {name!r} can't be overridden"
            if known
            else f"there is no version rule {name!r}",
            f"rules that may be overridden: {', '.join(sorted(OVERRIDABLE_RULES))}",
        )
    return names


# --- the rules ----------------------------------------------------------------------------


def _system_identifier(case: Case) -> _Answer:
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
        return _Answer(PASS, primary, shown)
    return _Answer(
        BLOCK,
        primary,
        shown,
        "check which server the shipper reads from; if the cluster was restored or replaced "
        "on purpose, seed it anew",
    )


def _supported_major(case: Case) -> _Answer:
    span = f"{SUPPORTED_MAJORS[0]}-{SUPPORTED_MAJORS[-1]}"
    if case.primary.major in SUPPORTED_MAJORS:
        return _Answer(PASS, str(case.primary.major), span)
    return _Answer(
        BLOCK, str(case.primary.major), span, "use a version of Logship that knows this major"
    )


def _major(case: Case) -> _Answer:
    primary, standby = case.primary.major, case.standby.major
    if case.expected is not None and case.expected.major != primary:
        return _Answer(
            BLOCK,
            str(primary),
            str(case.expected.major),
            "a major upgrade makes a new cluster: seed it anew",
        )
    if primary == standby:
        return _Answer(PASS, str(primary), str(standby))
    return _Answer(
        BLOCK, str(primary), str(standby), f"install PostgreSQL {primary} on the recovery server"
    )


def _minor_order(case: Case) -> _Answer:
    primary = _version(case.primary.server_version_num)
    standby = _version(case.standby.server_version_num)
    if case.primary.major != case.standby.major or case.standby.minor >= case.primary.minor:
        return _Answer(PASS, primary, standby)
    return _Answer(
        BLOCK,
        primary,
        standby,
        f"install PostgreSQL {primary} or a later minor on the recovery server",
    )


def _known_bad_minors(case: Case) -> _Answer:
    primary = _version(case.primary.server_version_num)
    standby = _version(case.standby.server_version_num)
    found = [a for a in case.advisories if a.affects(case.standby.major, case.standby.minor)]
    if not found:
        return _Answer(PASS, primary, standby)
    major = case.standby.major
    fixed = max(advisory.fixed_minor(major) or 0 for advisory in found)
    reasons = "; ".join(f"{advisory.reason} (source: {advisory.source})" for advisory in found)
    remedies = "; ".join(dict.fromkeys(advisory.remedy for advisory in found))
    return _Answer(WARN, primary, standby, f"{remedies} ({major}.{fixed} or later)", f"{reasons}.")


def _catalog_version(case: Case) -> _Answer:
    return _equal(
        case.primary.catalog_version,
        case.standby.catalog_version,
        "install the same PostgreSQL on both sides: one of the two is a beta or a fork",
    )


def _control_version(case: Case) -> _Answer:
    return _equal(
        case.primary.control_version,
        case.standby.control_version,
        "install the same PostgreSQL on both sides: one of the two is a beta or a fork",
    )


def _block_size(case: Case) -> _Answer:
    return _equal(
        case.primary.block_size, case.standby.block_size, _built_alike("--with-blocksize")
    )


def _wal_block_size(case: Case) -> _Answer:
    return _equal(
        case.primary.wal_block_size,
        case.standby.wal_block_size,
        _built_alike("--with-wal-blocksize"),
    )


def _relation_segment_size(case: Case) -> _Answer:
    return _equal(
        case.primary.segment_size, case.standby.segment_size, _built_alike("--with-segsize")
    )


def _wal_segment_size(case: Case) -> _Answer:
    facts = case.standby.data_directory
    if facts is None:
        return _Answer(PASS, str(case.primary.wal_segment_size), "")
    return _equal(
        case.primary.wal_segment_size,
        facts.wal_segment_size,
        "pg_resetwal changed the primary's WAL segment size: seed it anew",
    )


def _alignment(case: Case) -> _Answer:
    return _equal(
        case.primary.alignment,
        case.standby.alignment,
        "use a recovery server of the primary's architecture",
    )


def _float8(case: Case) -> _Answer:
    words = {True: "by value", False: "by reference"}
    return _equal(
        words[case.primary.float8_by_value],
        words[case.standby.float8_by_value],
        _built_alike("--disable-float8-byval"),
    )


def _architecture(case: Case) -> _Answer:
    primary, standby = case.primary.architecture, case.standby.architecture
    if not primary or not standby:
        return _Answer(
            WARN,
            primary or "unknown",
            standby or "unknown",
            "compare the output of uname -m on both hosts",
        )
    return _equal(
        _architecture_family(primary),
        _architecture_family(standby),
        f"use a recovery server of architecture {primary}",
    )


def _data_checksums(case: Case) -> _Answer:
    words = {True: "on", False: "off"}
    primary = words[case.primary.data_checksums]
    facts = case.standby.data_directory
    if facts is None:
        return _Answer(PASS, primary, "")
    standby = words[facts.data_checksums]
    if primary == standby:
        return _Answer(PASS, primary, standby)
    verb = "--enable" if case.primary.data_checksums else "--disable"
    return _Answer(
        WARN, primary, standby, f"stop the standby and run pg_checksums {verb} on it, or reseed"
    )


def _equal(primary: object, standby: object, remedy: str) -> _Answer:
    if primary == standby:
        return _Answer(PASS, str(primary), str(standby))
    return _Answer(BLOCK, str(primary), str(standby), remedy)


def _built_alike(option: str) -> str:
    return f"install a PostgreSQL that was configured with the primary's value of {option}"


def _architecture_family(machine: str) -> str:
    # Two names of one architecture: `uname -m` differs between operating systems.
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())


def _version(version_num: int) -> str:
    return f"{version_num // 10000}.{version_num % 10000}"


RULES: tuple[Rule, ...] = (
    Rule(
        "system-identifier",
        _system_identifier,
        "WAL of one cluster replayed on the data of another destroys it.",
    ),
    Rule(
        "supported-majors",
        _supported_major,
        "Logship checks each WAL page against the format of its major, and knows these.",
    ),
    Rule("major", _major, "WAL can be replayed by its own major only."),
    Rule(
        "minor-order",
        _minor_order,
        "A newer minor may write WAL that an older one does not know: PostgreSQL asks that "
        "standbys are upgraded before their primary.",
        overridable=True,
    ),
    Rule(
        "known-bad-minors",
        _known_bad_minors,
        "Some minor releases have faults that stop a standby.",
    ),
    Rule(
        "catalog-version",
        _catalog_version,
        "The system catalogs are laid out differently, so the server would not start.",
    ),
    Rule(
        "control-file-version",
        _control_version,
        "The control file is laid out differently, so the server would not start.",
    ),
    Rule("block-size", _block_size, "Data pages are of another size."),
    Rule("wal-block-size", _wal_block_size, "WAL pages are of another size."),
    Rule(
        "wal-segment-size",
        _wal_segment_size,
        "WAL positions are cut into files differently, so the standby would not find them.",
    ),
    Rule(
        "relation-segment-size",
        _relation_segment_size,
        "Tables are cut into files differently, so blocks would be looked for in wrong files.",
    ),
    Rule("alignment", _alignment, "Rows are laid out differently in memory and on disk."),
    Rule("float8", _float8, "Eight-byte values are passed differently; the server won't start."),
    Rule(
        "architecture",
        _architecture,
        "PostgreSQL replays WAL on the architecture that wrote it only: byte order, the sign "
        "of char and index order may differ elsewhere.",
        overridable=True,
    ),
    Rule(
        "data-checksums",
        _data_checksums,
        "Replay works, but the standby verifies its pages by another rule than its primary "
        "until pg_checksums was run on both.",
    ),
)

OVERRIDABLE_RULES = frozenset(rule.name for rule in RULES if rule.overridable)
