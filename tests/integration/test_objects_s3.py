"""A bucket on a real S3 server (SeaweedFS)."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from logship.errors import Code, LogshipError
from logship.objects import NotDeleted, ObjectStore
from logship.objects.opening import open_store
from logship.settings_bucket import BucketSettings
from tests.integration.object_store_contract import HEAD, ObjectStoreContract, keys
from tests.support.s3_server import BUCKET, S3Bucket, credentials_of
from tests.support.waiting import free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def store(s3_bucket: S3Bucket) -> Iterator[ObjectStore]:
    store = s3_bucket.store()
    yield store
    store.close()


@pytest.fixture
def raw(s3_bucket: S3Bucket) -> Iterator[Any]:
    """A client of boto3, for what a store does not offer."""
    client = boto3.Session().client(
        "s3",
        endpoint_url=s3_bucket.endpoint_url,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    yield client
    client.close()


class TestS3Store(ObjectStoreContract):
    """The contract."""


def test_a_whole_bucket_needs_no_prefix(s3_bucket: S3Bucket) -> None:
    s3_bucket.server.make_bucket("whole")
    store = open_store(BucketSettings(url="s3://whole", endpoint_url=s3_bucket.endpoint_url))
    assert store.name == "s3://whole"
    store.put("main/epoch", b"{}")
    assert keys(store, "") == ["main/epoch"]
    assert store.folders("") == ["main"]
    assert store.delete(["main/epoch"]) == []
    store.close()


def test_neighbours_of_the_prefix_are_not_seen(s3_bucket: S3Bucket) -> None:
    settings = BucketSettings(url=f"{s3_bucket.url}-too", endpoint_url=s3_bucket.endpoint_url)
    neighbour, store = open_store(settings), s3_bucket.store()
    neighbour.put("object", b"")
    assert keys(store, "") == store.folders("") == []
    neighbour.close()
    store.close()


def test_objects_can_be_read_with_other_tools(
    store: ObjectStore, s3_bucket: S3Bucket, raw: Any
) -> None:
    store.put("main/wal/1", b"bytes", HEAD)
    there = raw.get_object(
        Bucket=BUCKET, Key=f"{s3_bucket.prefix}/main/wal/1", ChecksumMode="ENABLED"
    )
    assert there["Body"].read() == b"bytes"
    assert there["Metadata"] == HEAD
    assert there["ChecksumCRC32C"], "it was sent with the checksum"


def test_objects_of_other_tools_can_be_read(
    store: ObjectStore, s3_bucket: S3Bucket, raw: Any
) -> None:
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        key = f"{s3_bucket.prefix}/{algorithm}"
        raw.put_object(Bucket=BUCKET, Key=key, Body=b"theirs", ChecksumAlgorithm=algorithm)
        fetched = store.get(algorithm)
        assert fetched is not None
        assert fetched.data == b"theirs"
    # In parts, its ETag is no MD5.
    key = f"{s3_bucket.prefix}/parts"
    upload = raw.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    part = raw.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"theirs")
    raw.complete_multipart_upload(
        Bucket=BUCKET,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    fetched = store.get("parts")
    assert fetched is not None
    assert fetched.data == b"theirs"


@pytest.mark.parametrize("header", ["ContentMD5", "ChecksumCRC32C"])
def test_the_server_verifies_each_checksum_by_itself(
    store: ObjectStore, s3_bucket: S3Bucket, raw: Any, header: str
) -> None:
    """What `put` relies on; a server that ignores one of them still has the other."""
    size_bytes = {"ContentMD5": 16, "ChecksumCRC32C": 4}[header]
    wrong = base64.b64encode(bytes(size_bytes)).decode()
    with pytest.raises(ClientError) as caught:
        raw.put_object(
            Bucket=BUCKET, Key=f"{s3_bucket.prefix}/object", Body=b"bytes", **{header: wrong}
        )
    assert caught.value.response["Error"]["Code"] == "BadDigest"
    assert store.get("object") is None


def test_a_versioned_bucket_behaves(s3_bucket: S3Bucket, raw: Any) -> None:
    s3_bucket.server.make_bucket("versioned")
    raw.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    store = open_store(BucketSettings(url="s3://versioned/x", endpoint_url=s3_bucket.endpoint_url))
    store.put("object", b"first", only_if_absent=True)
    assert store.delete(["object"]) == []
    assert store.get("object") is None
    assert store.describe("object") is None
    assert keys(store, "") == []
    etag = store.put("object", b"second", only_if_absent=True)
    assert [(each.key, each.etag) for each in store.listing("")] == [("object", etag)]
    fetched = store.get("object")
    assert fetched is not None
    assert fetched.data == b"second"
    versions = raw.list_object_versions(Bucket="versioned", Prefix="x/")
    assert len(versions["Versions"]) == 2, "the bucket keeps what was deleted"
    store.close()


def test_a_locked_bucket_behaves(s3_bucket: S3Bucket, raw: Any) -> None:
    raw.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    raw.put_object_lock_configuration(
        Bucket="locked",
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    store = open_store(BucketSettings(url="s3://locked", endpoint_url=s3_bucket.endpoint_url))
    store.put("object", b"kept", HEAD, only_if_absent=True)
    # A delete marker hides it; the version stays until its time is over.
    assert store.delete(["object"]) == []
    assert store.get("object") is None
    versions = raw.list_object_versions(Bucket="locked")["Versions"]
    assert [each["Key"] for each in versions] == ["object"]
    store.close()


# --- who may not, and what is not there --------------------------------------------------------


def refused(settings: BucketSettings) -> LogshipError:
    """What reading an object ends with; the same for listing and writing."""
    store = open_store(settings)
    with pytest.raises(LogshipError) as caught:
        store.get("object")
    with pytest.raises(LogshipError) as listing:
        keys(store, "")
    with pytest.raises(LogshipError) as writing:
        store.put("object", b"")
    store.close()
    assert {listing.value.code, writing.value.code} == {caught.value.code}
    return caught.value


def test_a_wrong_secret_is_named_and_not_shown(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    error = refused(s3_bucket.settings())
    assert error.code is Code.BUCKET_REFUSED
    assert not error.retryable
    assert "SignatureDoesNotMatch" in error.what
    assert s3_bucket.url in error.what
    assert "secret key" in error.hint
    assert "not-the-secret" not in str(error)
    assert error.__cause__ is None


def test_an_unknown_account_is_named(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    error = refused(s3_bucket.settings())
    assert error.code is Code.BUCKET_REFUSED
    assert "InvalidAccessKeyId" in error.what


def forget_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def test_no_credentials_are_named(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_credentials(monkeypatch)
    error = refused(s3_bucket.settings())
    assert error.code is Code.BUCKET_REFUSED
    assert "AWS_ACCESS_KEY_ID" in error.hint


def test_a_missing_profile_is_named(s3_bucket: S3Bucket) -> None:
    settings = BucketSettings(
        url=s3_bucket.url, endpoint_url=s3_bucket.endpoint_url, aws_profile="nightly"
    )
    with pytest.raises(LogshipError) as caught:
        open_store(settings)
    assert caught.value.code is Code.BUCKET_REFUSED
    assert "nightly" in caught.value.what


def test_a_profile_gives_credentials(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = s3_bucket.server.owner
    (tmp_path / "credentials").write_text(
        f"[nightly]\naws_access_key_id = {account.access_key}\n"
        f"aws_secret_access_key = {account.secret_key}\n"
    )
    settings = BucketSettings(
        url=s3_bucket.url, endpoint_url=s3_bucket.endpoint_url, aws_profile="nightly"
    )
    forget_credentials(monkeypatch)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    store = open_store(settings)
    store.put("object", b"")
    store.close()


def test_who_may_only_read_reads(s3_bucket: S3Bucket, store: ObjectStore) -> None:
    store.put("object", b"bytes")
    with credentials_of(s3_bucket.server.reader):
        reader = s3_bucket.store()
        fetched = reader.get("object")
        assert fetched is not None
        assert fetched.data == b"bytes"
        assert keys(reader, "") == ["object"]
        assert reader.get("other") is None
        with pytest.raises(LogshipError) as caught:
            reader.put("object", b"changed")
        assert caught.value.code is Code.BUCKET_REFUSED
        assert "s3:PutObject" in caught.value.hint
        (kept,) = reader.delete(["object"])
        assert kept == NotDeleted("object", kept.why)
        assert "Denied" in kept.why
        reader.close()
    assert store.describe("object") is not None


def test_a_missing_bucket_is_named(s3_bucket: S3Bucket) -> None:
    settings = BucketSettings(url="s3://no-such-bucket/x", endpoint_url=s3_bucket.endpoint_url)
    with credentials_of(s3_bucket.server.reader):  # for an owner the server makes it
        store = open_store(settings)
        for call in (lambda: store.get("object"), lambda: keys(store, "")):
            with pytest.raises(LogshipError) as caught:
                call()
            assert caught.value.code is Code.BUCKET_REFUSED
            assert "NoSuchBucket" in caught.value.what
            assert "bucket.url" in caught.value.hint
        store.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_is_not_there_may_come_back(s3_bucket: S3Bucket, host: str) -> None:
    endpoint = f"http://{host}:{free_port()}"
    error = refused(s3_bucket.settings(endpoint_url=endpoint, attempts=1))
    assert error.code is Code.BUCKET_UNREACHABLE
    assert error.retryable
    assert host in error.what
    assert "bucket.endpoint_url" in error.hint


@pytest.mark.parametrize(
    ("addressing", "begins"),
    [
        ("path", "http://no-such-host.invalid:9/{bucket}/"),
        ("auto", "http://no-such-host.invalid:9/{bucket}/"),
        ("virtual", "http://{bucket}.no-such-host.invalid:9/{prefix}/"),
    ],
)
def test_the_bucket_stands_in_the_path_or_in_the_hosts_name(
    s3_bucket: S3Bucket, addressing: Literal["path", "auto", "virtual"], begins: str
) -> None:
    settings = BucketSettings(
        url=s3_bucket.url,
        endpoint_url="http://no-such-host.invalid:9",
        addressing=addressing,
        attempts=1,
    )
    error = refused(settings)
    assert begins.format(bucket=BUCKET, prefix=s3_bucket.prefix) in error.what


def test_opening_is_what_loads_boto3() -> None:
    """Commands that open no bucket must not wait for it."""
    code = (
        "import sys, logship.objects.opening, logship.settings_bucket, logship.objects.directory\n"
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
