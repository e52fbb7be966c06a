"""What `shipper check` says of a primary, from facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logship.checks import Check
from shipper.commands.primary_facts import PrimaryFacts, SlotFacts
from shipper.commands.primary_rules import check_primary, names_standby
from shipper.settings import LinkSettings, PrimarySettings, ShipperSettings

GOOD_PARAMETERS = {
    "archive_mode": "off",
    "fsync": "on",
    "full_page_writes": "on",
    "idle_replication_slot_timeout": "0",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "10240",
    "max_wal_senders": "10",
    "synchronous_commit": "on",
    "synchronous_standby_names": "",
    "wal_level": "replica",
    "wal_sender_timeout": "60000",
}
GOOD = PrimaryFacts(
    version_num=170010,
    in_recovery=False,
    role="logship",
    may_replicate=True,
    may_monitor=True,
    parameters=GOOD_PARAMETERS,
    walsenders_of_others=0,
    slots_in_use=0,
    slot=None,
)


def settings(**changes: Any) -> ShipperSettings:
    primary = {
        k: changes.pop(k)
        for k in ("create_slot", "status_interval_seconds", "source")
        if k in changes
    }
    return ShipperSettings(
        instance="main",
        primary=PrimarySettings(conninfo="host=/tmp", **primary),
        link=LinkSettings(address="tcp://r:1", secret_key_file=Path("/x")),
        **changes,
    )


def with_parameters(**changes: str) -> PrimaryFacts:
    return GOOD._replace(parameters={**GOOD_PARAMETERS, **changes})


def troubles(facts: PrimaryFacts, **changes: Any) -> list[tuple[str, str]]:
    found = list(check_primary(facts, settings(**changes)))
    assert all(each.hint for each in found if each.level != "ok"), "each trouble needs a remedy"
    return [(each.name, each.level) for each in found if each.level != "ok"]


def check_of(name: str, facts: PrimaryFacts, **changes: Any) -> Check:
    (found,) = [each for each in check_primary(facts, settings(**changes)) if each.name == name]
    return found


def test_a_primary_that_is_ready_has_no_troubles() -> None:
    assert troubles(GOOD) == []


@pytest.mark.parametrize("version_num", [130020, 190000, 90624])
def test_a_major_that_is_not_supported_fails(version_num: int) -> None:
    assert troubles(GOOD._replace(version_num=version_num)) == [("version", "fail")]


@pytest.mark.parametrize(
    ("facts", "trouble"),
    [
        (GOOD._replace(in_recovery=True), ("is-primary", "fail")),
        (GOOD._replace(may_replicate=False), ("role", "fail")),
        (GOOD._replace(may_monitor=False), ("monitoring", "warn")),
        (with_parameters(wal_level="minimal"), ("wal_level", "fail")),
        (GOOD._replace(walsenders_of_others=10), ("max_wal_senders", "fail")),
        (GOOD._replace(walsenders_of_others=9), ("max_wal_senders", "warn")),
        (GOOD._replace(slots_in_use=10), ("slot", "fail")),
        (with_parameters(max_slot_wal_keep_size="-1"), ("max_slot_wal_keep_size", "warn")),
        (
            with_parameters(idle_replication_slot_timeout="3600"),
            ("idle_replication_slot_timeout", "warn"),
        ),
        (with_parameters(wal_sender_timeout="15000"), ("wal_sender_timeout", "fail")),
        (with_parameters(fsync="off"), ("fsync", "warn")),
        (with_parameters(full_page_writes="off"), ("full_page_writes", "warn")),
    ],
)
def test_each_trouble_is_found(facts: PrimaryFacts, trouble: tuple[str, str]) -> None:
    assert troubles(facts) == [trouble]


def test_no_timeout_is_never_too_short() -> None:
    assert troubles(with_parameters(wal_sender_timeout="0")) == []


@pytest.mark.parametrize(
    ("slot", "level"),
    [
        (SlotFacts("physical", "reserved", "0/1", None), "ok"),
        (SlotFacts("physical", None, None, None), "ok"),
        (SlotFacts("physical", "extended", "0/1", "logship_main"), "ok"),
        (SlotFacts("physical", "extended", "0/1", ""), "ok"),
        (SlotFacts("physical", "unreserved", "0/1", None), "warn"),
        (SlotFacts("physical", "lost", None, None), "fail"),
        (SlotFacts("physical", "reserved", "0/1", "pg_receivewal"), "fail"),
        (SlotFacts("logical", "reserved", "0/1", None), "fail"),
    ],
)
def test_the_slots_state_is_judged(slot: SlotFacts, level: str) -> None:
    assert check_of("slot", GOOD._replace(slot=slot, slots_in_use=10)).level == level


def test_a_missing_slot_that_may_not_be_created_fails_with_the_sql_that_makes_it() -> None:
    found = check_of("slot", GOOD, create_slot=False)
    assert found.level == "fail"
    assert "pg_create_physical_replication_slot('logship_main', true)" in found.hint


@pytest.mark.parametrize(
    ("protection", "names", "commit", "level"),
    [
        ("async", "", "on", "ok"),
        ("async", "other", "on", "ok"),
        ("async", "logship_main", "on", "warn"),
        ("async", "logship_main", "local", "ok"),
        ("sync", "logship_main", "on", "ok"),
        ("sync", "", "on", "fail"),
        ("sync", "FIRST 1 (other)", "on", "fail"),
        ("sync", "FIRST 1 (logship_main)", "off", "warn"),
    ],
)
def test_protection_and_the_primarys_own_settings_must_agree(
    protection: str, names: str, commit: str, level: str
) -> None:
    facts = with_parameters(synchronous_standby_names=names, synchronous_commit=commit)
    assert check_of("protection", facts, protection=protection).level == level


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("", False),
        ("a", True),
        ("b, A ,c", True),
        ("*", True),
        ("FIRST 2 (b, a)", True),
        ("any 1(b,a)", True),
        ("2 (b, c)", False),
        ('FIRST 1 ("a")', True),
        ('FIRST 1 ("a b", c)', False),
        ("aa, ab", False),
    ],
)
def test_synchronous_standby_names_is_read_as_postgresql_reads_it(
    setting: str, named: bool
) -> None:
    assert names_standby(setting, "a") is named


def test_an_archive_source_needs_an_archiver_and_no_slot() -> None:
    assert troubles(GOOD, source="archive") == [("archive_mode", "fail")]
    facts = with_parameters(
        archive_mode="on", max_slot_wal_keep_size="-1", max_wal_senders="1", wal_sender_timeout="1"
    )
    assert troubles(facts, source="archive") == []
    assert not [each for each in check_primary(facts, settings(source="archive")) if "slot" in each]
