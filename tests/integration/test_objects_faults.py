"""A bucket behind a bad network: each fault is survived, or reported as what it is, in time.

A fault that comes once is survived within the call; one that stays is reported.  Each S3
operation meets each fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from logship.errors import Code, LogshipError
from logship.objects import ConditionFailedError, ObjectStore
from logship.objects.opening import open_store
from tests.support.http_proxy import HttpProxy, Kind, Operation
from tests.support.s3_server import S3Bucket

pytestmark = pytest.mark.integration

DATA = bytes(range(256)) * 40
HEAD = {"logship": "head"}

NOT_THE_BODYS = {Kind.CORRUPT_UPLOAD, Kind.CORRUPT_ANSWER, Kind.FORBIDDEN, Kind.CONFLICT}
"""Faults with a body that has no checksum, or that are none of the network's."""

WITH_AN_ANSWERS_BODY = {
    Kind.STALL_IN_ANSWER,
    Kind.TRUNCATE,
    Kind.LIE_SHORT,
    Kind.LIE_LONG,
    Kind.CORRUPT_ANSWER,
}

FAULTS = {
    Operation.PUT: {*Kind} - WITH_AN_ANSWERS_BODY - {Kind.FORBIDDEN, Kind.CONFLICT},
    Operation.GET: {*Kind} - {Kind.CORRUPT_UPLOAD, Kind.FORBIDDEN, Kind.CONFLICT},
    Operation.HEAD: {*Kind} - WITH_AN_ANSWERS_BODY - NOT_THE_BODYS,
    Operation.LIST: {*Kind} - NOT_THE_BODYS,
    Operation.DELETE: {*Kind} - NOT_THE_BODYS,
}

DAMAGED = {Kind.CORRUPT_UPLOAD, Kind.CORRUPT_ANSWER, Kind.LIE_SHORT}
SILENT = {Kind.STALL, Kind.STALL_IN_ANSWER, Kind.LIE_LONG}
"""Faults after which nothing comes any more, until the client has waited long enough."""
NEVER_TRIED_AGAIN = {Kind.STRANGER}

each_operation = pytest.mark.parametrize("operation", FAULTS, ids=str)


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[HttpProxy]:
    with HttpProxy(s3_bucket.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def open_through(s3_bucket: S3Bucket, proxy: HttpProxy) -> Iterator[Callable[..., ObjectStore]]:
    """Opens stores whose requests go through the proxy."""
    stores = []

    def open_one(timeout_seconds: float = 20.0, attempts: int = 4) -> ObjectStore:
        store = open_store(
            s3_bucket.settings(
                endpoint_url=proxy.endpoint_url, timeout_seconds=timeout_seconds, attempts=attempts
            )
        )
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()


def call(store: ObjectStore, operation: Operation) -> None:
    """One call, whose result is what it must be."""
    match operation:
        case Operation.PUT:
            assert store.put("put", DATA, HEAD)
        case Operation.GET:
            fetched = store.get("there")
            assert fetched is not None
            assert (fetched.data, dict(fetched.metadata)) == (DATA, HEAD)
        case Operation.HEAD:
            described = store.describe("there")
            assert described is not None
            assert (described.size_bytes, dict(described.metadata)) == (len(DATA), HEAD)
        case Operation.LIST:
            assert [each.key for each in store.listing("there")] == ["there"]
        case Operation.DELETE:
            assert store.delete(["gone", "never"]) == []


def expected_code(kind: Kind, operation: Operation) -> Code:
    if kind in DAMAGED and operation in (Operation.PUT, Operation.GET):
        return Code.OBJECT_DAMAGED
    return Code.BUCKET_UNREACHABLE


@each_operation
def test_a_fault_that_comes_once_is_survived(
    operation: Operation,
    s3_bucket: S3Bucket,
    proxy: HttpProxy,
    open_through: Callable[..., ObjectStore],
) -> None:
    store = open_through(timeout_seconds=1.0)
    store.put("there", DATA, HEAD)
    for kind in sorted(FAULTS[operation] - NEVER_TRIED_AGAIN):
        store.put("gone", DATA)
        proxy.forget()
        proxy.fault(kind, operation)
        call(store, operation)
        asked = [each for each in proxy.seen() if each.operation is operation]
        assert len(asked) > 1, f"{kind} met nothing: {asked}"
        proxy.clear()
    if operation is Operation.PUT:
        fetched = store.get("put")
        assert fetched is not None
        assert (fetched.data, dict(fetched.metadata)) == (DATA, HEAD)
    if operation is Operation.DELETE:
        assert store.get("gone") is None


@each_operation
def test_a_fault_that_stays_is_reported_in_time(
    operation: Operation, proxy: HttpProxy, open_through: Callable[..., ObjectStore]
) -> None:
    open_through().put("there", DATA, HEAD)
    soon = open_through(timeout_seconds=0.2, attempts=2)
    # Where an answer comes, it may take longer on a busy machine.
    patient = open_through(attempts=2)
    for kind in sorted(FAULTS[operation]):
        store = soon if kind in SILENT else patient
        proxy.fault(kind, operation, times=None)
        started = time.monotonic()
        with pytest.raises(LogshipError) as caught:
            call(store, operation)
        error = caught.value
        assert error.code is expected_code(kind, operation), f"{kind}: {error}"
        assert error.retryable
        assert error.what.startswith(f"{store.name}: ")
        assert "None" not in error.what
        assert error.hint
        # Twice two attempts with a pause of up to a second, and a busy machine.
        assert time.monotonic() - started < 15, kind
        proxy.clear()
    proxy.away()
    with pytest.raises(LogshipError) as caught:
        call(patient, operation)
    assert caught.value.code is Code.BUCKET_UNREACHABLE
    proxy.back()
    call(open_through(), operation)


@each_operation
def test_a_permission_that_is_taken_away_is_reported_at_once(
    operation: Operation, proxy: HttpProxy, open_through: Callable[..., ObjectStore]
) -> None:
    store = open_through()
    store.put("there", DATA, HEAD)
    proxy.fault(Kind.FORBIDDEN, operation, times=None)
    if operation is Operation.DELETE:
        (kept,) = store.delete(["there"])
        assert kept.key == "there"
    else:
        with pytest.raises(LogshipError) as caught:
            call(store, operation)
        assert caught.value.code is Code.BUCKET_REFUSED
        assert not caught.value.retryable
    assert sum(each.operation is operation and each.status == 403 for each in proxy.seen()) == 1


def test_a_corrupted_upload_is_refused_and_replaces_nothing(
    s3_bucket: S3Bucket, proxy: HttpProxy, open_through: Callable[..., ObjectStore]
) -> None:
    store = open_through()
    store.put("there", DATA, HEAD)
    proxy.fault(Kind.CORRUPT_UPLOAD, Operation.PUT, times=None)
    for key in ("there", "new"):
        with pytest.raises(LogshipError) as caught:
            store.put(key, DATA + b"more")
        assert caught.value.code is Code.OBJECT_DAMAGED
    assert {each.status for each in proxy.seen() if each.key.endswith("new")} == {400}
    direct = s3_bucket.store()
    fetched = direct.get("there")
    assert fetched is not None
    assert fetched.data == DATA
    assert direct.get("new") is None
    direct.close()


def test_two_conditional_writes_at_once_are_a_failed_condition(
    proxy: HttpProxy, open_through: Callable[..., ObjectStore]
) -> None:
    store = open_through()
    proxy.fault(Kind.CONFLICT, Operation.PUT)
    with pytest.raises(ConditionFailedError):
        store.put("object", DATA, only_if_absent=True)


def test_a_lost_answer_to_a_conditional_write_looks_like_another_writer(
    proxy: HttpProxy, open_through: Callable[..., ObjectStore]
) -> None:
    """As the contract of `put` says: who gets this compares with what is there."""
    store = open_through()
    proxy.fault(Kind.LOSE_ANSWER, Operation.PUT)
    with pytest.raises(ConditionFailedError):
        store.put("object", DATA, HEAD, only_if_absent=True)
    fetched = store.get("object")
    assert fetched is not None
    assert (fetched.data, dict(fetched.metadata)) == (DATA, HEAD)


def test_requests_are_counted_by_what_came_of_them(
    proxy: HttpProxy, open_through: Callable[..., ObjectStore]
) -> None:
    store = open_through()
    etag = store.put("w/1", DATA)
    store.get("w/1")
    store.get("w/1", unless_etag=etag)
    store.get("w/2")
    store.describe("w/1")
    list(store.listing("w/"))
    store.folders("")
    store.delete(["w/1"])
    assert proxy.counts() == {
        "PUT": 1,
        "GET hit": 1,
        "GET unchanged": 1,
        "GET miss": 1,
        "HEAD": 1,
        "LIST": 2,
        "DELETE": 1,
    }
    assert proxy.seen()[0].key.endswith("/w/1")
