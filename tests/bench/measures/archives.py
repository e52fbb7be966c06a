"""A backlog of bulk WAL, fetched from five places: how soon the standby has replayed it all.

All five standbys have replayed the same WAL and are stopped while the workload is written twice
(and its last segment ended).  Then each, alone, from its start to the replay of the last byte:

    native       streams from the primary
    store        Logship: the WAL is in the applier's store already
    bucket       Logship: the WAL is in an S3 bucket; the applier fetches, stores and serves it
    cp           restore_command = cp, from a plain archive directory
    pgbackrest   restore_command = archive-get, asynchronous, two processes, zstd
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from logship.lsn import Lsn
from tests.bench import receivers
from tests.bench.measures.catchup import TABLES, timed, write_backlog
from tests.bench.results import Outcome
from tests.bench.samples import ratios, summarise
from tests.bench.site import INSTANCE, LOGSHIP, PATIENCE_SECONDS, LogshipPair, Site
from tests.support.pair import BucketRoad
from tests.support.processes import make_server_directory
from tests.support.s3_server import S3Bucket, credentials_of, running_s3_server
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, wait_until

_AWAY = "run_standby = false"

Rates = dict[str, float]
"""MB/s by who caught up."""


def measure(site: Site) -> Outcome:
    major = receivers.installation_major(site.installation)
    missing = receivers.install_debian(major)
    if missing or major not in receivers.PGBACKREST_MAJORS:
        raise RuntimeError(f"pgBackRest is needed here, and one that knows {major}: {missing}")
    site.prepare_source()
    rates: list[Rates] = []
    with contextlib.ExitStack() as stack:
        stage = _Stage(site, stack)
        site.say("once through the workload, so that standbys and primary recycle segments")
        stage.run_once(0, say=False)
        for number in range(site.sizes.repetitions):
            rates.append(stage.run_once(number, say=True))

    def values(who: str) -> list[float]:
        return [each[who] for each in rates]

    def ratio(ours: str, theirs: str) -> list[float]:
        return ratios(values(ours), values(theirs))

    figures = {
        "archive_store_ratio": summarise(ratio("store", "native")),
        "archive_bucket_ratio": summarise(ratio("bucket", "pgbackrest")),
        "archive_bucket_native_ratio": summarise(ratio("bucket", "native")),
        "archive_bucket_cp_ratio": summarise(ratio("bucket", "cp")),
        **{
            f"archive_{who}_mb_s": summarise(values(who))
            for who in ("store", "bucket", "native", "cp", "pgbackrest")
        },
    }
    note = f"A backlog of 2 × {site.sizes.wal_rows} rows of about 1 kB; S3 is SeaweedFS here."
    return Outcome(figures, rates, [note])


class _Stage:
    """The five standbys, and the two archives."""

    def __init__(self, site: Site, stack: contextlib.ExitStack) -> None:
        self._site = site
        self._archive = site.new_directory("archive")
        stack.callback(shutil.rmtree, self._archive, ignore_errors=True)
        make_server_directory(self._archive / "wal")
        self._pgbackrest = receivers.PgBackRest(site)
        copy = f"cp %p {self._archive}/wal/%f.new && mv {self._archive}/wal/%f.new "
        copy += f"{self._archive}/wal/%f"
        stack.enter_context(self._pgbackrest.archiving(before=copy))
        server = stack.enter_context(running_s3_server())
        stack.enter_context(credentials_of(server.owner))
        at = S3Bucket.of(server)
        self._native = stack.enter_context(site.native_standby())
        self._store = stack.enter_context(site.logship())
        self._bucket = stack.enter_context(
            site.logship_by_bucket(BucketRoad(at.url, at.endpoint_url, ""))
        )
        self._cp = stack.enter_context(
            self._restoring("cp", lambda data: f'cp {self._archive}/wal/%f "%p"')
        )
        self._get = stack.enter_context(
            self._restoring("pgbackrest", self._pgbackrest.restore_command)
        )

    @contextlib.contextmanager
    def _restoring(self, name: str, command: Callable[[Path], str]) -> Iterator[PrimaryServer]:
        """A standby that has only a restore_command, caught up."""
        site = self._site
        directory = site.new_directory(name)
        server = PrimaryServer(site.installation, directory / "server", free_port())
        try:
            make_server_directory(server.directory, 0o755)
            for each in ("spool", "lock"):
                make_server_directory(server.directory / each)
            site.base_backup(server.data, "--no-sync", "--no-manifest")
            site.configure_native(server)
            server.configure({"primary_conninfo": "", "restore_command": command(server.data)})
            target = site.flush_lsn()
            self._pgbackrest.archive_all()
            server.start(wait=False)
            site.wait_replayed(site.conninfo(server), target)
            yield server
        finally:
            server.destroy()
            shutil.rmtree(directory, ignore_errors=True)

    def run_once(self, number: int, *, say: bool) -> Rates:
        site = self._site
        self._settle()
        self._stop_all()
        start, target = write_backlog(site)
        self._pgbackrest.archive_all()
        self._wait_shipped(target)
        contenders = {
            "native": (lambda: self._native.start(wait=False), site.conninfo(self._native)),
            "store": (self._store.applier.start, self._store.standby_conninfo),
            "bucket": (self._bucket.applier.start, self._bucket.standby_conninfo),
            "cp": (lambda: self._cp.start(wait=False), site.conninfo(self._cp)),
            "pgbackrest": (lambda: self._get.start(wait=False), site.conninfo(self._get)),
        }
        names = list(contenders)
        names = names[number % len(names) :] + names[: number % len(names)]
        rates: Rates = {}
        for name in names:
            launch, conninfo = contenders[name]
            site.make_ready()
            rates[name] = (target - start) / 1e6 / timed(launch, site, conninfo, target)
            if say:
                site.say(f"archives {number + 1}: {name} {rates[name]:.0f} MB/s")
        return rates

    def _settle(self) -> None:
        """All have replayed everything, and no restart replays much of it again."""
        site = self._site
        site.forget(*TABLES)
        target = site.flush_lsn()
        self._pgbackrest.archive_all()
        for conninfo in (
            *map(site.conninfo, (self._native, self._cp, self._get)),
            self._store.standby_conninfo,
            self._bucket.standby_conninfo,
        ):
            site.wait_replayed(conninfo, target)
            site.restart_point(conninfo)

    def _stop_all(self) -> None:
        for server in (self._native, self._cp, self._get):
            server.stop()
        for pair in (self._store, self._bucket):
            pair.applier.stop()
            pair.stop_standby()
        self._store.add(INSTANCE, more=_AWAY)
        self._store.applier.start()
        self._site.wait_attached(LOGSHIP)

    def _wait_shipped(self, target: Lsn) -> None:
        """The store has the backlog, and so has the bucket: their slots are past it."""
        site = self._site
        for pair in (self._store, self._bucket):
            wait_until(
                partial(_acknowledged, site, pair, target),
                PATIENCE_SECONDS,
                f"{pair.instance} has shipped the backlog",
            )
        self._store.applier.stop()
        self._store.add(INSTANCE)


def _acknowledged(site: Site, pair: LogshipPair, target: Lsn) -> bool:
    rows = site.sql(
        "select flush_lsn::text from pg_stat_replication where application_name = %s",
        f"logship_{pair.instance}",
    )
    return bool(rows) and rows[0][0] is not None and Lsn.parse(str(rows[0][0])) >= target
