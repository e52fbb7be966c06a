"""The shipper as a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logship.durable import RealDisk
from logship.errors import Code, RefusedError
from logship.settings import parse_settings
from shipper.agent import run
from shipper.settings import ShipperSettings


def test_a_state_directory_that_another_process_uses_is_left_alone(tmp_path: Path) -> None:
    settings = parse_settings(
        f'instance = "main"\nstate_directory = "{tmp_path}"\n'
        f'[primary]\nconninfo = "host={tmp_path}"\n[bucket]\nurl = "file://{tmp_path}/bucket"\n',
        ShipperSettings,
        file=Path("shipper.toml"),
    )
    directory = settings.instance_directory
    directory.mkdir(parents=True)
    (directory / "epoch.json").write_text("{}")
    lock = RealDisk().lock(directory / "lock")
    try:
        with pytest.raises(RefusedError) as caught:
            run(settings)
    finally:
        os.close(lock)
    assert caught.value.code is Code.INSTANCE_BUSY
    assert {each.name for each in directory.iterdir()} == {"epoch.json", "lock"}
    assert not (tmp_path / "bucket").exists()
