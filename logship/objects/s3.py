"""A bucket on an S3 server, through boto3.

Import this module where a store is opened, not before: boto3 takes a while
(`logship.objects.opening` does).

**Checksums.**  Uploads carry Content-MD5, which every S3 server verifies, and CRC-32C, which
comes back with the object.  What is fetched is compared with the CRC-32C, or with the ETag where
that is an MD5.  botocore could compute neither without more packages or a slow loop.

**Trying again.**  botocore tries each request `attempts` times, with growing pauses (its standard
mode), until too much of what it tried failed: then just once, until things go better.  It does
not see a body that breaks off, or arrives changed: those are tried once more here.

**Belief.**  An answer counts when it says what only S3 would say.  A proxy that answers everything
with a friendly page has stored nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, TypeVar

import boto3
import crc32c
from botocore import exceptions as boto
from botocore.config import Config

from logship.objects import Bytes, ConditionFailedError, Described, Fetched, NotDeleted, ObjectInfo
from logship.objects.keys import check_key
from logship.objects.s3_errors import (
    FAILURES,
    WRITE,
    OnItsWayError,
    code_of,
    cut_on_its_way,
    damaged_on_its_way,
    no_s3_server,
    status_of,
    translated,
)
from logship.settings_bucket import BucketSettings

CONNECTIONS: Final = 32
"""Requests that can be under way at a time without one waiting for another's connection."""

MOST_CONNECT_SECONDS: Final = 10.0
DELETE_KEYS: Final = 1000
"""What one DeleteObjects takes."""

_TRIES: Final = 2
"""Of a request whose body broke off or was changed on its way."""
_DEFAULT_REGION: Final = "us-east-1"
_MD5_ETAG = re.compile(r"\A[0-9a-f]{32}\Z")

_T = TypeVar("_T")


class S3Store:
    """See `logship.objects.ObjectStore`."""

    def __init__(self, settings: BucketSettings) -> None:
        """Connects to nothing.  Raises LogshipError(BUCKET_REFUSED) for a profile that is not
        there or files of AWS's tools that can't be read."""
        place = settings.place
        self._bucket = place.bucket
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._name = f"s3://{place.bucket}/{place.prefix}".rstrip("/")
        with self._errors("open"):
            self._client = _client(settings)

    @property
    def name(self) -> str:
        return self._name

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        asked: dict[str, Any] = {"ChecksumMode": "ENABLED", **self._at(key)}
        if unless_etag:
            asked["IfNoneMatch"] = f'"{unless_etag}"'

        def fetch() -> Fetched | None:
            with self._errors("read", key):
                try:
                    answer = self._client.get_object(**asked)
                except boto.ClientError as error:
                    if status_of(error) == 304 or _is_absent(error):
                        return None
                    raise
            about = self._about(answer, "read", key)
            return Fetched(self._body_of(answer, key), *about)

        return _twice(fetch)

    def describe(self, key: str) -> Described | None:
        with self._errors("look at", key):
            try:
                answer = self._client.head_object(**self._at(key))
            except boto.ClientError as error:
                if _is_absent(error):  # HEAD can't tell: the bucket may be, too
                    return None
                raise
        about = self._about(answer, "look at", key)
        return Described(int(answer["ContentLength"]), *about)

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        body = data if isinstance(data, bytes) else bytes(data)
        asked: dict[str, Any] = {
            "Body": body,
            "ContentType": "application/octet-stream",
            "ContentMD5": _base64(hashlib.md5(body, usedforsecurity=False).digest()),
            "ChecksumCRC32C": _crc32c_of(body),
            "Metadata": dict(metadata or {}),
            **self._at(key),
        }
        if only_if_absent:
            asked["IfNoneMatch"] = "*"
        if only_if_etag:
            asked["IfMatch"] = f'"{only_if_etag}"'

        def store() -> str:
            with self._errors(WRITE, key):
                try:
                    answer = self._client.put_object(**asked)
                except boto.ClientError as error:
                    if only_if_etag and code_of(error) == "NoSuchKey":
                        raise ConditionFailedError(self._name, key) from None
                    raise
            etag = _plain_etag(answer)
            if not etag:
                raise no_s3_server(self._where(WRITE, key))
            return etag

        return _twice(store)

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        kept: list[NotDeleted] = []
        for start in range(0, len(keys), DELETE_KEYS):
            kept += self._delete(keys[start : start + DELETE_KEYS])
        return kept

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        after = {"StartAfter": self._prefix + start_after} if start_after else {}
        for page in self._pages(prefix, **after):
            for each in page.get("Contents", ()):
                key = each["Key"].removeprefix(self._prefix)
                if key > start_after and not key.endswith("/"):  # "folders" of other tools
                    modified = each["LastModified"].timestamp()
                    yield ObjectInfo(key, int(each["Size"]), modified, _plain_etag(each))

    def folders(self, prefix: str) -> list[str]:
        found = [
            each["Prefix"].removeprefix(self._prefix + prefix).rstrip("/")
            for page in self._pages(prefix, Delimiter="/")
            for each in page.get("CommonPrefixes", ())
        ]
        return sorted(found)

    def close(self) -> None:
        self._client.close()

    # --- inside -----------------------------------------------------------------------------

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    @contextmanager
    def _errors(self, asked: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            # Not chained: botocore's own text may say more than a log should hold.
            raise translated(error, self._name, asked, key) from None

    def _where(self, asked: str, key: str) -> str:
        return f"{self._name}: {asked} {key}".rstrip()

    def _about(
        self, answer: Mapping[str, Any], asked: str, key: str
    ) -> tuple[Mapping[str, str], str, float]:
        """(metadata, etag, modified_at) of an answer that describes an object."""
        etag, modified = _plain_etag(answer), answer.get("LastModified")
        if not etag or modified is None:
            raise no_s3_server(self._where(asked, key))
        return answer.get("Metadata", {}), etag, modified.timestamp()

    def _pages(self, prefix: str, **asked: str) -> Iterator[Mapping[str, Any]]:
        """Each page of a listing, asked for when it is wanted."""
        token: dict[str, str] = {}
        while True:
            with self._errors("list", prefix):
                page = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, **asked, **token
                )
            if "IsTruncated" not in page:
                raise no_s3_server(self._where("list", prefix))
            yield page
            if not page["IsTruncated"]:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        objects = [{"Key": self._at(key)["Key"]} for key in keys]
        with self._errors("delete"):
            try:
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": objects}
                )
            except boto.ClientError as error:
                if code_of(error) != "AccessDenied":
                    raise
                # Some servers look at the permission once, others for each key.
                return [NotDeleted(key, "Access Denied") for key in keys]
        failures = {each["Key"]: each for each in answer.get("Errors", ())}
        gone = {each["Key"] for each in answer.get("Deleted", ())}
        kept = []
        for key, each in zip(keys, objects, strict=True):
            failure = failures.get(each["Key"])
            if failure is None and each["Key"] not in gone:
                raise no_s3_server(self._where("delete", key))
            if failure is not None and failure.get("Code") != "NoSuchKey":
                why = failure.get("Message") or failure.get("Code", "no reason given")
                kept.append(NotDeleted(key, why))
        return kept

    def _body_of(self, answer: Mapping[str, Any], key: str) -> bytes:
        """Raises OnItsWayError if it does not come whole, or as the server says that it is."""
        try:
            with closing(answer["Body"]) as body:
                data: bytes = body.read()
        except FAILURES as error:
            raise cut_on_its_way(error, self._name, "read", key) from None
        checksum = answer.get("ChecksumCRC32C", "")
        etag = _plain_etag(answer)
        if checksum and "-" not in checksum:  # "-": of the parts' checksums, not of the bytes
            fine = _crc32c_of(data) == checksum
        elif _MD5_ETAG.match(etag) and _etag_is_md5(answer):
            fine = hashlib.md5(data, usedforsecurity=False).hexdigest() == etag
        else:
            fine = True
        if not fine:
            raise damaged_on_its_way(
                self._where("read", key), "what came does not match the server's checksum"
            )
        return data


def _client(settings: BucketSettings) -> Any:
    addressing = settings.addressing
    if addressing == "auto" and settings.endpoint_url:
        addressing = "path"
    session = boto3.Session(profile_name=settings.aws_profile or None)
    client = session.client(
        "s3",
        endpoint_url=settings.endpoint_url or None,
        region_name=settings.region or session.region_name or _DEFAULT_REGION,
        config=Config(
            connect_timeout=min(settings.timeout_seconds, MOST_CONNECT_SECONDS),
            read_timeout=settings.timeout_seconds,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            retries={"mode": "standard", "total_max_attempts": settings.attempts},
            s3={"addressing_style": addressing},
            # More than that is what servers other than Amazon's stumble over.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
    return client


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """DeleteObjects must carry a checksum, and older servers know only this one."""
    body = params["body"]
    raw = body.encode() if isinstance(body, str) else body
    params["headers"]["Content-MD5"] = _base64(hashlib.md5(raw, usedforsecurity=False).digest())


def _twice(call: Callable[[], _T]) -> _T:
    """`call`, and once more if what it moved was damaged or cut on the way."""
    for _ in range(_TRIES - 1):
        try:
            return call()
        except OnItsWayError:
            pass
    return call()


def _is_absent(error: boto.ClientError) -> bool:
    """Whether it says that the key is not there (and not: the bucket)."""
    return code_of(error) in ("NoSuchKey", "404")


def _plain_etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _etag_is_md5(answer: Mapping[str, Any]) -> bool:
    """Not with keys of the customer or of a key service: Amazon's says so."""
    return (
        answer.get("ServerSideEncryption") in (None, "AES256")
        and "SSECustomerAlgorithm" not in answer
    )


def _crc32c_of(data: bytes) -> str:
    return _base64(crc32c.crc32c(data).to_bytes(4, "big"))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
