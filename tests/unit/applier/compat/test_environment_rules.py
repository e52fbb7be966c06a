"""The rules about what surrounds the two servers: collations, locales, libraries, parameters."""

from __future__ import annotations

import msgspec
import pytest

from applier.compat import (
    CollationVersion,
    Finding,
    HostFacts,
    Lack,
    Outcome,
    StandbyProfile,
    check,
    mending_statements,
    used_collations,
)
from logship.environment import (
    CollationFacts,
    DatabaseFacts,
    Environment,
    ExtensionFacts,
    TablespaceFacts,
)
from logship.identity import Profile

GERMAN = CollationFacts(
    name='"de-x-icu"',
    provider="i",
    locale="de",
    recorded_version="153.120",
    actual_version="153.120",
)
ORDERS = DatabaseFacts(
    name="orders",
    encoding="UTF8",
    provider="c",
    collate="de_DE.UTF-8",
    ctype="de_DE.UTF-8",
    recorded_version="2.36",
    actual_version="2.36",
    collations=(GERMAN,),
    extensions=(
        ExtensionFacts(name="hstore", version="1.8", libraries=("$libdir/hstore",)),
        ExtensionFacts(name="plain", version="1.0"),
    ),
)
PLAIN = DatabaseFacts(
    name="postgres",
    encoding="UTF8",
    provider="c",
    collate="C",
    ctype="C",
    recorded_version="",
    actual_version="",
)
ENVIRONMENT = Environment(
    operating_system="Debian GNU/Linux 12 (bookworm)",
    libc="glibc 2.36",
    icu="72",
    preload_libraries=("pg_stat_statements",),
    databases=(ORDERS, PLAIN),
)
NOTHING_READ = Environment(is_complete=False, unread=("the system catalogs",))
HOST = HostFacts(
    operating_system="Debian GNU/Linux 12 (bookworm)",
    libc="glibc 2.36",
    icu="72",
    libraries=frozenset({"hstore", "pg_stat_statements"}),
    extensions={"hstore": ("1.7", "1.8"), "plain": ("1.0",)},
    locales=frozenset({"C", "POSIX", "de_DE.utf8"}),
    collation_versions=(
        CollationVersion(provider="c", locale="de_DE.UTF-8", version="2.36"),
        CollationVersion(provider="i", locale="de", version="153.120"),
    ),
)
ENVIRONMENT_RULES = {
    "parameter-floors",
    "primary-facts",
    "host-facts",
    "operating-system",
    "collation-versions",
    "locales",
    "preload-libraries",
    "resource-managers",
    "extension-libraries",
    "extension-versions",
    "tablespaces",
}


def profile(environment: Environment | None, **changes: object) -> Profile:
    made = Profile(
        system_identifier=1,
        server_version_num=170011,
        catalog_version=202406281,
        control_version=1300,
        block_size=8192,
        wal_block_size=8192,
        wal_segment_size=16 << 20,
        segment_size=1 << 30,
        data_checksums=True,
        architecture="x86_64",
        environment=environment,
    )
    return msgspec.structs.replace(made, **changes)


def standby(host: HostFacts | None, preloads: tuple[str, ...] = ()) -> StandbyProfile:
    return StandbyProfile.of(profile(None), host=host, preload_libraries=preloads)


def environment_with(**changes: object) -> Environment:
    return msgspec.structs.replace(ENVIRONMENT, **changes)


def host_with(**changes: object) -> HostFacts:
    return msgspec.structs.replace(HOST, **changes)


def orders_with(**changes: object) -> Environment:
    return environment_with(databases=(msgspec.structs.replace(ORDERS, **changes), PLAIN))


def finding(
    rule: str,
    environment: Environment | None = ENVIRONMENT,
    host: HostFacts | None = HOST,
    preloads: tuple[str, ...] = (),
    **changes: object,
) -> Finding:
    verdict = check(profile(environment, **changes), standby(host, preloads), None)
    return next(found for found in verdict.findings if found.rule == rule)


def test_hosts_alike_pass() -> None:
    verdict = check(profile(ENVIRONMENT), standby(HOST), None)
    assert verdict.outcome is Outcome.PASS
    assert {found.rule for found in verdict.findings} >= ENVIRONMENT_RULES


@pytest.mark.parametrize("environment", [ENVIRONMENT, NOTHING_READ, None])
@pytest.mark.parametrize("host", [HOST, HostFacts(), None])
def test_what_is_not_known_is_told_and_nothing_else_is_said(
    environment: Environment | None, host: HostFacts | None
) -> None:
    concerns = check(profile(environment), standby(host), None).concerns
    told = {"primary-facts"} if environment is not ENVIRONMENT else set()
    told |= {"host-facts"} if host is not HOST else set()
    assert {(found.rule, found.outcome) for found in concerns} == {
        (rule, Outcome.WARN) for rule in told
    }


ROLE = (
    "let the shipper's role into these databases (pg_hba.conf, CONNECT) and give it pg_monitor: "
    "ops/primary-role.sql has the lines"
)
NO_ANSWER = "see in the shipper's log why the primary did not answer; it is asked again by itself"
TOO_MANY = (
    "compare the locales, collations and extensions of the databases that are too many to tell "
    "of by hand"
)


@pytest.mark.parametrize(
    ("unread", "shown", "remedy"),
    [
        (("database crm", "database orders"), "database crm, database orders", ROLE),
        (("shared_preload_libraries",), "shared_preload_libraries", ROLE),
        (("the system catalogs",), "the system catalogs", NO_ANSWER),
        ((), "unknown", NO_ANSWER),
        (
            ("7 more databases, too much to tell",),
            "7 more databases, too much to tell",
            TOO_MANY,
        ),
        (
            ("7 more databases", "database 1 more databases"),
            "7 more databases, database 1 more databases",
            f"{ROLE}; {TOO_MANY}",
        ),
    ],
)
def test_what_the_primary_did_not_tell_is_named(
    unread: tuple[str, ...], shown: str, remedy: str
) -> None:
    found = finding("primary-facts", environment_with(is_complete=False, unread=unread))
    assert found.outcome is Outcome.WARN
    assert found.primary == f"not read: {shown}"
    assert found.remedy == remedy


def test_an_older_shipper_tells_nothing() -> None:
    found = finding("primary-facts", None)
    assert (found.outcome, found.primary) == (Outcome.WARN, "nothing was told")
    assert found.remedy == (
        "upgrade the shipper: one of this version tells what surrounds its primary"
    )


@pytest.mark.parametrize(
    ("host", "shown", "remedy"),
    [
        (
            None,
            "nothing is known",
            "see in the applier's log why the installation could not be asked (it makes a cluster "
            "in the directory for temporary files); it is asked again by itself",
        ),
        (
            msgspec.structs.replace(HOST, libraries=None, locales=None),
            "not known: libraries, locales",
            "see that the installation is whole (pg_config, its extensions) and that the recovery "
            "server has the command locale",
        ),
    ],
)
def test_what_the_recovery_server_does_not_tell_is_named(
    host: HostFacts | None, shown: str, remedy: str
) -> None:
    found = finding("host-facts", host=host)
    assert (found.outcome, found.standby, found.remedy) == (Outcome.WARN, shown, remedy)


# --- what is not known any more ---------------------------------------------------------------


OWN = environment_with(
    preload_libraries=("pg_stat_statements", "$libdir/pg_tde"), resource_managers=((140, "pg_tde"),)
)
BARE = host_with(icu="", locales=frozenset({"C"}), libraries=frozenset({"hstore"}))
LACKING = (
    Lack("locales", ("ICU", "de_DE.UTF-8")),
    Lack("preload-libraries", ("pg_stat_statements", "$libdir/pg_tde")),
    Lack("resource-managers", ("pg_tde",)),
)
RULES_THAT_LACK = {lack.rule for lack in LACKING}


def blocking(
    environment: Environment | None,
    host: HostFacts | None,
    *,
    preloads: tuple[str, ...] = (),
    lacked: tuple[Lack, ...] = LACKING,
) -> set[str]:
    verdict = check(profile(environment), standby(host, preloads), None, lacked=lacked)
    rules = {found.rule for found in verdict.findings if found.outcome is Outcome.BLOCK}
    assert {lack.rule for lack in verdict.lacking} == rules
    return rules


def test_what_the_standby_lacks_is_in_the_verdict_also_where_it_is_overridden() -> None:
    for overrides in (frozenset[str](), frozenset(RULES_THAT_LACK)):
        assert check(profile(OWN), standby(BARE), None, overrides).lacking == LACKING


@pytest.mark.parametrize(
    ("environment", "host"),
    [(OWN, None), (OWN, HostFacts()), (NOTHING_READ, BARE), (None, BARE), (None, None)],
)
def test_what_was_lacking_blocks_while_one_side_is_not_known(
    environment: Environment | None, host: HostFacts | None
) -> None:
    assert blocking(environment, host) == RULES_THAT_LACK
    without = blocking(environment, host, lacked=())
    assert without == ({"resource-managers"} if environment is OWN else set())


def test_what_is_there_by_now_blocks_no_more_though_the_primary_is_silent() -> None:
    installed = host_with(libraries=frozenset({"hstore", "pg_stat_statements", "pg_tde"}))
    assert blocking(NOTHING_READ, installed) == {"resource-managers"}
    assert blocking(None, installed, preloads=("pg_tde",)) == set()
    half = msgspec.structs.replace(installed, icu="")
    assert blocking(None, half, preloads=("pg_tde",)) == {"locales"}


def test_what_is_not_needed_any_more_blocks_no_more_though_the_host_is_silent() -> None:
    plain = environment_with(databases=(PLAIN,), preload_libraries=())
    assert blocking(plain, None) == set()
    # A database that lets nobody in may have the collation; the settings were all read.
    closed = msgspec.structs.replace(plain, is_complete=False, unread=("database crm",))
    assert blocking(closed, None) == {"locales"}
    hidden = msgspec.structs.replace(plain, is_complete=False, unread=("shared_preload_libraries",))
    assert blocking(hidden, None) == {"preload-libraries"}


def test_a_resource_manager_of_an_unknown_library_is_never_taken_for_preloaded() -> None:
    hidden = environment_with(
        preload_libraries=(),
        resource_managers=((140, "pg_tde"),),
        is_complete=False,
        unread=("shared_preload_libraries",),
    )
    verdict = check(profile(hidden), standby(HOST, ("pg_tde",)), None)
    assert verdict.lacking == (Lack("resource-managers", ("the library that has them",)),)
    found = finding("resource-managers", hidden, preloads=("pg_tde",))
    assert found.remedy == (
        "let the shipper's role read shared_preload_libraries on the primary (pg_monitor: "
        "ops/primary-role.sql has the line), which names what is needed; or override the rule by "
        "its name, resource-managers, for this instance"
    )
    installed = host_with(libraries=frozenset({"pg_tde"}))
    assert blocking(None, installed, preloads=("pg_tde",), lacked=verdict.lacking) == {
        "resource-managers"
    }


def test_the_library_of_a_resource_manager_is_remembered_when_it_is_not_told_any_more() -> None:
    hidden = environment_with(
        preload_libraries=(),
        resource_managers=((140, "pg_tde"),),
        is_complete=False,
        unread=("shared_preload_libraries",),
    )
    verdict = check(profile(OWN), standby(BARE), None)
    for _ in range(2):
        verdict = check(profile(hidden), standby(BARE, ("own",)), None, lacked=verdict.lacking)
        found = next(each for each in verdict.findings if each.rule == "resource-managers")
        assert found.remedy.startswith(
            "let the shipper's role read shared_preload_libraries on the primary (pg_monitor: "
            "ops/primary-role.sql has the line), which names what is needed; install the libraries "
            "on the recovery server, and put shared_preload_libraries = 'own, pg_tde' into the "
            "instance's settings; or"
        )
    # It preloads what it is known to need; another may be needed, told or silent.
    for environment in (hidden, None):
        rules = blocking(environment, BARE, preloads=("pg_tde",), lacked=verdict.lacking)
        assert "resource-managers" in rules
    everything = blocking(OWN, BARE, preloads=("pg_tde",), lacked=verdict.lacking)
    assert "resource-managers" not in everything


# --- collations -------------------------------------------------------------------------------


def test_only_collations_that_have_versions_are_asked_for() -> None:
    builtin = msgspec.structs.replace(PLAIN, name="b", provider="b", collate="C.UTF-8")
    posix = msgspec.structs.replace(PLAIN, name="p", collate="C.UTF-8")
    asked = used_collations(environment_with(databases=(ORDERS, PLAIN, builtin, posix)))
    assert asked == {("c", "de_DE.UTF-8"), ("i", "de")}
    assert used_collations(None) == frozenset()


def test_another_version_on_the_recovery_server_warns_with_what_to_reindex() -> None:
    host = host_with(
        collation_versions=(
            CollationVersion(provider="c", locale="de_DE.UTF-8", version="2.41"),
            CollationVersion(provider="i", locale="de", version="153.136"),
        )
    )
    found = finding("collation-versions", host=host)
    assert found.outcome is Outcome.WARN
    assert found.primary == 'orders: "de-x-icu" ICU 153.120, orders: de_DE.UTF-8 libc 2.36'
    assert found.standby == "ICU 153.136, libc 2.41"
    assert found.remedy == (
        "give the recovery server the primary's release of the operating system; or, after a "
        "promotion and before clients write: REINDEX DATABASE orders"
    )
    assert mending_statements(ENVIRONMENT, host) == (
        "orders: REINDEX DATABASE orders",
        "orders: ALTER DATABASE orders REFRESH COLLATION VERSION",
        'orders: ALTER COLLATION "de-x-icu" REFRESH VERSION',
    )
    assert mending_statements(ENVIRONMENT, HOST) == ()


def test_indexes_of_an_older_version_on_the_primary_itself_warn() -> None:
    """Its operating system was upgraded, and nobody rebuilt the indexes."""
    stale = orders_with(name="Orders", recorded_version="2.31")
    found = finding("collation-versions", stale)
    assert found.outcome is Outcome.WARN
    assert found.primary == "Orders: de_DE.UTF-8 libc 2.31"
    assert found.remedy == (
        "on the primary, or on the standby once it was promoted: "
        'REINDEX DATABASE "Orders", then ALTER DATABASE "Orders" REFRESH COLLATION VERSION'
    )
    assert mending_statements(stale, HOST)[0] == 'Orders: REINDEX DATABASE "Orders"'


def test_a_primary_that_records_no_version_is_compared_by_what_it_has_now() -> None:
    """PostgreSQL 14 records none for a database."""
    old = orders_with(recorded_version="", actual_version="2.31", collations=())
    assert finding("collation-versions", old).outcome is Outcome.WARN
    assert mending_statements(old, HOST) == ("orders: REINDEX DATABASE orders",)


def test_another_libc_warns_where_no_version_tells() -> None:
    host = host_with(
        operating_system="Alma 9", libc="glibc 2.34", collation_versions=HOST.collation_versions[1:]
    )
    found = finding("operating-system", host=host)
    assert found.outcome is Outcome.WARN
    assert found.primary == "Debian GNU/Linux 12 (bookworm), glibc 2.36, ICU 72"
    assert found.standby == "Alma 9, glibc 2.34, ICU 72"
    assert found.remedy == (
        "give the recovery server the primary's release of the operating system; or, after a "
        "promotion and before clients write: REINDEX DATABASE orders"
    )


def test_another_libc_passes_where_versions_were_compared_or_nobody_uses_it() -> None:
    other = host_with(operating_system="Alma 9", libc="glibc 2.34", icu="67")
    assert finding("operating-system", host=other).outcome is Outcome.PASS
    plain = environment_with(databases=(PLAIN,))
    untold = msgspec.structs.replace(other, collation_versions=())
    assert finding("operating-system", plain, untold).outcome is Outcome.PASS


# --- locales ----------------------------------------------------------------------------------


def test_a_locale_that_the_host_lacks_blocks() -> None:
    found = finding("locales", host=host_with(locales=frozenset({"C", "en_US.utf8"})))
    assert found.outcome is Outcome.BLOCK
    assert (found.primary, found.standby) == ("ICU, de_DE.UTF-8", "without de_DE.UTF-8")
    assert found.remedy == (
        "make de_DE.UTF-8 on the recovery server (Debian, Ubuntu: add to /etc/locale.gen and run "
        "locale-gen; elsewhere: localedef), and the standby starts by itself; or override the "
        "rule by its name, locales, for this instance"
    )


def test_a_postgresql_without_icu_blocks_a_primary_that_uses_it() -> None:
    found = finding("locales", host=host_with(icu=""))
    assert (found.outcome, found.standby) == (Outcome.BLOCK, "without ICU")
    assert found.remedy.startswith(
        "install a PostgreSQL that was built with ICU on the recovery server; or override"
    )
    without = orders_with(collations=())
    assert finding("locales", without, host_with(icu="")).outcome is Outcome.PASS


@pytest.mark.parametrize("listed", ["de_DE.utf8", "de_DE.UTF-8", "de_DE.UTF8"])
def test_a_locale_may_be_spelt_otherwise(listed: str) -> None:
    found = finding("locales", host=host_with(locales=frozenset({listed})))
    assert found.outcome is Outcome.PASS


# --- libraries --------------------------------------------------------------------------------


def test_a_library_of_an_extension_that_is_missing_warns() -> None:
    found = finding(
        "extension-libraries",
        host=host_with(libraries=frozenset(HOST.libraries or ()) - {"hstore"}),
    )
    assert found.outcome is Outcome.WARN
    assert (found.primary, found.standby) == ("hstore", "without hstore")
    assert found.remedy == (
        "install the packages of hstore for PostgreSQL 17 on the recovery server"
    )


@pytest.mark.parametrize(
    ("available", "shown"), [({"hstore": ("1.6", "1.7")}, "hstore 1.6, 1.7"), ({}, "hstore none")]
)
def test_an_extension_of_another_version_warns(
    available: dict[str, tuple[str, ...]], shown: str
) -> None:
    found = finding(
        "extension-versions", host=host_with(extensions={"plain": ("1.0",), **available})
    )
    assert found.outcome is Outcome.WARN
    assert (found.primary, found.standby) == ("hstore 1.8", shown)
    assert found.remedy == (
        "install the primary's packages of these extensions on the recovery server: hstore"
    )


def test_a_preloaded_library_that_is_missing_blocks() -> None:
    preloads = environment_with(preload_libraries=("pg_cron", "$libdir/pg_stat_statements"))
    found = finding("preload-libraries", preloads)
    assert found.outcome is Outcome.BLOCK
    assert found.standby == "without pg_cron"
    assert found.remedy == (
        "install pg_cron for PostgreSQL 17 on the recovery server; or override the rule by its "
        "name, preload-libraries, for this instance"
    )


def test_a_preloaded_library_that_is_installed_passes_and_is_shown() -> None:
    found = finding("preload-libraries")
    assert found.outcome is Outcome.PASS
    assert found.standby == "installed, not preloaded: pg_stat_statements"
    own = finding("preload-libraries", preloads=("pg_stat_statements",))
    assert (own.outcome, own.standby) == (Outcome.PASS, "pg_stat_statements")


def test_a_library_of_the_standbys_own_settings_that_is_missing_blocks() -> None:
    found = finding("preload-libraries", preloads=("pg_audit",))
    assert found.outcome is Outcome.BLOCK
    assert found.why == "The standby's own settings preload it, and the server would not start."
    assert found.remedy.startswith(
        "install pg_audit for PostgreSQL 17 on the recovery server, or take it out of "
        "shared_preload_libraries in the instance's settings"
    )


def test_a_resource_manager_needs_its_library_preloaded() -> None:
    managers = environment_with(
        preload_libraries=("pg_stat_statements", "pg_tde"), resource_managers=((140, "pg_tde"),)
    )
    host = host_with(libraries=frozenset({"hstore", "pg_stat_statements", "pg_tde"}))
    found = finding("resource-managers", managers, host, preloads=("auto_explain",))
    assert found.outcome is Outcome.BLOCK
    assert (found.primary, found.standby) == ("pg_tde (140)", "preloads auto_explain")
    assert found.remedy == (
        "install the libraries on the recovery server, and put shared_preload_libraries = "
        "'auto_explain, pg_tde' into the instance's settings; or override the rule by its name, "
        "resource-managers, for this instance"
    )
    assert (
        finding("resource-managers", managers, host, preloads=("pg_tde",)).outcome is Outcome.PASS
    )


def test_where_names_do_not_tell_whose_a_resource_manager_is_all_are_needed() -> None:
    managers = environment_with(
        preload_libraries=("pg_stat_statements", "columns"), resource_managers=((150, "stripes"),)
    )
    found = finding("resource-managers", managers, preloads=("columns",))
    assert found.outcome is Outcome.BLOCK
    assert "'columns, pg_stat_statements'" in found.remedy
    both = ("columns", "pg_stat_statements")
    assert finding("resource-managers", managers, preloads=both).outcome is Outcome.PASS


# --- parameters -------------------------------------------------------------------------------


def test_floors_are_shown_and_raised() -> None:
    found = finding("parameter-floors", max_connections=500)
    assert found.outcome is Outcome.PASS
    assert found.primary.startswith("max_connections 500, max_worker_processes 8, ")
    assert found.standby == "raised to these"


def test_floors_that_take_much_memory_warn() -> None:
    found = finding("parameter-floors", max_connections=5000, max_locks_per_transaction=256)
    assert found.outcome is Outcome.WARN
    assert found.standby == "raised to these: about 604 MB of shared memory"
    assert found.remedy == (
        "see that the recovery server has this memory beside shared_buffers, or lower the "
        "parameters on the primary if they are higher than it needs"
    )


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("why_not", [None, "", "no mounts of its own: Operation not permitted"])
def test_tablespaces_warn_where_a_standby_can_have_no_path_for_itself(
    count: int, why_not: str | None
) -> None:
    made = (TablespaceFacts(oid=16385, name="fast", location="/mnt/fast"),)[:count]
    here = msgspec.structs.replace(standby(HOST), no_private_paths=why_not)
    verdict = check(profile(environment_with(tablespaces=made)), here, None)
    found = next(each for each in verdict.findings if each.rule == "tablespaces")
    assert found.primary == ("/mnt/fast" if count else "")
    if not count or not why_not:
        assert found.outcome is Outcome.PASS
        return
    assert found.outcome is Outcome.WARN
    assert found.standby == f"the machine's paths: {why_not}"
    assert found.remedy == (
        "permit user namespaces to the account of the standbys (docs/tablespaces.md); else, "
        "whenever the primary is to get another tablespace, first make its directory on the "
        "recovery server, empty and owned by that account"
    )
