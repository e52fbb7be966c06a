"""How a shipper is: what it says of itself, and how it is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from shipper.commands.health import lines_of
from shipper.health import SOCKET_NAME, Health, State, answering, ask

AWAY = LogshipError(Code.PRIMARY_UNREACHABLE, "nobody answers", "start it", retryable=True)


def test_it_is_healthy_only_while_wal_has_its_whole_way() -> None:
    now = 10.0
    health = Health(lambda: now)
    healthy = {}
    for state in State:
        health.is_now(state)
        for reachable in (True, False):
            said = health.as_dict("main", primary_reachable=reachable)
            healthy[said["state"], said["primary_reachable"]] = said["healthy"]
    assert [key for key, well in healthy.items() if well] == [(State.SHIPPING, True)]


def test_a_state_lasts_and_its_error_is_the_last_one() -> None:
    now = 10.0
    health = Health(lambda: now)
    health.is_now(State.NO_PRIMARY, AWAY)
    now = 12.5
    health.is_now(State.NO_PRIMARY, LogshipError(Code.PRIMARY_UNREACHABLE, "still nobody"))
    said = health.as_dict("main", primary_reachable=False)
    assert said["state_seconds"] == 2.5
    assert said["error"]["what"] == "still nobody"
    health.is_now(State.SHIPPING)
    said = health.as_dict("main", primary_reachable=True)
    assert (said["state_seconds"], said["error"]) == (0.0, None)


def test_one_that_is_connected_and_can_add_nothing_is_not_healthy() -> None:
    stands = LogshipError(Code.PRIMARY_BEHIND, "it never wrote that", "have a seed made")
    health = Health(lambda: 1.0)
    health.is_now(State.SHIPPING)
    said = health.as_dict("main", primary_reachable=True, standing=stands)
    assert (said["healthy"], said["error"]) == (False, stands.as_dict())
    assert lines_of(said)[1:] == [
        "  it never wrote that [primary-behind]",
        "  hint: have a seed made",
    ]
    health.is_now(State.CONNECTING, AWAY)
    assert (
        health.as_dict("main", primary_reachable=True, standing=stands)["error"] == AWAY.as_dict()
    )


async def test_it_is_asked_by_a_socket_in_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    (directory / SOCKET_NAME).write_text("what a killed shipper left")
    health = Health()
    health.is_now(State.CONNECTING, AWAY)
    async with answering(directory, lambda: health.as_dict("main", primary_reachable=True)):
        said = await asyncio.to_thread(ask, directory)
        assert (said["state"], said["healthy"]) == ("connecting", False)
        again = await asyncio.to_thread(ask, directory)
        assert again["error"] == AWAY.as_dict()
    assert list(directory.iterdir()) == []


def test_no_answer_is_an_error(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(LogshipError) as caught:
            ask(directory)
        assert caught.value.code is Code.SHIPPER_UNREACHABLE
        assert caught.value.retryable


async def test_a_socket_that_cannot_be_made_is_no_reason_not_to_ship(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).mkdir()
    async with answering(tmp_path, dict):
        assert (tmp_path / SOCKET_NAME).is_dir()


def test_a_terminal_is_told_the_state_and_why() -> None:
    health = Health(lambda: 1.0)
    health.is_now(State.NO_PRIMARY, AWAY)
    assert lines_of(health.as_dict("main", primary_reachable=False)) == [
        "main: no-primary for 0.0 s",
        "  nobody answers [primary-unreachable]",
        "  hint: start it",
    ]
    health.is_now(State.SHIPPING)
    away = health.as_dict("main", primary_reachable=False)
    assert lines_of(away) == ["main: shipping, primary away for 0.0 s"]
    one_away = health.as_dict("main", primary_reachable=True, away={"link": AWAY, "bucket": None})
    assert not one_away["healthy"]
    assert lines_of(one_away) == [
        "main: shipping, link away, bucket away for 0.0 s",
        "  nobody answers [primary-unreachable]",
        "  hint: start it",
    ]
