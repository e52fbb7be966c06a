"""`applier check` and a standby's parameters: what is set and will not be in force is said, and
what its server would not start with."""

from __future__ import annotations

from pathlib import Path

from applier.commands.check_parameters import check_accepted, check_parameters
from applier.fleet.places import InstancePlaces
from applier.operations.record import InstanceRecord, record_path, save_record
from applier.settings import ApplierSettings
from logship.checks import Check
from logship.postgres.run_as import RunAs
from logship.settings import parse_settings
from tests.support.link_frames import profile
from tests.unit.applier.operations.conftest import picky_installation, promotion

PRIMARY = profile(max_connections=40, max_wal_senders=12)


def findings(directory: Path, more: str) -> list[Check]:
    return list(check_parameters(settings_with(directory, more)))


def settings_with(directory: Path, more: str) -> ApplierSettings:
    return parse_settings(
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


def test_what_no_server_takes_is_told_of_each_instance(shared_tmp_path: Path) -> None:
    servers = [picky_installation(shared_tmp_path, PRIMARY.major, "work_memm")]
    told = list(
        check_accepted(
            settings_with(
                shared_tmp_path,
                """
[instances.billing]
port = 5434
public_key = "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
settings = {jit = false}
[standby.settings]
work_memm = "1MB"
""",
            ),
            servers,
            RunAs.of(None),
        )
    )
    assert [(each.name, each.level) for each in told] == [
        ("accepted:orders", "fail"),
        ("accepted:billing", "fail"),
    ]
    assert 'unrecognized configuration parameter "work_memm"' in told[0].what
    assert all(each.hint for each in told)


def test_only_servers_of_the_primarys_major_are_asked(shared_tmp_path: Path) -> None:
    old = picky_installation(shared_tmp_path, PRIMARY.major - 1)
    fits = picky_installation(shared_tmp_path, PRIMARY.major, "gone_since")
    settings = settings_with(shared_tmp_path, "settings = {gone_since = 1}")
    assert not list(check_accepted(settings, [old, fits], RunAs.of(None))), "it may be any, yet"
    heard(shared_tmp_path)
    (told,) = check_accepted(settings, [old, fits], RunAs.of(None))
    assert told.name == "accepted:orders"


def test_a_promoted_standby_is_nobodys_to_ask_about(shared_tmp_path: Path) -> None:
    servers = [picky_installation(shared_tmp_path, PRIMARY.major, "work_memm")]
    settings = settings_with(shared_tmp_path, "settings = {work_memm = '1MB'}")
    home = heard(shared_tmp_path)
    assert list(check_accepted(settings, servers, RunAs.of(None)))
    save_record(home, InstanceRecord(name="orders", profile=PRIMARY, promotion=promotion()))
    assert not list(check_accepted(settings, servers, RunAs.of(None)))
    record_path(home).write_text("{")
    assert not list(check_accepted(settings, servers, RunAs.of(None))), "said by the other check"
