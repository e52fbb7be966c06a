"""From the order to promote to the first write, on a session that is open already.

`shipper promote` is timed from the start of its process, pg_promote from sending it.  Before
each run the standby is a fresh copy of a stopped one, started, caught up and idle.  Logship's
has no shipper, as its primary is lost; the native one streams.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.bench.client import Client
from tests.bench.measures.footprint import program
from tests.bench.results import Outcome
from tests.bench.samples import Figure, percentile, ratios, summarise
from tests.bench.site import INSTANCE, LOGSHIP, NATIVE, LogshipPair, Site
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port

_REST_SECONDS = 1.0
_WRITE = "insert into promoted values (1)"

Promotion = dict[str, float]


def measure(site: Site) -> Outcome:
    site.sql("create table promoted (id bigint)")
    runs: list[dict[str, Promotion]] = []
    count = site.sizes.promotions
    with site.logship() as pair:
        pair.shippers[INSTANCE].stop()
        pair.applier.stop()
        pair.stop_standby()
        template = _set_aside(pair.directory / "applier")
        native_template = _native_template(site)
        for number in range(count):
            turns = (NATIVE, LOGSHIP) if number % 2 == 0 else (LOGSHIP, NATIVE)
            run: dict[str, Promotion] = {}
            site.make_ready()
            for turn in turns:
                if turn == NATIVE:
                    run[turn] = _native(site, native_template)
                else:
                    run[turn] = _logship(pair, template)
            runs.append(run)
            site.say(
                f"promote {number + 1}/{count}: native {run[NATIVE]['seconds'] * 1e3:.0f} ms, "
                f"Logship {run[LOGSHIP]['seconds'] * 1e3:.0f} ms"
            )
    site.sql("drop table promoted")
    note = f"{count} promotions each, in turn; with so few the p99 is the slowest."
    return Outcome(_figures(runs), runs, [note])


def _figures(runs: list[dict[str, Promotion]]) -> dict[str, Figure]:
    ours = [run[LOGSHIP]["seconds"] for run in runs]
    theirs = [run[NATIVE]["seconds"] for run in runs]
    each = summarise(ratios(ours, theirs))
    p50, native_p50 = percentile(ours, 50), percentile(theirs, 50)
    p99, native_p99 = percentile(ours, 99), percentile(theirs, 99)
    return {
        "promote_ratio": each,
        "promote_aim_p50": summarise([p50 / (1.2 * native_p50 + 0.2)]),
        "promote_aim_p99": summarise([p99 / (1.2 * native_p99 + 0.2)]),
        "promote_seconds": summarise(ours),
        "promote_p99_seconds": summarise([p99]),
        "promote_inside_seconds": summarise([run[LOGSHIP]["inside_seconds"] for run in runs]),
        "native_promote_seconds": summarise(theirs),
        "native_promote_p99_seconds": summarise([native_p99]),
    }


def _set_aside(directory: Path) -> Path:
    template = directory.with_name(directory.name + ".template")
    directory.rename(template)
    return template


def _copy(template: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", template, target], check=True)
    os.sync()


# --- Logship's standby -----------------------------------------------------------------------


def _logship(pair: LogshipPair, template: Path) -> Promotion:
    directory = pair.directory / "applier"
    _copy(template, directory)
    pair.applier.start()
    try:
        pair.wait_status(
            INSTANCE,
            lambda status: (
                status["phase"] == "following"
                and status["standby"]["replay_lsn"] is not None
                and status["apply_gap"]["bytes"] == 0
            ),
            "the copied standby has caught up",
        )
        with Client(pair.standby_conninfo, _WRITE) as session:
            time.sleep(_REST_SECONDS)
            return _promote(pair, session)
    finally:
        pair.applier.stop()
        # After a failure it may not run.
        with contextlib.suppress(OSError, ValueError):
            pair.stop_standby(signal.SIGQUIT)
        shutil.rmtree(directory)


def _promote(pair: LogshipPair, session: Client) -> Promotion:
    environment = {**os.environ, "LOGSHIP_APPLIER": str(pair.client.path)}
    command = [*program("shipper"), "promote", INSTANCE, "--yes", "--json"]
    started_at = time.perf_counter()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            written_at = session.run_when_writable()
            said, complained = process.communicate(timeout=60)
        finally:
            process.kill()
    returned_at = time.perf_counter()
    if process.returncode != 0:
        raise RuntimeError(f"shipper promote failed: {complained}")
    return {
        "seconds": written_at - started_at,
        "returned_seconds": returned_at - started_at,
        "inside_seconds": json.loads(said)["first_write_seconds"],
    }


# --- a native one ----------------------------------------------------------------------------


def _native_template(site: Site) -> Path:
    with site.native_standby() as native:
        native.stop()
        template = site.new_directory("native-template")
        _copy(native.data, template / "data")
        shutil.copystat(native.directory, template)
        state = native.directory.stat()
        os.chown(template, state.st_uid, state.st_gid)
    return template


def _native(site: Site, template: Path) -> Promotion:
    directory = site.new_directory("native")
    server = PrimaryServer(site.installation, directory / "server", free_port())
    _copy(template, server.directory)
    # No slot: the one of the template's standby is gone, and little WAL is written here.
    site.configure_native(server)
    try:
        server.start()
        site.wait_attached(NATIVE)
        site.wait_replayed(site.conninfo(server), site.flush_lsn())
        with (
            Client(site.conninfo(server), _WRITE) as session,
            Client(site.conninfo(server), "select pg_promote(false)") as operator,
        ):
            time.sleep(_REST_SECONDS)
            started_at = time.perf_counter()
            operator.run()
            return {"seconds": session.run_when_writable() - started_at}
    finally:
        server.destroy()
        shutil.rmtree(directory, ignore_errors=True)
