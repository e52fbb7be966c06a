"""Recovery to a point in time from the bucket alone: no link, no applier, no store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from applier.restore.targets import shown_time
from logship.objects.encryption import make_identity_file
from tests.conftest import PrimaryFactory
from tests.e2e.test_restore_beside import restored
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.pair import PATIENCE_SECONDS, BucketRoad, Pair
from tests.support.s3_server import S3Bucket
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

ROWS = 5000
SECOND_IS_OVER = (
    "select clock_timestamp() > checkpoint_time + interval '1 second' from pg_control_checkpoint()"
)


@pytest.fixture
def identity(shared_tmp_path: Path) -> Path:
    return shared_tmp_path / "recovery.identity"


@pytest.fixture
def sealed_pair(
    shared_tmp_path: Path, identity: Path, s3_bucket: S3Bucket
) -> Iterator[tuple[Pair, str]]:
    """A pair whose bucket only the recovery side can read, and the shipper's recipient."""
    recipient = make_identity_file(identity).recipient
    road = BucketRoad(s3_bucket.url, s3_bucket.endpoint_url, f'identity_files = ["{identity}"]')
    made = Pair(shared_tmp_path, bucket=road)
    yield made, recipient
    made.destroy()


def test_what_a_shipper_sealed_is_restored_to_a_moment_by_a_host_that_has_only_the_bucket(
    primary: PrimaryFactory, sealed_pair: tuple[Pair, str], identity: Path
) -> None:
    pair, recipient = sealed_pair
    server = primary(17, wal_segsize_mb=1)
    prepare(server)
    pair.add("main", link=False)
    keys = f'max_delay_seconds = 0.2\nrecipients = ["{recipient}"]'
    shipper = pair.shipper("main", server.dsn(), link=None, bucket=keys)
    shipper.start()
    wait_until(
        lambda: "the seed is in place" in shipper.log, PATIENCE_SECONDS, "a seed in the bucket"
    )
    wait_until(lambda: server.execute("select 1 from pg_stat_replication"), 60, "it streams")
    for _ in range(3):
        insert(server, ROWS)
    # Where the first transaction behind the seed ends in a later segment, the window begins with
    # the whole second after the checkpoint.
    wait_until(lambda: server.execute(SECOND_IS_OVER) == [(True,)], 60, "the next second")
    ((good,),) = server.execute("select (extract(epoch from now()) * 1000000)::int8")
    server.execute("delete from t")
    flushed = server.execute("select pg_current_wal_flush_lsn()")[0][0]
    wait_until(
        lambda: server.execute(
            "select 1 from pg_stat_replication where flush_lsn >= %s::pg_lsn", flushed
        ),
        PATIENCE_SECONDS,
        "the bucket has it all",
    )
    shipper.stop()
    server.kill()

    shown = pair.command("applier", "window", "main", "--json", "--config", pair.applier.settings)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (stretch,) = json.loads(shown.stdout)["stretches"]
    assert stretch["earliest_time"] <= good / 1e6 <= stretch["latest_time"]
    into = pair.directory / "restored"
    with restored(pair, into, "--to-time", shown_time(good)) as connection:
        assert connection.execute(COUNT).fetchone() == (1000 + 3 * ROWS,)
    shutil.rmtree(into)
    with restored(pair, into, "--latest") as connection:
        assert connection.execute(COUNT).fetchone() == (0,)

    identity.unlink()
    again = ["--latest", "--into", pair.directory / "other", "--config", pair.applier.settings]
    done = pair.command("applier", "restore", "main", *again, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "identity-missing"
    assert not (pair.directory / "other").exists()
