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
    ("major", "fixed_minor"), [(14, 24), (15, 19), (16, 15), (17, 11), (18, 6)]
)
def test_the_shipped_advisory_covers_every_supported_major(major: int, fixed_minor: int) -> None:
    (advisory,) = load_advisories()
    assert advisory.affects(major, fixed_minor - 1)
    assert not advisory.affects(major, fixed_minor)
    assert not advisory.affects(19, 0)


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
