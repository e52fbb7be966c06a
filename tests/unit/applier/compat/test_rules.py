"""Each rule of the version check, and what an override does to it."""

from __future__ import annotations

import msgspec
import pytest

from applier.compat import (
    RULES,
    DataDirectoryFacts,
    Finding,
    Outcome,
    StandbyProfile,
    check,
    check_override_names,
    load_advisories,
)
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
)
SEED = DataDirectoryFacts(system_identifier=SYSTEM, wal_segment_size=16 << 20, data_checksums=True)
STANDBY = StandbyProfile.of(PRIMARY, SEED)


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
    assert check(PRIMARY, StandbyProfile.of(PRIMARY), None).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("rule", "primary", "standby", "outcome"),
    [
        ("system-identifier", PRIMARY, seed_with(system_identifier=1), Outcome.BLOCK),
        ("supported-majors", primary_with(server_version_num=190000), STANDBY, Outcome.BLOCK),
        ("supported-majors", primary_with(server_version_num=130011), STANDBY, Outcome.BLOCK),
        ("major", PRIMARY, standby_with(server_version_num=180006), Outcome.BLOCK),
        ("minor-order", PRIMARY, standby_with(server_version_num=170010), Outcome.BLOCK),
        ("minor-order", PRIMARY, standby_with(server_version_num=170012), Outcome.PASS),
        ("known-bad-minors", PRIMARY, standby_with(server_version_num=170010), Outcome.WARN),
        ("known-bad-minors", PRIMARY, standby_with(server_version_num=170011), Outcome.PASS),
        ("catalog-version", PRIMARY, standby_with(catalog_version=1), Outcome.BLOCK),
        ("control-file-version", PRIMARY, standby_with(control_version=1800), Outcome.BLOCK),
        ("block-size", PRIMARY, standby_with(block_size=16384), Outcome.BLOCK),
        ("wal-block-size", PRIMARY, standby_with(wal_block_size=4096), Outcome.BLOCK),
        ("wal-segment-size", PRIMARY, seed_with(wal_segment_size=1 << 20), Outcome.BLOCK),
        ("relation-segment-size", PRIMARY, standby_with(segment_size=2 << 30), Outcome.BLOCK),
        ("alignment", PRIMARY, standby_with(alignment=4), Outcome.BLOCK),
        ("float8", PRIMARY, standby_with(float8_by_value=False), Outcome.BLOCK),
        ("architecture", PRIMARY, standby_with(architecture="aarch64"), Outcome.BLOCK),
        ("architecture", PRIMARY, standby_with(architecture="AMD64"), Outcome.PASS),
        ("architecture", primary_with(architecture=""), STANDBY, Outcome.WARN),
        ("data-checksums", PRIMARY, seed_with(data_checksums=False), Outcome.WARN),
    ],
)
def test_each_difference_is_found_and_explained(
    rule: str, primary: Profile, standby: StandbyProfile, outcome: Outcome
) -> None:
    found = finding(rule, primary, standby)
    assert found.outcome is outcome
    assert found.why
    assert found.primary
    assert found.standby
    assert bool(found.remedy) == (outcome is not Outcome.PASS)


def test_wal_of_a_stranger_is_blocked_though_the_seed_is_its_own() -> None:
    """The store has WAL of one cluster; the shipper now reads from another."""
    stored = Incarnation(42, 17)
    found = finding("system-identifier", PRIMARY, STANDBY, expected=stored)
    assert (found.outcome, found.standby) == (Outcome.BLOCK, "42")


def test_a_major_upgrade_of_the_primary_is_blocked() -> None:
    found = finding("major", PRIMARY, STANDBY, expected=Incarnation(SYSTEM, 16))
    assert found.outcome is Outcome.BLOCK
    assert "seed" in found.remedy


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
