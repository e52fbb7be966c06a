"""A dead shipper and a quiet primary, told apart by an applier that has the bucket alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from logship.status import InstanceStatus
from tests.conftest import PrimaryFactory
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.as_installed import AS_INSTALLED
from tests.support.pair import BucketRoad, Pair, Process
from tests.support.s3_server import S3Bucket

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

SIGNS = "max_delay_seconds = 0.2\nalive_every_seconds = 1.0"
_SHIPPER = (
    f"{AS_INSTALLED}; from shipper import settings_bucket as settings; "
    "settings.MIN_ALIVE_SECONDS = 0.1; "
    "from shipper.commands import main; raise SystemExit(main())"
)
"""Production is not to pay for as many requests as a test is willing to make."""


@pytest.fixture
def pair(shared_tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[Pair]:
    made = Pair(shared_tmp_path, bucket=BucketRoad(s3_bucket.url, s3_bucket.endpoint_url))
    yield made
    made.destroy()


def start(shipper: Process) -> None:
    shipper.start_python("-c", _SHIPPER, "run", "--config", shipper.settings)


def silent(status: InstanceStatus) -> bool:
    return "shipper-silent" in {each["code"] for each in status["alarms"]}


def test_a_dead_shipper_is_an_alarm_and_a_quiet_primary_is_none(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17, settings={"autovacuum": "off", "checkpoint_timeout": "1h"})
    prepare(server)
    pair.add("main", link=False)
    pair.applier.start()
    shipper = pair.shipper("main", server.dsn(), link=None, bucket=SIGNS)
    start(shipper)
    pair.wait_on_standby("main", COUNT, 1000)

    quiet = pair.wait_status("main", lambda s: s["primary"]["reachable"], "the primary is there")
    heard_at = quiet["primary"]["heard_at"] or 0.0

    def heard_of(status: InstanceStatus) -> bool:
        # What the server writes by itself (a snapshot, once) is heard of before it is here.
        later = (status["primary"]["heard_at"] or 0.0) > heard_at + 3
        return later and status["transfer_gap"]["bytes"] == 0

    later = pair.wait_status(
        "main", heard_of, "it is heard of for longer than a sign may be late, and lacks nothing"
    )
    assert later["link"]["state"] == "bucket"
    assert not silent(later)

    shipper.stop(signal.SIGKILL)
    dead = pair.wait_status("main", silent, "the alarm")
    assert dead["primary"]["reachable"] is None
    assert dead["bucket"] is not None and dead["bucket"]["state"] == "up-to-date"
    start(shipper)
    pair.wait_status("main", lambda s: not silent(s), "it is over")
    insert(server)
    pair.wait_on_standby("main", COUNT, 1001)

    server.kill()
    gone = pair.wait_status(
        "main", lambda s: s["primary"]["reachable"] is False, "the primary is away"
    )
    assert not silent(gone)
    shipper.stop()
    pair.wait_status("main", silent, "who was stopped is missed as well")
    assert pair.promote("main")["lost_bytes"] == 0
    assert not silent(pair.status("main"))
