from __future__ import annotations

from pathlib import Path

import pytest

from logship.objects.encryption import generate_identity
from logship.settings import SettingsError, parse_settings
from logship.settings_bucket import (
    BucketSettings,
    BucketUrl,
    check_bucket_url,
    check_recipients,
    parse_bucket_url,
)

FILE = Path("/etc/logship/shipper.toml")


def read(text: str) -> BucketSettings:
    return parse_settings(text, BucketSettings, file=FILE)


def problem(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://wal-archive", BucketUrl("wal-archive", "")),
        ("s3://wal-archive/", BucketUrl("wal-archive", "")),
        ("s3://wal.archive_1/logship/eu", BucketUrl("wal.archive_1", "logship/eu")),
        ("s3://wal-archive/logship/", BucketUrl("wal-archive", "logship")),
        ("file:///mnt/wal archive", BucketUrl(directory=Path("/mnt/wal archive"))),
    ],
)
def test_reads_where_a_bucket_is(text: str, expected: BucketUrl) -> None:
    assert parse_bucket_url(text) == expected
    assert list(check_bucket_url("bucket.url", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wal-archive",
        "s3:wal-archive",
        "s3://",
        "s3://a",
        "s3:///prefix",
        "s3://-archive",
        "s3://key:secret@archive",
        "s3://archive//x",
        "s3://archive/x/../y",
        "s3://archive/with space",
        "file://host/share",
        "file:///",
        "file://relative",
        "https://archive.example.com/x",
    ],
)
def test_says_that_a_text_is_no_place_of_a_bucket(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_bucket_url(text)
    ((what, _),) = check_bucket_url("bucket.url", text)
    assert what.startswith("bucket.url must be s3://BUCKET/PREFIX or file:///DIRECTORY: ")
    assert "secret" not in what


def test_a_url_is_all_that_is_needed() -> None:
    settings = read('url = "s3://archive/logship"')
    assert settings.place == BucketUrl("archive", "logship")
    assert settings.addressing == "auto"


@pytest.mark.parametrize(
    "line",
    [
        'endpoint_url = "s3.example.com"',
        'endpoint_url = "https://s3.example.com/bucket"',
        'endpoint_url = "https://key:secret@s3.example.com"',
        'region = "eu west"',
        'addressing = "host"',
        "timeout_seconds = 0",
        "attempts = 0",
    ],
)
def test_names_each_wrong_value(line: str) -> None:
    said = problem(f'url = "s3://archive"\n{line}')
    assert line.partition(" ")[0] in said
    assert "key:secret" not in said


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8333", "https://s3.example.com/", "http://[::1]:9"]
)
def test_takes_the_address_of_a_server(url: str) -> None:
    assert read(f'url = "s3://archive"\nendpoint_url = "{url}"').endpoint_url == url


def test_a_directory_has_no_server_and_no_profile() -> None:
    said = problem('url = "file:///mnt/wal"\nregion = "eu"\naws_profile = "nightly"')
    assert "2 problems" in said
    assert "region is given" in said
    assert "aws_profile is given" in said


def test_recipients_are_looked_at_one_by_one() -> None:
    pair = generate_identity()
    assert list(check_recipients("bucket.recipients", [pair.recipient])) == []
    ((what, _),) = check_recipients("bucket.recipients", [pair.recipient, "age1nobody"])
    assert "in place 2" in what
    assert len(list(check_recipients("bucket.recipients", [pair.recipient.upper()]))) == 1


def test_a_secret_among_the_recipients_is_named_and_not_shown() -> None:
    secret = generate_identity().file_text.splitlines()[-1]
    ((what, hint),) = check_recipients("bucket.recipients", [secret])
    assert "secret identity" in what
    assert secret not in what + hint
