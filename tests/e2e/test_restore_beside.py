"""A mistake on the primary, undone beside a running applier that goes on following it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from applier.restore.targets import shown_time
from logship.postgres.postmaster import remove_shared_memory
from tests.conftest import PrimaryFactory
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.installations import MAJORS
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("major", [MAJORS[0], MAJORS[-1]])
def test_a_mistake_is_undone_beside_a_running_applier(
    major: int, primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(major, wal_segsize_mb=1)
    prepare(server)
    pair.add("main")
    with pair.applier.settings.open("a") as settings:
        settings.write("[seeds]\nkeep = 2\n")
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()
    pair.wait_following("main")
    kept = pair.directory / "applier" / "seeds"
    wait_until(lambda: list(kept.glob("*/*/seeds/*/end")), PATIENCE_SECONDS, "a kept seed")
    time_after_seed = int(time.time()) + 1
    wait_until(lambda: time.time() > time_after_seed, 5, "the next second")
    for _ in range(6):
        insert(server, 4000)
    ((good,),) = server.execute("SELECT (extract(epoch FROM now()) * 1000000)::int8")
    server.execute("DELETE FROM t")
    pair.wait_on_standby("main", COUNT, 0)
    standby = pair.standby_pid("main")
    (wal,) = (pair.directory / "applier" / "instances" / "main").glob("*/wal")
    segments = len(list(wal.glob("[0-9A-F]" * 24)))
    assert segments > 3
    index = wal.parent / "commit-times"  # made with its first entry
    wait_until(
        lambda: index.exists() and index.stat().st_size >= 24 + 40 * segments,
        PATIENCE_SECONDS,
        "an index of all",
    )

    shown = pair.command("applier", "window", "main", "--json", "--config", pair.applier.settings)
    assert shown.returncode == 0, shown.stderr
    (stretch,) = json.loads(shown.stdout)["stretches"]
    assert stretch["earliest_time"] <= good / 1e6 <= stretch["latest_time"]

    into = pair.directory / "restored"
    with restored(pair, into, "--to-time", shown_time(good)) as connection:
        assert connection.execute(COUNT).fetchone() == (25_000,)
        connection.execute("INSERT INTO t (v) VALUES ('mine')")
    # Nothing happens on the primary; that it was heard of since makes any later moment known.
    later = time.time()
    pair.wait_status(
        "main", lambda s: (s["primary"]["heard_at"] or 0) > later + 0.2, "news of the primary"
    )
    quiet = shown_time(int(later * 1e6))
    with restored(pair, pair.directory / "quiet", "--to-time", quiet) as connection:
        assert connection.execute(COUNT).fetchone() == (0,)

    insert(server, 5)
    pair.wait_on_standby("main", COUNT, 5)
    assert pair.standby_pid("main") == standby
    assert pair.status("main")["alarms"] == []


@contextlib.contextmanager
def restored(pair: Pair, into: Path, *target: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to what the command restored; ended without ceremony."""
    port = str(free_port())
    arguments = ["--into", into, "--port", port, "--config", pair.applier.settings, "--json"]
    done = pair.command("applier", "restore", "main", *target, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    pid = int((into / "data" / "postmaster.pid").read_text().split()[0])
    try:
        with psycopg.connect(
            host=result["socket_directory"], port=port, user="postgres", autocommit=True
        ) as connection:
            yield connection
    finally:
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists(), 20, f"end of {pid}")
        remove_shared_memory(into / "data")
