"""Retention on a real S3 server (SeaweedFS): plain, versioned, locked, and not ours to change."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from applier.retention.bucket import BucketParts, Rules, retain_bucket
from applier.retention.plan import Need
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import SeedArchiveWriter, list_seeds, read_seed
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.objects.opening import open_store
from logship.settings_bucket import BucketSettings
from tests.support.s3_server import S3Bucket, credentials_of
from tests.unit.applier.receivers.seed.archives import (
    START_LSN,
    SYSTEM_IDENTIFIER,
    entry,
    manifest,
    seed,
)

pytestmark = pytest.mark.integration

KEYS = Keys("main", Incarnation(SYSTEM_IDENTIFIER, 17))
S = 1 << 20
FIRST = START_LSN // S
DAY = 86_400.0


@pytest.fixture
def raw(s3_bucket: S3Bucket) -> Iterator[Any]:
    client = boto3.Session().client(
        "s3",
        endpoint_url=s3_bucket.endpoint_url,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    yield client
    client.close()


def opened(s3_bucket: S3Bucket, bucket: str) -> ObjectStore:
    return open_store(BucketSettings(url=f"s3://{bucket}/p", endpoint_url=s3_bucket.endpoint_url))


def fill(store: ObjectStore) -> list[str]:
    """WAL around a seed's start and two seeds; returns the keys of what lies before it."""
    for seed_id in ("aa", "bb"):
        archive = entry("backup_label", b"x")
        writer = SeedArchiveWriter(store, KEYS)
        for frame, payload in seed(
            [("", archive)], manifest({"backup_label": b"x"}), seed_id=seed_id
        ):
            writer.take(frame, payload)
    wal = [KEYS.wal(Place(1, Lsn((FIRST + number) * S))) for number in range(-2, 2)]
    for key in wal:
        store.put(key, b"x" * 100)
    return wal[:2]


def retain(store: ObjectStore, *, dry_run: bool = False) -> BucketParts:
    """As it is in ten days, with one seed and a day of WAL to be kept."""
    now = time.time() + 10 * DAY
    need = Need(1, (FIRST + 1) * S, "the applier")
    rules = Rules(1, now - DAY, now)
    return retain_bucket(store, KEYS, S, rules, needs=[need], dry_run=dry_run)


def keys(store: ObjectStore) -> set[str]:
    return {each.key for each in store.listing("")}


def check_what_is_left(store: ObjectStore) -> None:
    (info,) = list_seeds(store, KEYS)
    assert info.name.seed_id == "bb"
    assert len(list(read_seed(store, KEYS, info))) == 6
    wal = {key for key in keys(store) if key.startswith(KEYS.all_wal)}
    assert wal == {KEYS.wal(Place(1, Lsn((FIRST + number) * S))) for number in (0, 1)}


def test_what_nothing_needs_goes(s3_bucket: S3Bucket) -> None:
    store = s3_bucket.store()
    fill(store)
    before = keys(store)
    told = retain(store, dry_run=True)
    assert keys(store) == before
    parts = retain(store)
    assert parts.wal.removed == told.wal.removed and not parts.wal.not_removed
    check_what_is_left(store)
    store.close()


def test_a_bucket_with_versions_keeps_the_old_ones_behind(s3_bucket: S3Bucket, raw: Any) -> None:
    bucket = f"versions-{secrets.token_hex(4)}"
    raw.create_bucket(Bucket=bucket)
    raw.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = opened(s3_bucket, bucket)
    gone = fill(store)
    assert not retain(store).wal.not_removed
    check_what_is_left(store)
    versions = raw.list_object_versions(Bucket=bucket).get("Versions", [])
    assert {f"p/{key}" for key in gone} <= {each["Key"] for each in versions}
    store.close()


def test_a_locked_bucket_hides_what_is_let_go_and_keeps_its_versions(
    s3_bucket: S3Bucket, raw: Any
) -> None:
    bucket = f"locked-{secrets.token_hex(4)}"
    raw.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    store = opened(s3_bucket, bucket)
    gone = fill(store)
    until = datetime.now(UTC) + timedelta(days=1)
    for each in raw.list_objects_v2(Bucket=bucket)["Contents"]:
        raw.put_object_retention(
            Bucket=bucket,
            Key=each["Key"],
            Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
        )
    parts = retain(store)
    assert not parts.wal.not_removed and not parts.seeds.not_removed
    check_what_is_left(store)
    answer = raw.list_object_versions(Bucket=bucket)
    assert {f"p/{key}" for key in gone} <= {each["Key"] for each in answer["Versions"]}
    # What the documentation says of having it back.
    for each in answer["DeleteMarkers"]:
        raw.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])
    assert [info.name.seed_id for info in list_seeds(store, KEYS)] == ["aa", "bb"]
    assert set(gone) <= keys(store)
    store.close()


def test_who_may_only_read_is_told_what_stays(s3_bucket: S3Bucket) -> None:
    store = s3_bucket.store()
    gone = fill(store)
    before = keys(store)
    with credentials_of(s3_bucket.server.reader):
        reader = s3_bucket.store()
        parts = retain(reader)
        reader.close()
    assert keys(store) == before
    # The older seed could not go: its end is named, and the WAL that it needs was not tried.
    (end,) = parts.seeds.not_removed
    assert end.key.endswith("-aa/end") and end.why
    assert {each.key for each in parts.wal.not_removed} == set(gone)
    store.close()
