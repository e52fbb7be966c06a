"""Settings from the environment stand above the file's, and are checked as those are."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.settings import ApplierSettings, load_applier_settings
from logship.settings import SettingsError, parse_settings
from logship.settings_environment import merge_environment

FILE = Path("/etc/logship/applier.toml")
FILE_TEXT = """
link.listen = "tcp://*:1"
[instances.main]
public_key_file = "main.pub"
port = 5433
"""


def read(environment: dict[str, str], text: str = FILE_TEXT) -> ApplierSettings:
    return parse_settings(text, ApplierSettings, file=FILE, environment=environment)


def found(environment: dict[str, str], text: str = FILE_TEXT) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read(environment, text)
    return caught.value


def test_every_kind_of_value_can_be_given() -> None:
    settings = read(
        {
            "LOGSHIP__DIRECTORY": "data",
            "LOGSHIP__LINK__LISTEN": "tcp://*:2",
            "LOGSHIP__LINK__HEARTBEAT_SECONDS": "0.5",
            "LOGSHIP__LOG__LEVEL": "debug",
            "LOGSHIP__STANDBY__STOP_WITH_APPLIER": "true",
            "LOGSHIP__STANDBY__LISTEN_ADDRESSES": "*",
            "LOGSHIP__STANDBY__SETTINGS__WORK_MEM": "64MB",
            "LOGSHIP__STANDBY__SETTINGS__MAX_CONNECTIONS": "300",
            "LOGSHIP__STORE__VOLUMES": '["/srv/a", "b"]',
            "LOGSHIP__INSTANCES__MAIN__PORT": "6000",
            "LOGSHIP__INSTANCES__my-other__PUBLIC_KEY_FILE": "/keys/other.pub",
            "LOGSHIP__INSTANCES__my-other__PORT": "6001",
            "LOGSHIP_DEBUG": "1",
        }
    )
    assert settings.directory == Path("/etc/logship/data")
    assert settings.link.listen == "tcp://*:2"
    assert settings.link.heartbeat_seconds == 0.5
    assert settings.log.level == "debug"
    assert settings.standby.stop_with_applier
    assert settings.standby.listen_addresses == "*"
    assert settings.standby.settings == {"work_mem": "64MB", "max_connections": 300}
    assert settings.store.volumes == [Path("/srv/a"), Path("/etc/logship/b")]
    assert settings.instances["main"].port == 6000
    assert settings.instances["main"].public_key_file == Path("/etc/logship/main.pub")
    assert settings.instances["my-other"].port == 6001


def test_a_file_is_as_before_without_variables() -> None:
    assert read({"PATH": "/bin", "LOGSHIP_APPLIER": "/run/a.sock"}) == parse_settings(
        FILE_TEXT, ApplierSettings, file=FILE
    )


def test_what_is_wrong_names_its_variable_and_no_line() -> None:
    error = found(
        {
            "LOGSHIP__INSTANCES__MAIN__PORT": "many",
            "LOGSHIP__LINK__LISTN": "tcp://*:2",
            "LOGSHIP__API__SOCKET": "",
        }
    )
    by_key = {each.key: each for each in error.findings}
    assert by_key.keys() == {"instances.main.port", "link.listn", "api.socket"}
    assert {each.line for each in error.findings} == {0}
    port = by_key["instances.main.port"]
    assert "given by LOGSHIP__INSTANCES__MAIN__PORT in the environment" in port.what
    assert "many" not in error.what
    assert "listen" in by_key["link.listn"].hint


@pytest.mark.parametrize("text", ["1\nport = 2", "1979-05-27", "[" * 5000, "", "'"])
def test_what_is_no_value_is_refused_as_text(text: str) -> None:
    error = found({"LOGSHIP__INSTANCES__MAIN__PORT": text})
    assert [each.key for each in error.findings] == ["instances.main.port"]


@pytest.mark.parametrize(
    "name",
    [
        *("LOGSHIP__", "LOGSHIP____", "LOGSHIP__LINK", "LOGSHIP__LINK__A__B"),
        *("LOGSHIP_LINK__LISTEN", "logship__LINK__LISTEN", "Logship_link__listen"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name: str) -> None:
    assert found({name: "x"}).findings


def test_a_file_whose_table_is_none_is_refused_for_that() -> None:
    error = found({"LOGSHIP__LINK__LISTEN": "tcp://*:2"}, "link = 3")
    assert [(each.line, each.key) for each in error.findings] == [(1, "link")]


def test_a_file_is_not_changed_nor_followed_to_its_bottom() -> None:
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    document: dict[str, object] = {"link": {"listen": "tcp://*:1"}, "deep": deep}
    merged = merge_environment(document, ApplierSettings, {"LOGSHIP__LINK__LISTEN": "tcp://*:2"})
    assert merged.document["link"] == {"listen": "tcp://*:2"}
    assert document["link"] == {"listen": "tcp://*:1"}
    while deep:  # or its end would be a recursion
        deep = deep.pop("a")  # type: ignore[assignment]


def test_commands_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "applier.toml"
    file.write_text("")
    monkeypatch.setenv("LOGSHIP__LINK__SECRET_KEY_FILE", "/keys/applier.key")
    assert load_applier_settings(file).link.secret_key_file == Path("/keys/applier.key")
