"""What `applier check` says of instances that were added, and of an applier that has none."""

from __future__ import annotations

from pathlib import Path

from applier.commands.check import check_registered
from applier.fleet.registry import Entry, Registered, Registration, Removal, settings_of
from applier.settings import ApplierSettings
from logship.settings import parse_settings

FILE = Path("/etc/logship/applier.toml")
SAID = {"port": 5434, "public_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"}


def entry(name: str, removing: Removal | None = None) -> Entry:
    return Entry(Registration(name=name, settings=SAID, removing=removing), settings_of(name, SAID))


def test_an_applier_without_instances_is_told_how_to_add_one() -> None:
    declared = parse_settings("", ApplierSettings, file=FILE)
    (found,) = check_registered(declared, Registered({}, {}))
    assert found.level == "warn" and "applier add" in found.hint


def test_one_that_is_also_declared_and_one_that_was_half_removed_are_named() -> None:
    text = "[instances.twice]\nport = 1\npublic_key_file = 'x'\n"
    declared = parse_settings(text, ApplierSettings, file=FILE)
    going = Removal(keep_data=False, keep_server=False)
    registered = Registered({"old": entry("old", going), "twice": entry("twice")}, {})
    old, twice = check_registered(declared, registered)
    assert (old.level, twice.level) == ("warn", "warn")
    assert "cut off" in old.what and "the settings file too" in twice.what
    assert "fleet/twice.json" in twice.hint
