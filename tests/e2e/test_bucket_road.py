"""The second road from end to end: no link, a bucket, and whoever is attached to it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PrimaryFactory
from tests.support.installations import all_majors
from tests.support.pair import Pair
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"


def prepare(server: PrimaryServer) -> None:
    server.execute("create table t (id int generated always as identity primary key, v text)")
    insert(server, 1000)


def insert(server: PrimaryServer, count: int = 1) -> None:
    server.execute(f"insert into t (v) select repeat('v', 100) from generate_series(1, {count})")


@pytest.fixture
def bucket(shared_tmp_path: Path) -> str:
    """Keys of a [bucket]: a directory."""
    return f'url = "file://{shared_tmp_path}/bucket"'


@pytest.fixture
def pair(shared_tmp_path: Path, bucket: str) -> Iterator[Pair]:
    (shared_tmp_path / "one").mkdir(mode=0o711)
    made = Pair(shared_tmp_path / "one", bucket=bucket)
    yield made
    made.destroy()


@pytest.fixture
def second(shared_tmp_path: Path, bucket: str) -> Iterator[Pair]:
    """Another recovery server, attached to the same bucket."""
    (shared_tmp_path / "two").mkdir(mode=0o711)
    made = Pair(shared_tmp_path / "two", bucket=bucket)
    yield made
    made.destroy()


@all_majors
def test_a_standby_follows_through_the_bucket_alone_and_opens(
    major: int, primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(major)
    prepare(server)
    pair.add("main", link=False)
    pair.applier.start()
    shipper = pair.shipper("main", server.dsn(), link=False)
    shipper.start()
    pair.wait_following("main")
    pair.wait_on_standby("main", COUNT, 1000)
    assert pair.status("main")["link"]["state"] == "bucket"

    pair.applier.stop(signal.SIGKILL)
    insert(server, 500)
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 1500)

    shipper.stop(signal.SIGKILL)
    insert(server, 500)
    shipper.start()
    pair.wait_on_standby("main", COUNT, 2000)

    server.kill()
    record = pair.promote("main")
    assert record["lost_bytes"] == 0
    assert pair.standby_sql("main", COUNT) == [(2000,)]
    pair.standby_sql("main", "insert into t (v) values ('after')")


def test_a_second_applier_brings_up_its_own_standby_with_no_word_to_the_primary(
    primary: PrimaryFactory, pair: Pair, second: Pair
) -> None:
    server = primary(17)
    prepare(server)
    pair.add("main", link=False)
    pair.applier.start()
    shipper = pair.shipper("main", server.dsn(), link=False)
    shipper.start()
    pair.wait_on_standby("main", COUNT, 1000)
    insert(server, 200)
    pair.wait_on_standby("main", COUNT, 1200)
    # Neither a shipper nor a primary is needed from here on.
    shipper.stop()
    server.kill()

    second.add("main", link=False)
    second.applier.start()
    second.wait_on_standby("main", COUNT, 1200)
    second.promote("main")
    second.standby_sql("main", "insert into t (v) values ('after')")
    assert second.standby_sql("main", COUNT) == [(1201,)]


def test_the_bucket_stands_in_for_a_link_that_is_away_and_is_let_go_of_again(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17)
    prepare(server)
    pair.add("main")
    pair.applier.start()
    shipper = pair.shipper("main", server.dsn())
    shipper.start()
    pair.wait_following("main")
    status = pair.status("main")
    assert (status["link"]["state"], status["bucket"]) == (
        "connected",
        {"state": "idle", "error": None},
    )
    shipper.stop()
    insert(server, 300)
    alone = pair.shipper("main", server.dsn(), link=False)
    alone.start()
    pair.wait_on_standby("main", COUNT, 1300)
    status = pair.status("main")
    assert status["link"]["state"] == "bucket"
    alone.stop()
    again = pair.shipper("main", server.dsn())
    insert(server, 300)
    again.start()
    pair.wait_on_standby("main", COUNT, 1600)
    pair.wait_status("main", lambda s: s["link"]["state"] == "connected", "the link is back")
    pair.wait_status("main", lambda s: (s["bucket"] or {}).get("state") == "idle", "it rests")


def test_a_seed_comes_from_the_bucket_or_a_copy_of_it_when_it_is_asked_for(
    primary: PrimaryFactory, pair: Pair, shared_tmp_path: Path
) -> None:
    server = primary(17)
    prepare(server)
    pair.add("main", link=False)
    pair.applier.start()
    pair.shipper("main", server.dsn(), link=False).start()
    pair.wait_on_standby("main", COUNT, 1000)
    for source in ("bucket", str(shared_tmp_path / "bucket")):
        before = pair.standby_directory("main").stat().st_ino
        done = pair.command("applier", "seed", "main", "--from", source)
        assert done.returncode == 0, done.stderr
        pair.wait_status(
            "main",
            lambda _, old=before: pair.standby_directory("main").stat().st_ino != old,  # type: ignore[misc]
            "the data directory is another one",
        )
        insert(server, 10)
        expected = server.execute(COUNT)[0][0]
        pair.wait_on_standby("main", COUNT, expected)
    done = pair.command("applier", "seed", "main", "--from", "/nonexistent")
    assert done.returncode == 2
    done = pair.command("applier", "seed", "main", "--from", "link")
    assert done.returncode == 3
