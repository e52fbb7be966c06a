"""`applier check` and a standby's parameters: what is set and will not be in force is said."""

from __future__ import annotations

from pathlib import Path

from applier.commands.check_parameters import check_parameters
from applier.fleet.places import InstancePlaces
from applier.operations.record import InstanceRecord, record_path, save_record
from applier.settings import ApplierSettings
from logship.checks import Check
from logship.settings import parse_settings
from tests.support.link_frames import profile

PRIMARY = profile(max_connections=40, max_wal_senders=12)


def findings(directory: Path, more: str) -> list[Check]:
    settings = parse_settings(
        f"""
directory = "{directory}"
[instances.orders]
port = 5433
public_key = "{"x" * 40}"
{more}
""",
        ApplierSettings,
        file=directory / "applier.toml",
    )
    return list(check_parameters(settings))


def heard(directory: Path) -> Path:
    """An applier's directory with a record of the primary."""
    home = InstancePlaces(directory, "orders").home
    home.mkdir(parents=True)
    save_record(home, InstanceRecord(name="orders", profile=PRIMARY))
    return home


def test_less_than_the_primary_has_is_told(tmp_path: Path) -> None:
    heard(tmp_path)
    (check,) = findings(tmp_path, "settings = {Max_Connections = 20, max_wal_senders = '12'}")
    assert (check.name, check.level) == ("parameters:orders", "warn")
    assert check.what == (
        "max_connections = 20 is less than the primary's 40: the standby is given the primary's"
    )
    assert check.hint


def test_those_of_all_standbys_count_as_well(tmp_path: Path) -> None:
    heard(tmp_path)
    (check,) = findings(tmp_path, "[standby.settings]\nmax_wal_senders = 3")
    assert "max_wal_senders = 3 is less than the primary's 12" in check.what


def test_as_much_is_well(tmp_path: Path) -> None:
    heard(tmp_path)
    (check,) = findings(tmp_path, "settings = {max_connections = 40}")
    assert (check.level, check.what) == ("ok", "max_connections = 40")


def test_nothing_is_said_of_other_parameters_or_of_a_primary_never_heard(tmp_path: Path) -> None:
    assert findings(tmp_path, "settings = {max_connections = 1}") == []
    heard(tmp_path)
    assert findings(tmp_path, "settings = {work_mem = '5MB'}") == []


def test_a_record_that_can_not_be_read_fails(tmp_path: Path) -> None:
    record_path(heard(tmp_path)).write_text("{")
    (check,) = findings(tmp_path, "settings = {max_connections = 40}")
    assert check.level == "fail"
