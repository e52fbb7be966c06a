"""Where a restore may go, and which bucket it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.restore.opening import Places, bucket_settings, with_a_way_out
from applier.restore.restoring import Place, check_place
from applier.settings import ApplierSettings, BucketSettings
from logship.errors import Code, LogshipError, RefusedError, UsageError

OWN = BucketSettings(
    url="s3://wal-archive/logship",
    endpoint_url="https://s3.example.com",
    identity_files=[Path("/etc/logship/main.age")],
)


def chosen(url: str, own: BucketSettings | None = OWN) -> BucketSettings:
    found = bucket_settings(ApplierSettings(bucket=own), "main", Places(bucket_url=url))
    assert found is not None
    return found


def test_another_bucket_is_of_the_same_server_and_opened_by_the_same_identities() -> None:
    other = chosen("s3://copy/logship")
    assert other.url == "s3://copy/logship"
    assert other.endpoint_url == OWN.endpoint_url
    assert other.identity_files == OWN.identity_files


def test_a_copy_in_a_directory_has_no_server_but_the_same_identities() -> None:
    copy = chosen("file:///mnt/copy")
    assert (copy.url, copy.endpoint_url) == ("file:///mnt/copy", "")
    assert copy.identity_files == OWN.identity_files


def test_without_a_bucket_in_the_settings_the_url_is_all_there_is() -> None:
    assert chosen("s3://copy", None) == BucketSettings(url="s3://copy")
    with pytest.raises(UsageError, match="is no bucket"):
        chosen("https://copy")


@pytest.mark.parametrize("port", [0, -1, 65_536, 99_999])
def test_what_is_no_port_is_said_to_be_none(tmp_path: Path, port: int) -> None:
    with pytest.raises(UsageError, match=f"{port} is no port"):
        check_place(Place(tmp_path / "new", port, "promote"))


def test_a_file_in_the_place_of_the_directory_is_not_called_full(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match="is no directory"):
        check_place(Place(tmp_path / "file", 1, "promote"))


def test_a_bucket_that_is_away_can_be_left_out_and_that_is_said() -> None:
    away = LogshipError(Code.BUCKET_UNREACHABLE, "nobody answers", "look at it", retryable=True)
    with pytest.raises(LogshipError, match="nobody answers") as caught, with_a_way_out():
        raise away
    assert caught.value.hint.startswith("look at it (--no-bucket does")
    assert caught.value.retryable


def test_what_a_killed_restore_left_may_still_run_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(RefusedError, match="is not empty") as caught:
        check_place(Place(tmp_path, 1, "promote"))
    assert "its server may still run" in caught.value.hint
