"""What may be added, changed and removed, and the settings that come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from applier.fleet.places import IncarnationPlaces
from applier.fleet.registry import Entry, Registered, Registration, Removal, settings_of
from applier.fleet.report import describe, list_lines
from applier.fleet.rules import (
    OnDisk,
    check_key_is_its_own,
    check_new_name,
    check_port_change,
    check_together,
    effective,
    plan_removal,
    registered_entry,
    taken_ports,
    with_changes,
)
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.settings import parse_settings
from tests.support.fake_intake import new_keys

KEY, OTHER_KEY = new_keys().public, new_keys().public
DECLARED = parse_settings(
    "[instances.orders]\nport = 5433\npublic_key_file = 'orders.pub'\n",
    ApplierSettings,
    file=Path("/etc/logship/applier.toml"),
)
LEAVING = Removal(keep_data=False, keep_server=False)


def entry(name: str, removing: Removal | None = None, **said: Any) -> Entry:
    said = {"port": 5434, "public_key": KEY, **said}
    return Entry(Registration(name=name, settings=said, removing=removing), settings_of(name, said))


def registered(*entries: Entry, **unreadable: LogshipError) -> Registered:
    return Registered({each.registration.name: each for each in entries}, unreadable)


def test_registered_instances_stand_among_the_declared_ones() -> None:
    together = effective(DECLARED, registered(entry("billing", shared_buffers_mb=64)))
    assert sorted(together.instances) == ["billing", "orders"]
    assert together.shared_buffers_mb_of("billing") == 64
    assert sorted(DECLARED.instances) == ["orders"]


def test_the_settings_file_counts_and_what_is_being_removed_is_gone() -> None:
    both = registered(entry("orders", port=6000), entry("billing", removing=LEAVING))
    assert effective(DECLARED, both).instances == DECLARED.instances


def test_changes_are_made_entry_by_entry() -> None:
    said = with_changes({}, {"port": 5434, "settings.work_mem": "8MB", "settings.a.b": 1}, ())
    assert said == {"port": 5434, "settings": {"work_mem": "8MB", "a.b": 1}}
    said = with_changes(said, {"seed": "manual", "settings.jit": False}, ["settings.work_mem"])
    assert said == {"port": 5434, "seed": "manual", "settings": {"a.b": 1, "jit": False}}
    assert with_changes(said, {}, ["settings", "seed", "bucket"]) == {"port": 5434}
    assert with_changes(said, {"settings": {"x": 1}}, ())["settings"] == {"x": 1}
    assert "settings" in said, "what was there is left as it was"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"prot": 1}, "instances.new.prot is not a setting"),
        ({"port": "5434"}, "instances.new.port must be a whole number from 1 to 65535, not text"),
        ({"seed": None}, "not nothing"),
        ({"settings": 5, "settings.x": 1}, "instances.new.settings must be a table"),
        ({"settings.port": 1}, "can't be set for a standby"),
        ({"public_key": "short"}, "instances.new.public_key"),
    ],
)
def test_what_is_wrong_is_named_as_in_a_settings_file(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of("new", with_changes({"port": 5434}, changes, ()))
    assert what in caught.value.what
    assert caught.value.code is Code.SETTINGS


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("portt", "portt is not a setting"),
        ("settings.work_men", "settings.work_men is not set"),
        ("setting.work_mem", "setting.work_mem is not a setting"),
    ],
)
def test_a_slip_of_the_hand_is_not_unset(key: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        with_changes({"port": 5434, "settings": {"work_mem": "8MB"}}, {}, [key])


def test_a_key_stands_in_the_registration_itself() -> None:
    with pytest.raises(UsageError, match="not in a file"):
        with_changes({}, {"public_key_file": "/etc/logship/x.pub"}, ())


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("Big One", Code.USAGE, "cannot name an instance"),
        ("orders", Code.INSTANCE_EXISTS, "declared in the settings file"),
        ("billing", Code.INSTANCE_EXISTS, "there is an instance billing already"),
        ("old", Code.INSTANCE_EXISTS, "being removed"),
        ("torn", Code.REGISTRATION_DAMAGED, "torn"),
    ],
)
def test_a_name_is_given_once(name: str, code: Code, what: str) -> None:
    there = registered(
        entry("billing"),
        entry("old", removing=LEAVING),
        torn=LogshipError(Code.REGISTRATION_DAMAGED, "torn"),
    )
    with pytest.raises(LogshipError) as caught:
        check_new_name(name, DECLARED, there)
    assert caught.value.code is code and what in caught.value.what
    check_new_name("new", DECLARED, there)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("orders", Code.INSTANCE_DECLARED),
        ("torn", Code.REGISTRATION_DAMAGED),
        ("nonesuch", Code.UNKNOWN_INSTANCE),
    ],
)
def test_only_what_is_registered_is_changed_or_removed(name: str, code: Code) -> None:
    there = registered(entry("billing"), torn=LogshipError(Code.REGISTRATION_DAMAGED, "torn"))
    with pytest.raises(LogshipError) as caught:
        registered_entry(name, DECLARED, there)
    assert caught.value.code is code
    assert registered_entry("billing", DECLARED, there).settings.port == 5434


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"port": 5433}, "instances.new and instances.orders have the same port"),
        ({"port": 7432}, "on which the link listens"),
        ({"public_key": KEY}, "instances.new and instances.billing have the same public key"),
        ({"public_key": ""}, "both missing"),
        ({"bucket": True}, "there is no table [bucket]"),
        ({"port": 5433, "public_key": KEY}, "the same port; instances.new and"),
    ],
)
def test_a_new_one_must_fit_beside_the_others(said: dict[str, Any], what: str) -> None:
    together = effective(DECLARED, registered(entry("billing")))
    with pytest.raises(UsageError) as caught:
        candidate = settings_of("new", {"port": 5440, "public_key": OTHER_KEY, **said})
        check_together(together, "new", candidate)
    assert what in caught.value.what


def test_one_that_is_changed_is_not_compared_with_itself() -> None:
    together = effective(DECLARED, registered(entry("billing")))
    check_together(together, "billing", entry("billing", seed="manual").settings)
    with pytest.raises(UsageError, match=r"billing and instances\.orders"):
        check_together(together, "billing", entry("billing", port=5433).settings)


def test_a_key_that_is_in_a_file_elsewhere_is_not_shared_either() -> None:
    with pytest.raises(RefusedError, match="the one of orders"):
        check_key_is_its_own("new", KEY, {KEY: "orders"}, "ours")
    check_key_is_its_own("orders", KEY, {KEY: "orders"}, "ours")
    check_key_is_its_own("new", OTHER_KEY, {KEY: "orders"}, "ours")
    with pytest.raises(RefusedError, match="the applier's own"):
        check_key_is_its_own("new", KEY, {}, KEY)


def test_ports_that_are_spoken_for() -> None:
    together = effective(DECLARED, registered(entry("billing")))
    assert taken_ports(together, 7432) == {5433, 5434, 7432}


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        (OnDisk(True, False, 0), {}, Removal(keep_data=False, keep_server=False)),
        (OnDisk(True, False, 1), {"keep_data": True}, Removal(keep_data=True, keep_server=False)),
        (OnDisk(True, True, 0), {"keep_data": True}, Removal(keep_data=True, keep_server=True)),
        (OnDisk(True, True, 0), {"promoted": True}, Removal(keep_data=False, keep_server=False)),
        (OnDisk(False, False, 0), {"keep_data": True}, Removal(keep_data=True, keep_server=True)),
    ],
)
def test_what_becomes_of_one_that_is_removed(
    found: OnDisk, options: dict[str, bool], expected: Removal
) -> None:
    said = {"keep_data": False, "promoted": False, **options}
    assert plan_removal("orders", found, **said) == expected


@pytest.mark.parametrize(
    ("found", "code", "what"),
    [
        (OnDisk(True, True, 0), Code.ALREADY_PROMOTED, "its server is production"),
        (OnDisk(False, False, 0), Code.ALREADY_PROMOTED, "it may have been promoted"),
        (OnDisk(True, False, 2), Code.REMOVE_REFUSED, "a restore or a drill reads"),
    ],
)
def test_what_is_not_removed_by_a_slip(found: OnDisk, code: Code, what: str) -> None:
    with pytest.raises(RefusedError) as caught:
        plan_removal("orders", found, keep_data=False, promoted=False)
    assert caught.value.code is code and what in caught.value.what
    assert "--keep-data" in caught.value.hint


def test_the_port_of_a_promoted_server_stays() -> None:
    promoted, unknown = OnDisk(True, True, 0), OnDisk(False, False, 0)
    check_port_change("orders", OnDisk(True, False, 0), 5433, 5434)
    check_port_change("orders", promoted, 5433, 5433)
    check_port_change("orders", unknown, 5433, 5433)
    with pytest.raises(RefusedError, match="clients connect to port 5433"):
        check_port_change("orders", promoted, 5433, 5434)
    with pytest.raises(RefusedError, match="may have been promoted"):
        check_port_change("orders", unknown, 5433, 5434)


def test_the_list_says_where_each_is_from_and_what_is_wrong() -> None:
    there = registered(
        entry("billing", port=5433),
        entry("crm", port=5435, public_key=OTHER_KEY, settings={"work_mem": "8MB"}),
        entry("old", removing=LEAVING),
        torn=LogshipError(Code.REGISTRATION_DAMAGED, "torn", "mend it"),
    )
    places = IncarnationPlaces(Path("/wal/instances/crm/1-17"), Path("/data/instances/crm/1-17"))
    documents = describe(DECLARED, there, {"crm": places})
    assert [each["name"] for each in documents] == ["billing", "crm", "old", "orders", "torn"]
    billing, crm, old, orders, torn = documents
    assert "the same port" in billing["error"]["what"]
    assert crm == {
        "name": "crm",
        "origin": "registered",
        "port": 5435,
        "settings": {"public_key": OTHER_KEY, "port": 5435, "settings": {"work_mem": "8MB"}},
        "removing": False,
        "error": None,
        "store": "/wal/instances/crm/1-17/wal",
        "standby": "/data/instances/crm/1-17",
    }
    assert old["removing"] and old["error"] is None
    assert orders["origin"] == "declared"
    assert orders["settings"]["public_key_file"] == "/etc/logship/orders.pub"
    assert torn["error"]["code"] == "registration-damaged" and torn["port"] is None
    text = "\n".join(list_lines(documents))
    assert "being removed" in text and "torn: torn [registration-damaged]" in text
    assert "applier add" in next(list_lines([]))
