"""What only a running standby can tell, compared: the rules beside `rules.RULES`.

A standby replays whatever its libraries are like; who opens it reads what they order, and runs
what they compute.  So nothing here blocks: it is told before a promotion, with what to do after.
"""

from __future__ import annotations

import msgspec

from applier.compat.verdict import Finding, Outcome

MOST_NAMED = 5
"""More indexes than this are not named one by one."""
MOST_SHOWN = 10
"""Collations, or libraries, that are told of at a time."""

COLLATIONS = "standby-collations"
LIBRARIES = "standby-libraries"

_WHY_COLLATIONS = (
    "An index is searched in the order that it was built in: where this server's library orders "
    "text otherwise, rows are not found, and unique indexes let doubles in."
)
_WHY_LIBRARIES = "Functions and types of a library that does not load fail after a promotion."


class OtherVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A collation whose recorded version is not what the standby's library says."""

    database: str
    """As SQL writes it, like all names here."""
    collation: str
    """`public.german`; "": the database's own."""
    recorded: str
    actual: str
    """"": the library tells none."""
    indexes: tuple[str, ...]
    """Sorted; `MOST_NAMED` and one more at most."""


class UnloadableLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """A library of functions that the server could not load."""

    database: str
    library: str
    why: str


class LiveFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a look into every database of a running standby found."""

    databases: int = 0
    """That were looked into."""
    collations: tuple[OtherVersion, ...] = ()
    libraries: tuple[UnloadableLibrary, ...] = ()
    unread: tuple[str, ...] = ()
    """Databases that could not be looked into, each with why."""


def live_findings(facts: LiveFacts) -> tuple[Finding, ...]:
    """One finding for each of the two rules.  Neither blocks.

    A database that was not looked into is no pass: nobody knows.
    """
    return (_collations(facts), _libraries(facts))


def _collations(facts: LiveFacts) -> Finding:
    looked = _looked(facts)
    found = facts.collations[:MOST_SHOWN]
    if not found:
        return _unknown_or_pass(COLLATIONS, _WHY_COLLATIONS, looked, facts.unread)
    return Finding(
        COLLATIONS,
        Outcome.WARN,
        ", ".join(f"{_named(each)} {each.recorded}" for each in found),
        ", ".join(f"{_named(each)} {each.actual or 'of no version'}" for each in found),
        _WHY_COLLATIONS,
        "install the primary's version of the library that orders text (the C library or ICU), "
        "or once promoted, "
        + "; ".join(f"in database {each.database}: {_rebuild(each)}" for each in found)
        + _more(len(facts.collations) - len(found)),
    )


def _more(count: int) -> str:
    return f"; then look again, for {count} more" if count else ""


def _looked(facts: LiveFacts) -> str:
    return f"{facts.databases} database{'' if facts.databases == 1 else 's'}"


def _named(each: OtherVersion) -> str:
    return f"{each.database}/{each.collation or 'default'}"


def _rebuild(each: OtherVersion) -> str:
    """The statements that make the database agree with the library."""
    if len(each.indexes) > MOST_NAMED:
        statements = [f"REINDEX DATABASE {each.database}"]
    else:
        statements = [f"REINDEX INDEX {index}" for index in each.indexes]
    if each.collation:
        statements.append(f"ALTER COLLATION {each.collation} REFRESH VERSION")
    else:
        statements.append(f"ALTER DATABASE {each.database} REFRESH COLLATION VERSION")
    return ", ".join(statements)


def _libraries(facts: LiveFacts) -> Finding:
    looked = _looked(facts)
    found = facts.libraries[:MOST_SHOWN]
    if not found:
        return _unknown_or_pass(LIBRARIES, _WHY_LIBRARIES, looked, facts.unread)
    names = sorted({each.library for each in found})
    return Finding(
        LIBRARIES,
        Outcome.WARN,
        ", ".join(f"{each.database}/{each.library}" for each in found),
        "; ".join(f"{each.library}: {each.why}" for each in found),
        _WHY_LIBRARIES,
        f"install what has {', '.join(names)} for this PostgreSQL on the recovery server"
        + _more(len(facts.libraries) - len(found)),
    )


def _unknown_or_pass(rule: str, why: str, looked: str, unread: tuple[str, ...]) -> Finding:
    if not unread:
        return Finding(rule, Outcome.PASS, looked, "as recorded", why)
    return Finding(
        rule,
        Outcome.WARN,
        looked,
        f"not looked into: {'; '.join(unread)}",
        why,
        "look at the standby's log; it is looked again by itself",
    )
