"""Which volume a new cluster goes to, and that one that is away is not taken for empty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from applier.fleet.places import InstancePlaces, Volumes, check_mounted
from applier.fleet.volumes import VolumeFacts, look, place, roomiest
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError
from logship.identity import Incarnation
from logship.settings import parse_settings

INCARNATION = Incarnation(7_301_234_567_890_123_456, 17)


def settings(directory: Path, text: str = "") -> ApplierSettings:
    return parse_settings(text, ApplierSettings, file=directory / "applier.toml")


@pytest.mark.parametrize(
    ("free", "chosen"),
    [
        ([(100, 0), (200, 9)], 1),
        ([(100, 2), (100, 1)], 1),
        ([(100, 1), (100, 1)], 0),
        ([(0, 0)], 0),
    ],
)
def test_the_one_with_the_most_room(free: list[tuple[int, int]], chosen: int) -> None:
    facts = [VolumeFacts(Path(f"/v{n}"), *each) for n, each in enumerate(free)]
    assert roomiest(facts) is facts[chosen]


def test_one_that_is_away_is_not_chosen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there" / "instances" / "a").mkdir(parents=True)
    found = look([tmp_path / "away", tmp_path / "file", tmp_path / "there"])
    assert [(each.path.name, each.instances) for each in found] == [("there", 1)]


def test_wal_and_data_go_to_volumes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "data").mkdir()
    places = InstancePlaces(tmp_path / "state", "orders")
    text = "store.volumes = ['gone', 'wal']\nstandby.volumes = ['data']\n"
    volumes = place(settings(tmp_path, text), places, INCARNATION)
    assert volumes == Volumes(store=str(tmp_path / "wal"), standby=str(tmp_path / "data"))
    its = places.of(INCARNATION, volumes)
    assert its.wal == tmp_path / "wal/instances/orders" / str(INCARNATION) / "wal"
    assert its.standby.is_dir() and its.standby.is_relative_to(tmp_path / "data")
    assert places.home == tmp_path / "state/instances/orders"
    check_mounted(its, volumes)


def test_without_volumes_everything_is_in_the_directory(tmp_path: Path) -> None:
    places = InstancePlaces(tmp_path, "orders")
    volumes = place(settings(tmp_path), places, INCARNATION)
    its = places.of(INCARNATION, volumes)
    assert its.store == its.standby == tmp_path / "instances/orders" / str(INCARNATION)
    check_mounted(its, volumes)  # it is made when it is used


def test_no_volume_at_all_is_an_error_and_not_another_place(tmp_path: Path) -> None:
    with pytest.raises(LogshipError) as caught:
        place(
            settings(tmp_path, "store.volumes = ['gone']"),
            InstancePlaces(tmp_path, "orders"),
            INCARNATION,
        )
    assert caught.value.code is Code.STORE_FAILED and caught.value.retryable
    assert "store.volumes" in caught.value.what and os.listdir(tmp_path) == []


def test_an_empty_mount_point_is_not_an_instance_that_has_nothing(tmp_path: Path) -> None:
    volumes = Volumes(store=str(tmp_path / "wal"))
    (tmp_path / "wal").mkdir()
    with pytest.raises(LogshipError, match="is not there") as caught:
        check_mounted(InstancePlaces(tmp_path, "orders").of(INCARNATION, volumes), volumes)
    assert caught.value.retryable and str(tmp_path / "wal") in caught.value.hint
