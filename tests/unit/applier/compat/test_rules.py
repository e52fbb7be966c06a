"""Each rule of the version check, and what an override does to it."""

from __future__ import annotations

import msgspec
import pytest

from applier.compat import (
    OVERRIDABLE_RULES,
    RULES,
    DataDirectoryFacts,
    Finding,
    HostFacts,
    Lack,
    Outcome,
    StandbyProfile,
    check,
    check_override_names,
    load_advisories,
)
from logship.environment import Environment
from logship.errors import Code, UsageError
from logship.identity import Incarnation, Profile

SYSTEM = 7301234567890123456
PRIMARY = Profile(
    system_identifier=SYSTEM,
    server_version_num=170011,
    catalog_version=202406281,
    control_version=1300,
    block_size=8192,
    wal_block_size=8192,
    wal_segment_size=16 << 20,
    segment_size=1 << 30,
    data_checksums=True,
    architecture="x86_64",
    environment=Environment(),
)
SEED = DataDirectoryFacts(system_identifier=SYSTEM, wal_segment_size=16 << 20, data_checksums=True)
HOST = HostFacts(icu="", libraries=frozenset(), extensions={}, locales=frozenset())
STANDBY = StandbyProfile.of(PRIMARY, SEED, host=HOST)


def finding(rule: str, primary: Profile, standby: StandbyProfile, **more: object) -> Finding:
    expected = more.pop("expected", primary.incarnation)
    assert expected is None or isinstance(expected, Incarnation)
    verdict = check(primary, standby, expected, **more)  # type: ignore[arg-type]
    return next(found for found in verdict.findings if found.rule == rule)


def primary_with(**changes: object) -> Profile:
    return msgspec.structs.replace(PRIMARY, **changes)


def standby_with(**changes: object) -> StandbyProfile:
    return msgspec.structs.replace(STANDBY, **changes)


def seed_with(**changes: object) -> StandbyProfile:
    return standby_with(data_directory=msgspec.structs.replace(SEED, **changes))


def test_equal_sides_pass_every_rule() -> None:
    verdict = check(PRIMARY, STANDBY, PRIMARY.incarnation)
    assert {found.outcome for found in verdict.findings} == {Outcome.PASS}
    assert not verdict.blocked
    assert len(verdict.findings) == len(RULES)


def test_before_the_first_seed_nothing_is_missing() -> None:
    assert check(PRIMARY, StandbyProfile.of(PRIMARY, host=HOST), None).outcome is Outcome.PASS


SAME_POSTGRESQL = "install the same PostgreSQL on both sides: one of the two is a beta or a fork"
BUILT_WITH = "install a PostgreSQL that was configured with the primary's value of "
BLOCKING = [
    (
        "system-identifier",
        PRIMARY,
        seed_with(system_identifier=1),
        "the data directory is another cluster's: replace it by a seed (applier seed NAME)",
    ),
    (
        "supported-majors",
        primary_with(server_version_num=190000),
        STANDBY,
        "use a version of Logship that knows this major",
    ),
    (
        "supported-majors",
        primary_with(server_version_num=130011),
        STANDBY,
        "use a version of Logship that knows this major",
    ),
    (
        "major",
        PRIMARY,
        standby_with(server_version_num=180006),
        "install PostgreSQL 17 on the recovery server",
    ),
    (
        "minor-order",
        PRIMARY,
        standby_with(server_version_num=170010),
        "install PostgreSQL 17.11 or a later minor on the recovery server",
    ),
    ("catalog-version", PRIMARY, standby_with(catalog_version=1), SAME_POSTGRESQL),
    (
        "catalog-version",
        PRIMARY,
        standby_with(catalog_version=1, server_version_num=180006),
        "install PostgreSQL 17 on the recovery server: majors differ in it",
    ),
    ("control-file-version", PRIMARY, standby_with(control_version=1800), SAME_POSTGRESQL),
    ("block-size", PRIMARY, standby_with(block_size=16384), f"{BUILT_WITH}--with-blocksize"),
    (
        "wal-block-size",
        PRIMARY,
        standby_with(wal_block_size=4096),
        f"{BUILT_WITH}--with-wal-blocksize",
    ),
    (
        "wal-segment-size",
        PRIMARY,
        seed_with(wal_segment_size=1 << 20),
        "pg_resetwal changed the primary's WAL segment size: protect it under another instance "
        "name, for a store keeps one size",
    ),
    (
        "relation-segment-size",
        PRIMARY,
        standby_with(segment_size=2 << 30),
        f"{BUILT_WITH}--with-segsize",
    ),
    (
        "alignment",
        PRIMARY,
        standby_with(alignment=4),
        "use a recovery server of the primary's architecture",
    ),
    (
        "float8",
        PRIMARY,
        standby_with(float8_by_value=False),
        f"{BUILT_WITH}--disable-float8-byval",
    ),
    (
        "architecture",
        PRIMARY,
        standby_with(architecture="aarch64"),
        "use a recovery server of architecture x86_64",
    ),
]


@pytest.mark.parametrize(("rule", "primary", "standby", "remedy"), BLOCKING)
def test_what_blocks_is_told_with_its_remedy(
    rule: str, primary: Profile, standby: StandbyProfile, remedy: str
) -> None:
    found = finding(rule, primary, standby)
    assert found.outcome is Outcome.BLOCK
    assert found.why and found.primary and found.standby
    if rule in OVERRIDABLE_RULES:
        remedy += f"; or override the rule by its name, {rule}, for this instance"
    assert found.remedy == remedy


@pytest.mark.parametrize(
    ("rule", "primary", "standby", "remedy"),
    [
        (
            "architecture",
            primary_with(architecture=""),
            STANDBY,
            "compare the output of uname -m on both hosts",
        ),
        (
            "data-checksums",
            PRIMARY,
            seed_with(data_checksums=False),
            "stop the standby (applier change NAME --set run_standby=false), run pg_checksums "
            "--enable on its data directory and take run_standby back (--unset run_standby); or "
            "seed it anew: applier seed NAME",
        ),
        (
            "data-checksums",
            primary_with(data_checksums=False),
            STANDBY,
            "stop the standby (applier change NAME --set run_standby=false), run pg_checksums "
            "--disable on its data directory and take run_standby back (--unset run_standby); or "
            "seed it anew: applier seed NAME",
        ),
        (
            "known-bad-minors",
            PRIMARY,
            standby_with(server_version_num=170010),
            "install the fixed minor on the recovery server; the data directory stays as it is "
            "(17.11 or later)",
        ),
    ],
)
def test_what_warns_is_told_with_its_remedy(
    rule: str, primary: Profile, standby: StandbyProfile, remedy: str
) -> None:
    found = finding(rule, primary, standby)
    assert found.outcome is Outcome.WARN
    assert found.why and found.primary and found.standby
    assert found.remedy == remedy


@pytest.mark.parametrize(
    ("rule", "standby"),
    [
        ("minor-order", standby_with(server_version_num=170012)),
        ("known-bad-minors", standby_with(server_version_num=170011)),
        ("architecture", standby_with(architecture="AMD64")),
    ],
)
def test_what_differs_and_does_no_harm_passes(rule: str, standby: StandbyProfile) -> None:
    found = finding(rule, PRIMARY, standby)
    assert (found.outcome, found.remedy) == (Outcome.PASS, "")
    assert found.primary and found.standby


def test_another_architecture_blocks_also_when_a_shipper_elsewhere_does_not_know_it() -> None:
    other = standby_with(architecture="aarch64")
    before = check(PRIMARY, other, None)
    assert before.lacking == (Lack("architecture", ("x86_64",)),)
    untold = primary_with(architecture="")
    assert check(untold, other, None).outcome is Outcome.WARN
    after = check(untold, other, None, lacked=before.lacking)
    assert after.blocked and after.lacking == before.lacking
    assert not check(untold, STANDBY, None, lacked=before.lacking).blocked, "that is known"


def test_wal_of_a_stranger_is_blocked_though_the_seed_is_its_own() -> None:
    """The store has WAL of one cluster; the shipper now reads from another."""
    stored = Incarnation(42, 17)
    found = finding("system-identifier", PRIMARY, STANDBY, expected=stored)
    assert (found.outcome, found.standby) == (Outcome.BLOCK, "42")
    assert found.remedy == (
        "check which server the shipper reads from; if that cluster is to take this one's place, "
        f"on the recovery server: applier accept NAME {SYSTEM}-17"
    )


def test_a_major_upgrade_of_the_primary_is_blocked() -> None:
    found = finding("major", PRIMARY, STANDBY, expected=Incarnation(SYSTEM, 16))
    assert found.outcome is Outcome.BLOCK
    assert found.remedy == (
        "check which server the shipper reads from: pg_upgrade gives a cluster another system "
        "identifier, and that one is seeded by itself when its shipper comes"
    )


@pytest.mark.parametrize(
    ("primary", "standby", "names"),
    [
        (170011, 170011, set()),
        (170005, 170010, {"standby-sticks-after-archive-recovery"}),
        (170005, 170008, {"standby-sticks-after-archive-recovery", "multixid-truncation-replay"}),
        (170008, 170008, {"standby-sticks-after-archive-recovery"}),
        (160011, 160014, {"standby-sticks-after-archive-recovery", "multixid-replay-deadlock"}),
        (160012, 160014, {"standby-sticks-after-archive-recovery"}),
        (
            170001,
            170001,
            {"standby-sticks-after-archive-recovery", "extensions-crash-after-abi-break"},
        ),
        (140003, 140024, {"concurrently-built-indexes"}),
        (140000, 140024, {"concurrently-built-indexes", "incomplete-record-at-segment-end"}),
        (140004, 140004, {"standby-sticks-after-archive-recovery", "create-database-replay"}),
        (180005, 180006, set()),
        (190000, 190000, set()),
    ],
)
def test_the_shipped_advisories_concern_these_pairs(
    primary: int, standby: int, names: set[str]
) -> None:
    concerned = {one.name for one in load_advisories() if one.concerns(primary, standby)}
    assert concerned == names


def test_a_known_fault_is_told_with_its_source_and_the_version_to_install() -> None:
    primary = primary_with(server_version_num=140003)
    found = finding("known-bad-minors", primary, standby_with(server_version_num=140004))
    assert found.outcome is Outcome.WARN
    assert found.remedy == (
        "install the fixed minor on the recovery server; the data directory stays as it is "
        "(14.24 or later); install the fixed minor on both sides, the recovery server first, and "
        "rebuild those indexes on the primary with REINDEX (14.4 or later)"
    )
    assert "(source: release notes of PostgreSQL 14.4)" in found.why


def test_an_override_by_name_lets_the_standby_start_and_stays_visible() -> None:
    older = standby_with(server_version_num=170010)
    assert check(PRIMARY, older, None).blocked
    verdict = check(PRIMARY, older, None, frozenset({"minor-order"}))
    assert not verdict.blocked
    assert verdict.outcome is Outcome.WARN
    assert verdict.overridden == ("minor-order",)


def test_what_would_destroy_data_can_not_be_overridden() -> None:
    names = frozenset(rule.name for rule in RULES)
    wrong = seed_with(system_identifier=1)
    assert check(PRIMARY, wrong, None, names).blocked
    assert check(PRIMARY, standby_with(block_size=4096), None, names).blocked


@pytest.mark.parametrize("name", ["system-identifier", "no-such-rule"])
def test_a_wrong_override_is_a_settings_error(name: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        check_override_names(frozenset({name, "architecture"}))
    assert caught.value.code is Code.SETTINGS
    assert check_override_names(frozenset({"architecture"})) == {"architecture"}
