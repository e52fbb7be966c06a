"""Which servers a connection string means."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.postgres.conninfo import (
    addresses_of,
    attempt_timeout_seconds,
    effective_options,
    joined,
    parse_conninfo,
    targets_of,
)


@pytest.mark.parametrize(
    "conninfo", ["host=h password=se cret", "postgresql://u:secret@[h", "passwort=secret"]
)
def test_a_string_that_can_not_be_read_is_not_quoted(conninfo: str) -> None:
    with pytest.raises(LogshipError) as caught:
        parse_conninfo(conninfo)
    assert caught.value.code is Code.SETTINGS
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("conninfo", "targets"),
    [
        ("host=a,b port=1,2", [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}]),
        ("host=a,b port=7", [{"host": "a", "port": "7"}, {"host": "b", "port": "7"}]),
        ("host=/run/x port=7", [{"host": "/run/x", "port": "7"}]),
        ("postgresql://a:1,b:2/", [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}]),
        ("host=a,b port=1,2,3", [{}]),
    ],
)
def test_every_host_is_a_target(conninfo: str, targets: list[dict[str, str]]) -> None:
    found = targets_of(effective_options(parse_conninfo(conninfo)))
    assert [{k: v for k, v in one.items() if k != "hostaddr"} for one in found] == targets


def test_services_and_the_environment_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.write_text("[prod]\nhost=a,b\nconnect_timeout=3\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGPORT", "9")
    effective = effective_options(parse_conninfo("service=prod"))
    assert [(one["host"], one["port"]) for one in targets_of(effective)] == [("a", "9"), ("b", "9")]
    assert attempt_timeout_seconds(effective, 10) == 3
    assert attempt_timeout_seconds(effective, 2) == 2
    assert attempt_timeout_seconds({}, 2) == 2


async def test_a_host_with_several_addresses_is_tried_at_each() -> None:
    addresses = await addresses_of({"host": "127.0.0.1", "port": "7"}, 5)
    assert addresses == [{"host": "127.0.0.1", "port": "7", "hostaddr": "127.0.0.1"}]
    for untouched in ({"host": "/run/x"}, {"host": "h", "hostaddr": "10.0.0.1"}, {}):
        assert await addresses_of(untouched, 5) == [untouched]


def test_of_several_failures_the_hopeful_one_decides_and_all_are_told() -> None:
    refused = LogshipError(Code.PRIMARY_REFUSED, "a refused", "fix a")
    away = LogshipError(Code.PRIMARY_UNREACHABLE, "b is away", "wait", retryable=True)
    starting = LogshipError(Code.PRIMARY_NOT_READY, "c starts", "wait", retryable=True)
    error = joined([refused, away, starting])
    assert (error.code, error.retryable) == (Code.PRIMARY_NOT_READY, True)
    assert error.what == "a refused; b is away; c starts"
    assert joined([refused, away]).code is Code.PRIMARY_UNREACHABLE
    assert not joined([refused]).retryable
