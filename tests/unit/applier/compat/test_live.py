"""What a running standby says of itself, judged: told with what to do, never a block."""

from __future__ import annotations

from applier.compat import (
    Finding,
    LiveFacts,
    OtherVersion,
    Outcome,
    UnloadableLibrary,
    live_findings,
)
from applier.compat.live import MOST_NAMED, MOST_SHOWN


def judged(facts: LiveFacts) -> tuple[Finding, Finding]:
    collations, libraries = live_findings(facts)
    assert (collations.rule, libraries.rule) == ("standby-collations", "standby-libraries")
    return collations, libraries


def other(collation: str, *indexes: str, database: str = "app") -> OtherVersion:
    return OtherVersion(
        database=database, collation=collation, recorded="1.1", actual="2.2", indexes=indexes
    )


def test_what_is_as_recorded_passes() -> None:
    for finding in judged(LiveFacts(databases=3)):
        assert (finding.outcome, finding.remedy) == (Outcome.PASS, "")
        assert finding.primary == "3 databases"


def test_a_collation_of_another_version_warns_with_the_statements_that_mend_it() -> None:
    facts = LiveFacts(
        databases=2,
        collations=(
            other("", "public.a", "public.b"),
            other('public."de"', "public.c", database='"B"'),
        ),
    )
    collations, libraries = judged(facts)
    assert collations.outcome is Outcome.WARN
    assert collations.primary == 'app/default 1.1, "B"/public."de" 1.1'
    assert collations.standby == 'app/default 2.2, "B"/public."de" 2.2'
    assert collations.remedy == (
        "install the primary's version of the library that orders text (the C library or ICU), "
        "or once promoted, in database app: REINDEX INDEX public.a, REINDEX INDEX public.b, "
        'ALTER DATABASE app REFRESH COLLATION VERSION; in database "B": REINDEX INDEX public.c, '
        'ALTER COLLATION public."de" REFRESH VERSION'
    )
    assert libraries.outcome is Outcome.PASS


def test_many_indexes_are_rebuilt_all_at_once() -> None:
    many = [f"public.i{number}" for number in range(MOST_NAMED + 1)]
    collations, _ = judged(LiveFacts(databases=1, collations=(other("", *many),)))
    assert "REINDEX DATABASE app, ALTER DATABASE app REFRESH" in collations.remedy
    assert "public.i0" not in collations.remedy


def test_of_very_many_the_first_are_told() -> None:
    many = tuple(other("", "a.b", database=f"d{number}") for number in range(MOST_SHOWN + 3))
    collations, _ = judged(LiveFacts(databases=99, collations=many))
    assert collations.remedy.endswith("; then look again, for 3 more")
    assert collations.standby.count(" 2.2") == MOST_SHOWN


def test_a_library_without_a_version_is_told_so() -> None:
    gone = OtherVersion(database="app", collation="", recorded="1.1", actual="", indexes=("a.b",))
    collations, _ = judged(LiveFacts(databases=1, collations=(gone,)))
    assert collations.standby == "app/default of no version"


def test_a_library_that_does_not_load_warns_with_why() -> None:
    broken = UnloadableLibrary(database="app", library="$libdir/hstore", why="no such file")
    collations, libraries = judged(LiveFacts(databases=1, libraries=(broken,)))
    assert collations.outcome is Outcome.PASS
    assert libraries.outcome is Outcome.WARN
    assert libraries.primary == "app/$libdir/hstore"
    assert libraries.standby == "$libdir/hstore: no such file"
    assert libraries.remedy == (
        "install what has $libdir/hstore for this PostgreSQL on the recovery server"
    )


def test_a_database_that_was_not_looked_into_is_no_pass() -> None:
    for finding in judged(LiveFacts(databases=1, unread=("app (no answer in 10 s)",))):
        assert finding.outcome is Outcome.WARN
        assert finding.standby == "not looked into: app (no answer in 10 s)"
        assert finding.remedy == "look at the standby's log; it is looked again by itself"
