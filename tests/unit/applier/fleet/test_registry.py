"""The files of the registered instances: what is kept, and what a damaged one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from applier.fleet.registry import Registration, Registry, Removal
from applier.fleet.settings import load_effective_settings
from logship.errors import Code, LogshipError

SAID = {"port": 5434, "public_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_what_was_said_is_kept_and_nothing_else(registry: Registry) -> None:
    assert registry.load() == ({}, {})
    registry.save(Registration(name="orders", settings=SAID))
    (entry,) = registry.load().entries.values()
    assert entry.registration.settings == SAID
    assert entry.settings.seed == "auto"
    assert json.loads(registry.path("orders").read_text())["settings"] == SAID
    assert registry.path("orders").stat().st_mode & 0o777 == 0o600


def test_a_removal_is_remembered(registry: Registry) -> None:
    removal = Removal(keep_data=True, keep_server=True)
    registry.save(Registration(name="orders", settings=SAID, removing=removal))
    assert registry.load().entries["orders"].registration.removing == removal
    registry.remove("orders")
    registry.remove("orders")
    assert registry.load().entries == {}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "can't be used"),
        ("{", "can't be used"),
        ("[]", "can't be used"),
        ('{"name": "other", "settings": {"port": 1}}', "of the instance 'other'"),
        ('{"format": 99, "name": "bad", "settings": {}}', "a newer Logship (format 99)"),
        ('{"name": "bad", "settings": {"port": 0}}', "instances.bad.port must be"),
        ('{"name": "bad", "settings": {"prot": 1}}', "instances.bad.prot is not a setting"),
        ("\udcff", "can't be used"),
        ("[" * 100_000, "can't be used"),
    ],
)
def test_a_file_that_can_not_be_used_stops_no_other(
    registry: Registry, content: str, what: str
) -> None:
    registry.save(Registration(name="orders", settings=SAID))
    registry.path("bad").write_bytes(content.encode(errors="surrogateescape"))
    loaded = registry.load()
    assert list(loaded.entries) == ["orders"]
    error = loaded.unreadable["bad"]
    assert error.code is Code.REGISTRATION_DAMAGED
    assert what in error.what and str(registry.path("bad")) in error.what


def test_what_is_not_ours_is_left_alone(registry: Registry) -> None:
    registry.save(Registration(name="orders", settings=SAID))
    (registry.directory / ".billing.json.tmp").write_text("{")
    (registry.directory / "README").write_text("by an operator")
    (registry.directory / "Big One.json").write_text("{}")
    loaded = registry.load()
    assert list(loaded.entries) == ["orders"] and list(loaded.unreadable) == ["Big One"]


def test_a_directory_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "fleet").write_text("not a directory")
    registry = Registry(tmp_path)
    assert registry.load() == ({}, {})
    with pytest.raises(LogshipError) as caught:
        registry.save(Registration(name="orders", settings=SAID))
    assert caught.value.code is Code.STORE_FAILED and caught.value.retryable


def test_commands_without_an_applier_know_the_registered_too(tmp_path: Path) -> None:
    file = tmp_path / "applier.toml"
    file.write_text('directory = "state"\n')
    Registry(tmp_path / "state").save(Registration(name="orders", settings=SAID))
    assert load_effective_settings(file).instances["orders"].port == 5434
