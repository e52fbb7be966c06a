"""The rules about what surrounds the two servers: collations, locales, libraries, parameters."""

from __future__ import annotations

import msgspec
import pytest

from applier.compat import (
    CollationVersion,
    Finding,
    HostFacts,
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
    "operating-system",
    "collation-versions",
    "locales",
    "preload-libraries",
    "resource-managers",
    "extension-libraries",
    "extension-versions",
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


@pytest.mark.parametrize("environment", [ENVIRONMENT, None])
@pytest.mark.parametrize("host", [HOST, HostFacts(), None])
def test_hosts_alike_pass_and_so_does_what_is_not_known(
    environment: Environment | None, host: HostFacts | None
) -> None:
    verdict = check(profile(environment), standby(host), None)
    assert verdict.outcome is Outcome.PASS
    assert {found.rule for found in verdict.findings} >= ENVIRONMENT_RULES


def test_what_the_primary_did_not_tell_is_named() -> None:
    incomplete = environment_with(is_complete=False, unread=("database crm", "database orders"))
    found = finding("primary-facts", incomplete)
    assert found.outcome is Outcome.WARN
    assert found.primary == "not read: database crm, database orders"
    assert found.remedy == (
        "let the shipper's role into these databases (pg_hba.conf, CONNECT) and give it "
        "pg_monitor: ops/primary-role.sql has the lines"
    )


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
        "locale-gen; elsewhere: localedef), then restart the standby; or override the rule by its "
        "name, locales, for this instance"
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
