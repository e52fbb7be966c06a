"""Hostile neighbours on one recovery server: each hurts itself, and the others go on as before.

One set-up: a primary that is protected well, and beside it instances whose WAL floods, whose
spans are corrupt, whose cluster is another, whose quota is full and whose standby can't stay up.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from logship.frames import Frame, SeedBegin, Span, decode_from_applier, encode
from logship.link.keys import load_pair, load_public
from logship.link.transport import Dealer
from logship.seal import seal
from tests.conftest import PrimaryFactory
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.pair import PATIENCE_SECONDS, Pair, Process
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

S = SEGMENT_BYTES
LAG_SECONDS = 2.0
"""How long nineteen of twenty commits of the well-protected instance may take to be replayed, on
a machine that is busy with all of them; half of them take a tenth of it at most, or `TIMES_ALONE`
of what half of them took before there was anybody else if that is longer."""
MEASURED_SECONDS = 4.0
MEASURED_COMMITS = 60
"""As many at least, so that a machine that stood still for a while is among the one of twenty."""
ALONE_SECONDS = 1.0
TIMES_ALONE = 10
BUDGETS = """
[budgets]
memory_mb = 1024
catch_ups = 2
"""


class Attacker:
    """A shipper with a good key whose spans are corrupt, one after the other."""

    def __init__(self, pair: Pair, name: str) -> None:
        self._keys = load_pair(pair.directory / "keys" / f"{name}.key")
        self._server_key = load_public(pair.directory / "keys" / "applier.pub")
        self._endpoint = f"tcp://127.0.0.1:{pair.link_port}"
        self._name = name
        self.sent = 0
        self.answers: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._attack()))

    def __enter__(self) -> Attacker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    async def _attack(self) -> None:
        while not self._ended.is_set():
            closed = asyncio.Event()
            dealer = Dealer(
                self._endpoint,
                server_public_key=self._server_key,
                keys=self._keys,
                on_message=self._heard,
                on_closed=lambda _, closed=closed: closed.set(),  # type: ignore[misc]
            )
            try:
                await dealer.connect(PATIENCE_SECONDS)
                await self._connection(dealer, closed)
            finally:
                dealer.close()

    def _heard(self, parts: Any) -> None:
        self.answers.add(type(decode_from_applier(parts)[0]).__name__)

    async def _connection(self, dealer: Dealer, closed: asyncio.Event) -> None:
        def send(frame: Frame, payload: bytes | memoryview | None = None) -> None:
            dealer.send(encode(frame, payload))

        send(hello(instance=self._name, boot_id=f"boot-{self.sent}"))
        await asyncio.sleep(0.1)
        if closed.is_set():
            return
        begin = SeedBegin(
            seed_id=f"s-{self.sent}", timeline=1, start_lsn=4 * S + 40, estimated_bytes=0
        )
        send(begin)
        sealed = seal(b"x" * 8192)
        span = Span(
            timeline=1,
            start_lsn=4 * S,
            raw_bytes=sealed.raw_bytes,
            crc32c=sealed.crc32c ^ 1,
            codec=sealed.codec,
        )
        for _ in range(200):
            if closed.is_set() or self._ended.is_set():
                return
            send(span, sealed.payload)
            self.sent += 1
            await asyncio.sleep(0.005)


@contextmanager
def flooding(server: PrimaryServer) -> Iterator[None]:
    """Writes far more WAL than is taken in, and leaves the machine some breath."""
    ended = threading.Event()

    def flood() -> None:
        while not ended.wait(0.1):
            server.execute(
                "insert into t select g, repeat(md5(g::text), 20) from generate_series(1, 1000) g"
            )

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def lags(pair: Pair, server: PrimaryServer, seconds: float, at_least: int = 1) -> list[float]:
    """From a commit on the primary until its standby has replayed it, over and over: so long, and
    so many."""
    found = []
    with ExitStack() as stack:
        primary = stack.enter_context(psycopg.connect(server.dsn(), autocommit=True))
        standby = stack.enter_context(
            psycopg.connect(
                host=str(pair.directory / "run" / "standby" / "good"),
                port=pair.standby_ports["good"],
                user="postgres",
                dbname="postgres",
                autocommit=True,
            )
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or len(found) < at_least:
            primary.execute("insert into t values (1, 'x')")
            begun = time.monotonic()
            row = primary.execute("select pg_current_wal_flush_lsn()::text").fetchone()
            assert row is not None
            query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"

            def replayed(query: str = query, lsn: str = row[0]) -> bool:
                answer = standby.execute(query.encode(), (lsn,)).fetchone()
                return answer is not None and bool(answer[0])

            wait_until(replayed, PATIENCE_SECONDS, "the commit is replayed")
            found.append(time.monotonic() - begun)
    return found


def codes(pair: Pair, name: str) -> set[str]:
    return {alarm["code"] for alarm in pair.status(name)["alarms"]}


def events(process: Process, code: str) -> list[dict[str, Any]]:
    return [event for event in process.events() if event.get("code") == code]


def failed_starts(pair: Pair, name: str) -> list[dict[str, Any]]:
    return [
        event
        for event in pair.applier.events()
        if event.get("event") == "standby does not start" and event.get("instance") == name
    ]


def test_hostile_neighbours_hurt_only_themselves(primary: PrimaryFactory, pair: Pair) -> None:
    server = primary(17, name="good")
    hostile = primary(17, name="hostile", wal_segsize_mb=1)
    for each in (server, hostile):
        each.execute("create table t (id int, v text)")
    pair.more = BUDGETS
    pair.add("good")
    pair.add("flood", more="intake_mb_per_second = 1")
    pair.add("quota", more="disk_mb = 48\nrun_standby = false")
    pair.add(
        "crashing",
        # Else the version check would not let it start at all.
        more='overrides = ["preload-libraries"]\n'
        'settings = { shared_preload_libraries = "nowhere" }',
    )
    pair.add("foreign", more="run_standby = false")
    pair.add("corrupt", more='run_standby = false\nseed = "manual"')
    pair.applier.start()
    pair.shipper("good", server.dsn()).start()
    pair.wait_following("good")
    # A standby that streams may still let nobody in.
    pair.wait_on_standby("good", "select count(*) from t", 0)
    alone = lags(pair, server, ALONE_SECONDS)
    for name in ("flood", "quota", "crashing", "foreign"):
        pair.shipper(name, hostile.dsn()).start()
    pair.wait_following("flood")
    for name in ("quota", "crashing", "foreign"):
        pair.wait_status(name, lambda s: s["phase"] == "following", f"{name} is seeded")
    pair.shippers["foreign"].stop()
    foreign = pair.shipper("foreign", server.dsn(), suffix="-wrong")
    foreign.start()

    with flooding(hostile), Attacker(pair, "corrupt") as attacker:
        pair.wait_status("quota", lambda s: codes(pair, "quota"), "the quota is full")
        found = lags(pair, server, MEASURED_SECONDS, MEASURED_COMMITS)
        behind = pair.status("flood")["transfer_gap"]["bytes"]
        assert pair.status("good")["alarms"] == []
    assert sorted(found)[len(found) * 19 // 20] < LAG_SECONDS, sorted(found)[-20:]
    bound_seconds = max(LAG_SECONDS / 10, TIMES_ALONE * statistics.median(alone))
    assert statistics.median(found) < bound_seconds, sorted(found)

    # All that was meanwhile, and each was told why.
    assert codes(pair, "quota") == {"disk-quota"}
    used = pair.status("quota")["budget"]["disk"]
    assert used is not None
    assert (used["used_bytes"] or 0) < 52 << 20
    assert behind is not None
    assert behind > 4 << 20, "it was taken in at its rate"
    assert events(foreign, "system-identifier-mismatch")
    assert "nowhere" in str(pair.status("crashing")["standby"]["last_error"])
    wait_until(
        lambda: len(failed_starts(pair, "crashing")) > 2,
        PATIENCE_SECONDS,
        "it is tried over and over",
    )
    assert attacker.sent > 100
    assert "ResumeAt" in attacker.answers
    _a_promoted_one_gets_its_share(pair)


def _a_promoted_one_gets_its_share(pair: Pair) -> None:
    """1024 MB for three standbys, half of it held back for who is promoted."""
    memory = pair.status("good")["budget"]["memory"]
    assert memory is not None
    assert (memory["standby_mb"], memory["promoted_mb"]) == (170, 170 + 514)
    assert pair.standby_sql("good", "show shared_buffers") == [("64MB",)]

    told = pair.command("shipper", "promote", "good", "--yes")
    assert told.returncode == 0, told.stderr
    assert "budget (memory 684MB" in told.stdout.splitlines()[0]
    assert "shared_buffers 160MB when it is started anew, 64MB until then" in told.stdout
    promised = memory["promoted"]
    for name in ("work_mem", "maintenance_work_mem", "effective_cache_size"):
        ((unit, value),) = pair.standby_sql(
            "good", "select unit, setting::bigint from pg_settings where name = %s", name
        )
        kilobytes = value * {"kB": 1, "8kB": 8}[unit]
        assert f"{kilobytes}kB" == promised[name] or f"{kilobytes // 1024}MB" == promised[name]
    pid = pair.standby_pid("good")

    # Another one: what was held back is shared with it, at once.
    pair.promote("flood")
    memory = pair.status("good")["budget"]["memory"]
    assert memory is not None
    shared = memory["promoted"]
    assert shared["work_mem"] != promised["work_mem"]
    pair.wait_on_standby(
        "good",
        "select setting || 'kB' from pg_settings where name = 'work_mem'",
        shared["work_mem"],
    )
    assert pair.standby_pid("good") == pid, "who serves clients is not started anew"

    # Once it is, by its operator, it has the rest.
    pair.standby_sql("good", "create table after_promotion (id int)")
    os.kill(pid, signal.SIGINT)
    pair.wait_on_standby("good", "show shared_buffers", shared["shared_buffers"])
    assert shared["shared_buffers"] == "96MB"
    for name in ("good", "flood"):
        status = pair.status(name)
        assert (status["phase"], status["alarms"]) == ("promoted", [])
