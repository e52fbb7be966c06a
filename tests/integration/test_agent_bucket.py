"""`shipper run` with nothing but a bucket: from a real primary, killed and started again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from logship.bucket.epoch_record import read_epoch
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import list_seeds
from logship.bucket.wal_objects import Head, Marker, metadata_of, read_head, unpack
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.wal import segment_name
from tests.conftest import PrimaryFactory
from tests.integration.command_runner import run
from tests.support.pair import Process
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

SEGMENT_BYTES = 1 << 20
PATIENCE_SECONDS = 60.0


class Site:
    def __init__(self, directory: Path, server: PrimaryServer) -> None:
        self.directory = directory
        self.server = server
        self.store: ObjectStore = DirectoryStore(directory / "bucket")
        (directory / "bucket").mkdir()
        self.processes: list[Process] = []

    def settings(self, name: str = "a", **bucket: object) -> Path:
        file = self.directory / f"{name}.toml"
        keys = {"max_delay_seconds": 0.05, "compact_grace_seconds": 0, **bucket}
        lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
        file.write_text(
            'instance = "main"\n'
            f'state_directory = "{self.directory}/state-{name}"\n'
            f'[primary]\nconninfo = "{self.server.dsn()}"\nslot = "slot_{name}"\n'
            f'[bucket]\nurl = "file://{self.directory}/bucket"\n{lines}'
        )
        return file

    def shipper(self, settings: Path) -> Process:
        made = Process("shipper", settings, settings.with_suffix(".log"))
        self.processes.append(made)
        made.start()
        return made

    @property
    def keys(self) -> Keys:
        ((system_identifier,),) = self.server.execute(
            "select system_identifier from pg_control_system()"
        )
        ((version,),) = self.server.execute("show server_version_num")
        return Keys("main", Incarnation(system_identifier, int(version) // 10000))

    @property
    def epoch(self) -> int:
        record, _ = read_epoch(self.store, "main")
        return record.number if record is not None else 0

    def end(self) -> Lsn:
        """Where the bucket's log ends, every byte on the way compared with the primary's."""
        keys = self.keys
        first = next(iter(self.store.listing(keys.all_wal)), None)
        seeds = list_seeds(self.store, keys)
        if first is None or not seeds:
            return Lsn(0)
        start = seeds[0].start_lsn
        place = Place(1, Lsn(start - start % SEGMENT_BYTES))
        while (data := self._read(keys, place)) is not None:
            assert data == self._primary_bytes(place.lsn, len(data)), place
            place = place._replace(lsn=Lsn(place.lsn + len(data)))
        return place.lsn

    def _read(self, keys: Keys, place: Place) -> bytes | None:
        for key, start in (
            (keys.wal(place), place),
            (
                keys.segment(1, place.lsn, SEGMENT_BYTES),
                place._replace(lsn=Lsn(place.lsn - place.lsn % SEGMENT_BYTES)),
            ),
        ):
            fetched = self.store.get(key)
            if fetched is not None:
                head = read_head(fetched.metadata, start, key)
                assert head.marker is None
                return unpack(fetched.data, head, SEGMENT_BYTES, key)[place.lsn - start.lsn :]
        return None

    def _primary_bytes(self, lsn: int, size_bytes: int) -> bytes:
        file = self.server.data / "pg_wal" / segment_name(1, lsn, SEGMENT_BYTES)
        offset = lsn % SEGMENT_BYTES
        return file.read_bytes()[offset : offset + size_bytes]

    def until_shipped(self) -> None:
        target = Lsn.parse(self.server.current_wal_lsn())
        wait_until(lambda: self.end() >= target, PATIENCE_SECONDS, f"{target} is in the bucket")


@pytest.fixture
def site(primary: PrimaryFactory, shared_tmp_path: Path) -> Iterator[Site]:
    server = primary(wal_segsize_mb=1, settings={"wal_keep_size": "1GB"})
    server.execute("create table t (n int, filler text)")
    made = Site(shared_tmp_path, server)
    yield made
    for each in made.processes:
        each.stop(signal.SIGKILL)


def write(site: Site, rows: int) -> None:
    site.server.execute(
        "insert into t select n, repeat(md5(n::text), 20) from generate_series(1, %s) n", rows
    )


def test_wal_and_a_seed_reach_the_bucket_and_a_killed_shipper_goes_on(site: Site) -> None:
    settings = site.settings()
    shipper = site.shipper(settings)
    wait_until(lambda: list_seeds(site.store, site.keys), PATIENCE_SECONDS, "a seed is there")
    write(site, 6000)
    site.until_shipped()
    for number in (2, 3, 4):
        write(site, 3000)
        shipper.stop(signal.SIGKILL)
        shipper = site.shipper(settings)
        wait_until(lambda: site.epoch >= number, PATIENCE_SECONDS, "it took the epoch")  # noqa: B023
        write(site, 1000)
    site.until_shipped()
    assert site.epoch == 4
    assert "bug" not in shipper.log


def test_the_slot_follows_what_is_in_the_bucket(site: Site) -> None:
    shipper = site.shipper(site.settings())
    wait_until(lambda: list_seeds(site.store, site.keys), PATIENCE_SECONDS, "a seed is there")
    write(site, 3000)
    site.until_shipped()

    def restart_lsn() -> Lsn:
        ((text,),) = site.server.execute(
            "select restart_lsn::text from pg_replication_slots where slot_name = 'slot_a'"
        )
        return Lsn.parse(text)

    target = Lsn.parse(site.server.current_wal_lsn())
    wait_until(lambda: restart_lsn() >= target, PATIENCE_SECONDS, "the slot is there")
    assert restart_lsn() <= site.end()
    assert shipper.is_running


async def test_a_second_shipper_is_refused_until_it_takes_over(site: Site) -> None:
    first = site.shipper(site.settings())
    await asyncio.to_thread(
        wait_until, lambda: list_seeds(site.store, site.keys), PATIENCE_SECONDS, "a seed is there"
    )
    other = site.settings("b")
    second = site.shipper(other)
    await asyncio.to_thread(
        wait_until,
        lambda: "epoch-held" in second.log,
        PATIENCE_SECONDS,
        "the second is refused",
    )
    second.stop(signal.SIGKILL)
    outcome = await run("shipper", "check", "--config", other, "--json")
    (found,) = [each for each in outcome.document["checks"] if each["name"] == "bucket-epoch"]
    assert found["level"] == "fail"
    assert "--take-over" in found["hint"]
    second.start("--take-over")
    await asyncio.to_thread(
        wait_until, lambda: site.epoch == 2, PATIENCE_SECONDS, "the second has taken over"
    )

    def first_stops() -> bool:
        # It learns of that when it has something to ship, which an idle server may not give it.
        write(site, 100)
        return "epoch-lost" in first.log

    await asyncio.to_thread(wait_until, first_stops, PATIENCE_SECONDS, "the first stops")
    await asyncio.to_thread(site.until_shipped)


async def test_a_copy_that_would_be_refused_is_told_so_by_check_and_loses_no_claim(
    site: Site,
) -> None:
    settings = site.settings()
    shipper = site.shipper(settings)
    await asyncio.to_thread(
        wait_until, lambda: list_seeds(site.store, site.keys), PATIENCE_SECONDS, "a seed is there"
    )
    await asyncio.to_thread(site.until_shipped)
    shipper.stop(signal.SIGKILL)
    memory = site.directory / "state-a" / "main" / "epoch.json"
    remembered = memory.read_bytes()

    async def level() -> tuple[str, str]:
        outcome = await run("shipper", "check", "--config", settings, "--json")
        (found,) = [each for each in outcome.document["checks"] if each["name"] == "bucket-epoch"]
        return found["level"], found["what"]

    assert (await level())[0] == "ok"
    # As if its origin had gone on: the log leads to a place that this one has not reached.
    end = site.end()
    marker = Marker(kind="timeline", timeline=1, lsn=Lsn(end + 50 * SEGMENT_BYTES))
    head = Head(timeline=1, start_lsn=end, marker=marker)
    site.store.put(site.keys.wal(Place(1, end)), b"", metadata_of(head))
    found, what = await level()
    assert (found, "it is a copy of the one" in what) == ("fail", True), what
    assert memory.read_bytes() == remembered


async def test_a_seed_is_made_when_it_is_ordered(site: Site) -> None:
    settings = site.settings()
    outcome = await run("shipper", "seed", "--config", settings, "--wait", "0", "--json")
    assert outcome.document == {"instance": "main", "ordered": True, "begun": False}
    site.shipper(settings)
    await asyncio.to_thread(
        wait_until, lambda: list_seeds(site.store, site.keys), PATIENCE_SECONDS, "a seed is there"
    )
    outcome = await run("shipper", "seed", "--config", settings, "--wait", "20")
    assert outcome.code == 0
    assert "begins" in outcome.out
    await asyncio.to_thread(
        wait_until,
        lambda: len(list_seeds(site.store, site.keys)) == 2,
        PATIENCE_SECONDS,
        "another seed is there",
    )
    seeds = list_seeds(site.store, site.keys)
    assert all(each.profile is not None for each in seeds)


async def test_check_tries_the_bucket_and_leaves_nothing_behind(site: Site) -> None:
    outcome = await run("shipper", "check", "--config", site.settings(), "--json")
    levels = {each["name"]: each["level"] for each in outcome.document["checks"]}
    for name in ("bucket", "bucket-list", "bucket-delete", "bucket-epoch", "bucket-encryption"):
        assert levels[name] == "ok", outcome.document
    assert "link" not in levels
    assert list(site.store.listing("")) == []


async def test_check_warns_of_commits_that_wait_for_a_bucket(site: Site) -> None:
    file = site.settings()
    file.write_text('protection = "sync"\n' + file.read_text())
    outcome = await run("shipper", "check", "--config", file, "--json")
    (found,) = [each for each in outcome.document["checks"] if each["name"] == "bucket-delay"]
    assert found["level"] == "warn"
    assert "0.05 s" in found["what"]


async def test_a_seed_can_not_be_ordered_where_no_bucket_takes_one(site: Site) -> None:
    file = site.directory / "link.toml"
    file.write_text(
        'instance = "main"\n[primary]\nconninfo = "host=/tmp"\n[link]\n'
        'address = "tcp://recovery:7432"\napplier_public_key_file = "a.pub"\n'
        'secret_key_file = "a.key"\n'
    )
    outcome = await run("shipper", "seed", "--config", file)
    assert outcome.code == 2
    assert "applier seed main" in outcome.err
