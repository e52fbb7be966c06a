"""The standby's postgresql.conf as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from applier.standby.configuration import (
    ParameterFloors,
    PrimaryTraits,
    SettingValue,
    StandbySettings,
    check_operator_settings,
    render_configuration,
)
from applier.standby.layout import StandbyLayout
from logship.errors import Code, UsageError

LAYOUT = StandbyLayout(Path("/var/lib/logship/instances/orders/7-17"), Path("/run/orders"))


def settings(**changes: object) -> StandbySettings:
    given: dict[str, object] = {
        "instance": "orders",
        "port": 6001,
        "wal_server_directory": Path("/run/wal"),
        "wal_server_port": 5432,
        **changes,
    }
    return StandbySettings(**given)  # type: ignore[arg-type]


def render(
    floors: ParameterFloors = ParameterFloors(),  # noqa: B008
    traits: PrimaryTraits = PrimaryTraits(),  # noqa: B008
    **changes: object,
) -> dict[str, str]:
    text = render_configuration(settings(**changes), LAYOUT, floors, traits)
    return dict(
        line.split(" = ", 1) for line in text.splitlines() if re.match(r"[a-z_A-Z.]+ = ", line)
    )


def test_it_streams_from_the_wal_server_under_the_instances_name() -> None:
    found = render()
    assert found["primary_conninfo"] == (
        "'host=''/run/wal'' port=''5432'' user=''orders'' application_name=''orders'''"
    )
    assert found["restore_command"] == "''"
    assert found["hot_standby"] == "on"
    assert found["recovery_target_timeline"] == "'latest'"


def test_its_files_are_ours_and_its_socket_is_private() -> None:
    found = render()
    home = LAYOUT.incarnation_directory
    assert found["data_directory"] == f"'{home}/data'"
    assert found["hba_file"] == f"'{home}/standby/pg_hba.conf'"
    assert found["unix_socket_directories"] == "'/run/orders'"
    assert found["unix_socket_permissions"] == "'0700'"


def test_nothing_of_the_primarys_machine_is_loaded_or_written() -> None:
    found = render()
    assert found["shared_preload_libraries"] == "''"
    assert found["archive_mode"] == "off"
    assert found["synchronous_standby_names"] == "''"


def test_floors_are_the_greatest_of_primary_and_default() -> None:
    found = render(ParameterFloors(max_connections=50, max_worker_processes=20))
    assert found["max_connections"] == "100"
    assert found["max_worker_processes"] == "20"
    assert found["max_prepared_transactions"] == "0"


def test_floors_beat_an_operators_smaller_value_and_not_a_greater_one() -> None:
    floors = ParameterFloors(max_connections=500, max_wal_senders=12)
    found = render(floors, settings={"max_connections": 200, "max_wal_senders": "40"})
    assert found["max_connections"] == "500"
    assert found["max_wal_senders"] == "40"


def test_a_logical_primary_stays_one_after_the_promotion() -> None:
    assert render(traits=PrimaryTraits("logical", True))["wal_level"] == "'logical'"
    assert render(traits=PrimaryTraits("logical", True))["track_commit_timestamp"] == "on"
    assert render(traits=PrimaryTraits("minimal"))["wal_level"] == "'replica'"


def test_an_operators_parameter_wins_over_ours() -> None:
    found = render(settings={"Shared_Buffers": "2GB", "pg_stat_statements.max": 10000, "ssl": True})
    assert found["shared_buffers"] == "'2GB'"
    assert found["pg_stat_statements.max"] == "10000"
    assert found["ssl"] == "on"


def test_values_are_quoted() -> None:
    found = render(settings={"search_path": "o'brien\\x", "random_page_cost": 1.1})
    assert found["search_path"] == "'o''brien\\\\x'"
    assert found["random_page_cost"] == "1.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("primary_conninfo", "host=elsewhere"),
        ("Restore_Command", "cp"),
        ("recovery_target_lsn", "0/1"),
        ("recovery_min_apply_delay", "1h"),
        ("archive_command", "cp"),
        ("hot_standby", False),
        ("data_directory", "/"),
        ("hba_file", "/etc/hba"),
        ("synchronous_standby_names", "*"),
        ("fsync", False),
        ("include", "/etc/more.conf"),
        ("unix_socket_directories", "/tmp"),
        ("not a name", 1),
        ("work_mem = 1\nfsync", False),
        ("work_mem", "1MB\nfsync = off"),
        ("max_connections", "many"),
        ("max_connections", True),
    ],
)
def test_what_would_break_protection_is_refused(name: str, value: SettingValue) -> None:
    with pytest.raises(UsageError) as caught:
        check_operator_settings({name: value})
    assert caught.value.code is Code.SETTINGS
    assert repr(name) in caught.value.what


def test_a_parameter_in_two_spellings_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        check_operator_settings({"work_mem": "1MB", "WORK_MEM": "2MB"})


def test_recovery_parameters_that_do_no_harm_are_allowed() -> None:
    assert check_operator_settings({"recovery_prefetch": "off"}) == {"recovery_prefetch": "off"}


@pytest.mark.parametrize("directory", ["/run/" + "x" * 100, "relative", "/run/a,b"])
def test_a_socket_directory_that_no_socket_fits_in_is_refused(directory: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(wal_server_directory=Path(directory))
    assert caught.value.code is Code.SETTINGS
    with pytest.raises(UsageError):
        render_configuration(
            settings(),
            LAYOUT._replace(socket_directory=Path(directory)),
            ParameterFloors(),
            PrimaryTraits(),
        )
