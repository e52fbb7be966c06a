"""`shipper check` of a bucket that is written to meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from logship.bucket.epoch import Epoch, this_writer
from logship.identity import Profile
from logship.lsn import Position
from logship.objects.directory import DirectoryStore
from logship.settings import parse_settings
from shipper.commands.bucket_checks import check_bucket
from shipper.settings import ShipperSettings
from tests.support.bucket_writer import BucketWriter
from tests.support.link_frames import SEGMENT_BYTES, at, profile

S = SEGMENT_BYTES


@pytest.mark.parametrize("is_copy", [False, True])
def test_a_primary_whose_log_grows_while_it_is_looked_at_is_no_copy_of_itself(
    tmp_path: Path, is_copy: bool
) -> None:
    bucket = f'url = "file://{tmp_path}/bucket"'
    settings = parse_settings(
        f'instance = "orders"\nstate_directory = "{tmp_path}"\n'
        f'[primary]\nconninfo = "host={tmp_path}"\n[bucket]\n{bucket}\n',
        ShipperSettings,
        file=Path("shipper.toml"),
    )
    directory = settings.instance_directory
    directory.mkdir()
    (directory / "shipper-id").write_text("shipper-a\n")
    store = DirectoryStore(tmp_path / "bucket")
    Epoch(store, "orders", this_writer("shipper-a", ""), directory / "epoch.json").take()
    writer = BucketWriter(store, "orders", profile())
    writer.write_many(1, S, S + 1000, 1000)
    asked = 0

    def ask() -> tuple[Profile, Position]:
        nonlocal asked
        position = at(1, S + 1000 + (0 if is_copy else asked * 500))
        if not asked:
            writer.write_many(1, S + 1000, S + 1500, 500)
        asked += 1
        return profile(), position

    assert settings.bucket is not None
    found = {each.name: each for each in check_bucket(settings, settings.bucket, ask)}
    assert found["bucket-epoch"].level == ("fail" if is_copy else "ok"), found
