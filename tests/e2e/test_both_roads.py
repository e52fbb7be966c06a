"""A link and a bucket at once: either may be away, under load, and nothing needs a hand."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from logship.bucket.keys import Keys, Place
from logship.bucket.wal_objects import read_head
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects import ObjectStore
from tests.conftest import PrimaryFactory
from tests.support.http_proxy import HttpProxy
from tests.support.load import Load
from tests.support.pair import PATIENCE_SECONDS, BucketRoad, Pair, durable_lsn
from tests.support.s3_server import S3Bucket
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until
from tests.torture.network import Network

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"
MB = 1 << 20
SMALL_WAL = {
    "min_wal_size": "2MB",
    "max_wal_size": "4MB",
    "wal_keep_size": "0",
    "checkpoint_timeout": "30s",
}
"""So that WAL which no slot holds is gone soon."""
QUICK = "max_delay_seconds = 0.2"
CUT_SECONDS = 60.0
NOTICED_SECONDS = 20.0
"""So long after a cut everybody knows of it: three heartbeats, and the pause before a bucket is
read."""
SPILL = f'{QUICK}\nrole = "spill"\nspill_after_seconds = 1.5'


class Statuses:
    """`shipper status NAME --json`, again and again, with what the primary was then."""

    def __init__(self, pair: Pair, server: PrimaryServer) -> None:
        self._pair, self._server = pair, server
        self._stop = threading.Event()
        self.seen: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._run, name="statuses")

    def __enter__(self) -> Statuses:
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            asked_at = time.monotonic()
            answer = self._pair.command("shipper", "status", "main", "--json")
            flushed = Lsn.parse(self._server.current_wal_lsn())
            if answer.returncode == 0:
                document = json.loads(answer.stdout)
                then = {"flushed_then": flushed, "asked_at": asked_at, "at": time.monotonic()}
                self.seen.append({**document, **then})
            self._stop.wait(1)

    def between(self, start: float, end: float) -> list[dict[str, Any]]:
        """Those that were asked for and given in that time."""
        return [each for each in self.seen if start <= each["asked_at"] and each["at"] <= end]

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)


@pytest.fixture
def store(s3_bucket: S3Bucket) -> Iterator[ObjectStore]:
    with contextlib.closing(s3_bucket.store()) as store:
        yield store


@pytest.fixture
def pair(shared_tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[Pair]:
    made = Pair(shared_tmp_path, bucket=BucketRoad(s3_bucket.url, s3_bucket.endpoint_url))
    # A machine that stands still for some seconds is no link that is cut.
    made.heartbeat_seconds = 2.0
    yield made
    made.destroy()


@pytest.fixture
def network(pair: Pair) -> Iterator[Network]:
    made = Network(pair.link_port)
    yield made
    made.close()


def retained_bytes(server: PrimaryServer) -> int:
    """What the slot holds."""
    ((size,),) = server.execute(
        "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint "
        "from pg_replication_slots where slot_name = 'logship_main'"
    )
    return int(size)


def bucket_of(status: Any) -> dict[str, Any] | None:
    """What the shipper says of its bucket."""
    return next(iter(status["other_roads"] or []), None)


@pytest.mark.parametrize("away", ["link", "everything"])
def test_a_link_that_is_cut_under_load_is_stood_in_for_and_catches_up_by_itself(
    primary: PrimaryFactory, pair: Pair, network: Network, store: ObjectStore, away: str
) -> None:
    """link: for a minute.  everything: the applier is down too, and the shipper is killed in the
    middle."""
    server = primary(wal_segsize_mb=1, settings=SMALL_WAL)
    shipper = pair.protect("main", server, address=network.endpoint, bucket=SPILL)
    # In a minute there is enough of it at a quarter of the rate.
    pause_seconds = 0.2 if away == "link" else 0.05
    with Load(server, pause_seconds) as load, Statuses(pair, server) as statuses:
        wait_until(lambda: load.rows > 2000, PATIENCE_SECONDS, "some work")
        wait_until(lambda: any(map(bucket_of, statuses.seen)), 30, "a status before the cut")
        assert not wal_in(store), "the bucket is not needed"
        before_cut = time.monotonic()
        network.do("refuse", 0)
        network.do("cut", 0)
        if away == "everything":
            pair.applier.stop()
        cut_at, at_cut = time.monotonic(), Lsn.parse(server.current_wal_lsn())
        wait_until(lambda: wal_in(store), PATIENCE_SECONDS, "it is spilled")

        if away == "link":
            wait_until(lambda: time.monotonic() > cut_at + CUT_SECONDS, 2 * CUT_SECONDS, "a minute")

        def has_worked() -> bool:
            return Lsn.parse(server.current_wal_lsn()) > at_cut + 12 * MB

        wait_until(has_worked, PATIENCE_SECONDS, "much work")
        # What the slot no longer holds is removed.
        server.execute("checkpoint")
        wait_until(lambda: retained_bytes(server) < 4 * MB, PATIENCE_SECONDS, "the slot goes on")
        if away == "everything":
            shipper.stop(signal.SIGKILL)
            pair.applier.start()
            # After a while it reads the bucket.
            pair.wait_status("main", lambda s: s["link"]["state"] in ("lost", "bucket"), "it is up")
        healed_at, at_heal = time.monotonic(), Lsn.parse(server.current_wal_lsn())
        network.heal()
        if away == "everything":
            shipper.start()
        came_back_at = healed_at if away == "everything" else math.inf

        # A shipper that has only just said hello has not yet come to where the hole ends.
        def is_over(status: Any) -> bool:
            return has_everything(status) and durable_lsn(status) >= at_heal

        pair.wait_status("main", is_over, "the link has everything")
        done_at = time.monotonic()
        wait_until(lambda: statuses.between(done_at, math.inf), 30, "a status after it")
    pair.wait_on_standby("main", COUNT, load.rows)
    last = pair.status("main")
    assert last["alarms"] == [] and last["gap"] is None
    check_truth(statuses.seen, came_back_at)
    if away == "link":
        check_before(statuses.between(0.0, before_cut))
        check_cut(statuses.between(cut_at + NOTICED_SECONDS, healed_at))
    check_after(statuses.between(done_at, math.inf))
    events = shipper.events()
    said = [event["event"] for event in events]
    assert "spilling to the bucket" in said
    if away == "link":
        assert "spilling is over: the link has everything" in said
    # An applier that waits for long reads by itself; one whose shipper comes soon is told to.
    asked = "wal-in-bucket" in [event.get("code") for event in events]
    looked = "reads a bucket" in [event["event"] for event in pair.applier.events()]
    assert asked or looked


def has_everything(status: Any) -> bool:
    connected = status["link"]["state"] == "connected" and status["phase"] == "following"
    idle = (bucket_of(status) or {}).get("state") == "idle"
    return connected and idle and status["gap"] is None


def wal_in(store: ObjectStore) -> list[str]:
    return [each.key for each in store.listing("main/") if "/wal/" in each.key]


def check_before(seen: list[dict[str, Any]]) -> None:
    assert seen
    assert {document["link"]["state"] for document in seen} == {"connected"}
    said = [bucket for document in seen if (bucket := bucket_of(document)) is not None]
    assert {bucket["state"] for bucket in said} == {"idle"}


def check_cut(seen: list[dict[str, Any]]) -> None:
    """The link is away, and what the bucket brings is shown as it comes."""
    assert len(seen) >= 5
    assert all(document["link"]["state"] != "connected" for document in seen)
    assert "bucket" in {document["link"]["state"] for document in seen}
    assert all(document["bucket"]["state"] != "idle" for document in seen)
    durable = [Lsn.parse(document["store"]["durable"].partition(":")[2]) for document in seen]
    assert durable == sorted(durable)
    assert durable[-1] > durable[0] + 2 * MB


def check_after(seen: list[dict[str, Any]]) -> None:
    assert seen
    for document in seen:
        assert (document["link"]["state"], document["gap"]) == ("connected", None)


def check_truth(seen: list[dict[str, Any]], came_back_at: float) -> None:
    """What the status said all along; the shipper began anew at `came_back_at`."""
    assert {document["link"]["state"] for document in seen} >= {"connected"}
    for document in seen:
        durable = document["store"]["durable"]
        if durable is not None:
            assert Lsn.parse(durable.partition(":")[2]) <= document["flushed_then"]
        if document["link"]["state"] != "connected":
            assert document["other_roads"] is None, "nobody says so now"
        gap = document["gap"]
        if gap is not None:
            assert gap["code"] == "wal-in-bucket" and gap["filling"]
            assert Lsn.parse(gap["from_lsn"]) < Lsn.parse(gap["available_lsn"])
        bucket = bucket_of(document)
        if bucket is not None:
            assert (bucket["name"], bucket["role"]) == ("bucket", "spill")
            states = ["idle", "connected", "spilling"]
            if document["at"] > came_back_at and not bucket["what"]:
                # It has the link before it has the bucket.
                states.append("lost")
            assert bucket["state"] in states, bucket
            assert bucket["state"] != "spilling" or bucket["since_lsn"] is not None


def test_either_of_two_required_roads_may_be_cut_and_both_have_everything_in_the_end(
    primary: PrimaryFactory, shared_tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    server = primary(wal_segsize_mb=1, settings=SMALL_WAL)
    with HttpProxy(s3_bucket.endpoint_url) as s3, contextlib.ExitStack() as stack:
        road = BucketRoad(s3_bucket.url, s3.endpoint_url, timeout_seconds=2, attempts=1)
        pair = Pair(shared_tmp_path, bucket=road)
        stack.callback(pair.destroy)
        network = Network(pair.link_port)
        stack.callback(network.close)
        store = s3_bucket.store()
        stack.callback(store.close)
        pair.protect("main", server, address=network.endpoint, bucket=QUICK)
        with Load(server) as load:
            cut_the_link(pair, network, server, store, load)
            cut_the_bucket(pair, s3, load)
        pair.wait_on_standby("main", COUNT, load.rows)
        flushed = Lsn.parse(server.current_wal_lsn())
        wait_until(
            lambda: end_of(store) >= flushed, PATIENCE_SECONDS, "the bucket has everything too"
        )


def cut_the_link(
    pair: Pair, network: Network, server: PrimaryServer, store: ObjectStore, load: Load
) -> None:
    wait_until(lambda: end_of(store) and load.rows > 1000, PATIENCE_SECONDS, "some work")
    network.do("refuse", 0)
    network.do("cut", 0)
    had = end_of(store)
    wait_until(lambda: end_of(store) > had + 4 * MB, PATIENCE_SECONDS, "the bucket goes on")
    server.execute("checkpoint")
    assert retained_bytes(server) > 3 * MB, "the slot waits for the link"
    network.heal()
    pair.wait_status("main", lambda s: s["link"]["state"] == "connected", "it is back")


def rows_on_standby(pair: Pair) -> int:
    try:
        return int(pair.standby_sql("main", COUNT)[0][0])
    except psycopg.Error:
        return 0  # replay may end a query


def cut_the_bucket(pair: Pair, s3: HttpProxy, load: Load) -> None:
    s3.away()

    def bucket_is(state: str) -> None:
        pair.wait_status(
            "main",
            lambda s: (bucket_of(s) or {}).get("state") == state,
            f"the status says that the bucket is {state}",
            2 * PATIENCE_SECONDS,
        )

    bucket_is("lost")
    expected = load.rows
    wait_until(
        lambda: rows_on_standby(pair) >= expected,
        PATIENCE_SECONDS,
        "the link goes on",
    )
    s3.back()
    bucket_is("connected")


def end_of(store: ObjectStore) -> Lsn:
    """Where the WAL in the bucket ends that goes on from its start without a hole."""
    incarnations = store.folders("main/")
    if not incarnations:
        return Lsn(0)
    keys = Keys("main", Incarnation.parse(incarnations[0]))
    names = sorted(entry.key for entry in store.listing(keys.all_wal))
    if not names:
        return Lsn(0)
    place = Place.parse(names[0].removeprefix(keys.all_wal))
    while (described := store.describe(keys.wal(place))) is not None:
        head = read_head(described.metadata, place, str(place))
        assert head.marker is None or head.marker.kind != "gap", "a hole in the bucket"
        place = head.following(place, MB)
    return place.lsn
