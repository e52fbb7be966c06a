"""Restores one instance to a moment, into a directory of its own.

    look      the window, and where in it the target is: refused now if it can't be reached
    check     the version check, as for a standby, before anything is written
    seed      the newest seed that is consistent by then, unpacked and verified
    replay    PostgreSQL streams from a WAL server of our own, which shows it nothing from the
              stop on: the gate that also holds standbys.  So the end is exact to the byte, needs
              no record behind it, and what came after never reaches the directory
    open      promoted to a new timeline, or left as a read-only standby without any source

The instance's own standby, store and slot are not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from applier.compat import DataDirectoryFacts, StandbyProfile, check
from applier.operations.tablespaces import PathPermission
from applier.receivers.seed.receiver import SeedReceiver
from applier.restore.finding import Stop, find_stop
from applier.restore.serving import ServedWal
from applier.restore.sources import Sources
from applier.restore.targets import Target, shown_time
from applier.restore.window import Window
from applier.standby import (
    Opened,
    Standby,
    StandbyLayout,
    StandbySettings,
    StandbyTablespaces,
    TablespaceNotes,
    prepare,
)
from applier.standby.configuration import SettingValue
from applier.standby.layout import check_socket_path
from applier.standby.placement import write_ours
from applier.standby.probes import connect, standby_errors
from applier.walserver.gate import Gate
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyStatus
from logship import durable
from logship.environment import library_list
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.frames import SeedBegin, SeedChunk
from logship.postgres.control_file import read_control_file
from logship.postgres.installations import Installation, choose
from logship.postgres.probe import probe
from logship.postgres.process import Server
from logship.postgres.run_as import RunAs
from logship.threads import run_to_the_end
from logship.wal import segment_start

Report = Callable[[str, dict[str, Any]], None]
OpenMode = Literal["promote", "read-only"]

PROGRESS_SECONDS: Final = 1.0
STALL_SECONDS: Final = 60.0
"""A restore gives up when the server got no further for so long."""
_WAL_DIRECTORY: Final = "wal"
_SOCKET_DIRECTORY: Final = "run"
_WAL_PORT: Final = 5432

_ALONE: Final[dict[str, SettingValue]] = {
    # Its jobs would be done a second time.  Only pg_cron reads it, since 1.6; one of before has
    # nothing that keeps it from them.
    "cron.launch_active_jobs": False,
    # Subscriptions of the origin would connect to its publishers, and move their slots.
    "max_logical_replication_workers": 0,
}


class Place(NamedTuple):
    """Where a restore goes, and how its server is to be."""

    into: Path
    port: int
    open_mode: OpenMode = "promote"
    listen_addresses: str = "localhost"
    shared_buffers_mb: int = 128
    settings: Mapping[str, SettingValue] = MappingProxyType({})
    keep_free_bytes: int = 0

    @property
    def layout(self) -> StandbyLayout:
        return StandbyLayout(self.into, self.into / _SOCKET_DIRECTORY)

    @property
    def wal_directory(self) -> Path:
        """Ours while it replays: the WAL server's socket, and what is fetched."""
        return self.into / _WAL_DIRECTORY


class Machine(NamedTuple):
    """What runs the server."""

    installations: list[Installation]
    run_as: RunAs
    probe_cache: Path
    overrides: frozenset[str] = frozenset()
    private_paths: bool = True
    """Whether the server may have paths of its own: `standby.private_paths`."""


def check_place(place: Place) -> None:
    """Raises UsageError or RefusedError(RESTORE_FAILED) for a place where nothing can go."""
    into = place.into
    if not into.is_absolute():
        raise UsageError(Code.USAGE, f"{into} is not absolute", "write the directory in full")
    if not 1 <= place.port <= 65535:
        raise UsageError(
            Code.USAGE, f"{place.port} is no port", "--port takes a number from 1 to 65535"
        )
    check_socket_path(place.layout.socket_directory, place.port, "--into")
    check_socket_path(place.wal_directory, _WAL_PORT, "--into")
    try:
        is_used = os.path.lexists(into) and (not into.is_dir() or any(into.iterdir()))
    except OSError as error:
        raise _refused(f"{into} can't be looked at: {error.strerror}", "check its owner") from error
    if is_used:
        what = "is not empty" if into.is_dir() else "is no directory"
        hint = "name a directory that is empty or not there yet"
        if place.layout.socket_directory.is_dir():
            hint += (
                "; if a restore was killed in this one, its server may still run: stop that first"
            )
        raise _refused(f"{into} {what}", hint)
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        # Where it listens on no address the port is its socket's name, in its own directory.
        if place.listen_addresses and _is_taken(family, address, place.port):
            raise _refused(f"port {place.port} is in use on this machine", "name another: --port P")


def _is_taken(family: socket.AddressFamily, address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe_socket:
        probe_socket.settimeout(1.0)
        return probe_socket.connect_ex((address, port)) == 0
    return False


async def restore(
    sources: Sources,
    window: Window,
    target: Target,
    place: Place,
    machine: Machine,
    report: Report,
) -> dict[str, Any]:
    """Do it; returns what is open now, as JSON-able data.  window: what `sources` gave.

    Raises RefusedError (nothing was written): TARGET_UNREACHABLE, COMPATIBILITY,
    RESTORE_FAILED (the place); LogshipError: NO_INSTALLATION, RESTORE_FAILED, and what reading
    the seed and the WAL raises.  No server is left running then.
    """
    started_at = time.monotonic()
    check_place(place)
    stop = await asyncio.to_thread(find_stop, sources.records, window, target)
    report("found", {"stop": str(stop.lsn), "timeline": stop.timeline, "which is": stop.what})
    await asyncio.to_thread(sources.hold_only, stop.seed)
    job = _Restore(sources, stop, place, machine, report)
    installation = await job.choose_installation()
    try:
        return await job.run(installation, target, started_at)
    except OSError as error:
        raise LogshipError(
            Code.RESTORE_FAILED,
            f"the restore into {place.into} failed: {error}",
            f"look at the disk; remove {place.into} before the next try",
        ) from error


class _Restore:
    """One restore, once it is known where to stop."""

    def __init__(
        self, sources: Sources, stop: Stop, place: Place, machine: Machine, report: Report
    ) -> None:
        self._sources = sources
        self._stop = stop
        self._place = place
        self._machine = machine
        self._report = report
        # What the primary is now: who replays its WAL could replay what it was as well.
        self._profile = sources.profile
        self._served: ServedWal | None = None
        self._seconds: dict[str, float] = {}

    # --- before anything is written --------------------------------------------------------

    async def choose_installation(self) -> Installation:
        """Raises LogshipError(NO_INSTALLATION), RefusedError(COMPATIBILITY)."""
        profile, machine = self._profile, self._machine
        installation = choose(machine.installations, profile.major, profile.server_version_num)
        await self._check(installation, None)
        return installation

    async def _check(self, installation: Installation, facts: DataDirectoryFacts | None) -> None:
        machine = self._machine
        made = await probe(installation, machine.run_as, machine.probe_cache)
        parameters = {name.lower(): value for name, value in self._place.settings.items()}
        preloaded = library_list(str(parameters.get("shared_preload_libraries", "")))
        standby = StandbyProfile.of(made, facts, preload_libraries=preloaded)
        verdict = check(self._profile, standby, self._profile.incarnation, machine.overrides)
        if verdict.blocked:
            raise RefusedError(
                Code.COMPATIBILITY,
                f"PostgreSQL {installation.version} may not replay this: {verdict.summary()}",
                "install what is named, or override the rule by name in the instance's settings",
            )

    # --- the work --------------------------------------------------------------------------

    async def run(
        self, installation: Installation, target: Target, started_at: float
    ) -> dict[str, Any]:
        place, layout = self._place, self._place.layout
        durable.make_directory(place.into, 0o711)
        with self._timed("seed"):
            await self._unpack()
        control = await asyncio.to_thread(read_control_file, layout.data)
        await self._check(installation, DataDirectoryFacts.of(control))
        await asyncio.to_thread(prepare, layout, self._machine.run_as)
        server = Server(installation, layout.data, self._machine.run_as)
        notes = TablespaceNotes(place.into)
        # Nothing holds this server before them: it must have its own path for each.
        created = self._sources.tablespaces_below(self._stop.lsn)
        await asyncio.to_thread(notes.add, created, "private")
        why_not = PathPermission(self._machine.run_as, wanted=self._machine.private_paths).why_not
        tablespaces = StandbyTablespaces(layout, self._machine.run_as, notes, why_not)
        standby = Standby(self._settings(), layout, server, self._profile, tablespaces)
        try:
            with self._timed("replay"):
                await self._replay(standby)
            with self._timed("open"):
                opened, complaints = await self._open(standby, server)
        except BaseException:
            with contextlib.suppress(LogshipError):
                await standby.stop()
            raise
        finally:
            await standby.close()
            await asyncio.to_thread(durable.remove_tree, place.wal_directory)
        self._seconds["total"] = time.monotonic() - started_at
        return self._result(installation, opened, complaints, target)

    async def _unpack(self) -> None:
        seed = self._stop.seed
        self._report("seed", {"seed": seed.info.begin.seed_id, "from": seed.where})
        receiver = SeedReceiver(
            self._place.into,
            run_as=self._machine.run_as,
            keep_free_bytes=self._place.keep_free_bytes,
            system_identifier=self._profile.system_identifier,
        )
        frames = seed.frames()
        told_at = time.monotonic()
        try:
            while (found := await run_to_the_end(None, lambda: next(frames, None))) is not None:
                frame, payload = found
                if isinstance(frame, SeedBegin):
                    await receiver.begin(frame)
                elif isinstance(frame, SeedChunk):
                    await receiver.chunk(frame, payload)
                else:
                    await receiver.end(frame, _nothing_runs)
                if time.monotonic() - told_at >= PROGRESS_SECONDS:
                    told_at = time.monotonic()
                    done_mb = receiver.received_bytes >> 20
                    self._report("unpacking", {"MB": f"{done_mb} of {seed.info.raw_bytes >> 20}"})
        except BaseException:
            with contextlib.suppress(LogshipError):
                await receiver.abort()
            raise
        finally:
            await run_to_the_end(None, frames.close)

    async def _replay(self, standby: Standby) -> None:
        stop, sources = self._stop, self._sources
        start = segment_start(stop.seed.info.start_lsn, sources.kept.line.segment_bytes)
        served = await asyncio.to_thread(
            ServedWal, sources.kept, sources.history, sources.spool, start, stop.lsn
        )
        self._served = served
        euid = os.geteuid()
        server = WalServer(
            self._place.wal_directory,
            _WAL_PORT,
            allowed_uids=frozenset({euid, self._machine.run_as.uid}),
            on_status=lambda _name, status: _received(served, status),
        )
        await server.start()
        try:
            version = f"{self._profile.major}.{self._profile.minor}"
            server.serve(sources.name, served, version, Gate(hold_at_lsn=stop.lsn))
            self._report("replay", {"MB": (stop.lsn - start) >> 20, "to": str(stop.lsn)})
            fetching = asyncio.create_task(served.fetch_all())
            replaying = asyncio.create_task(self._until_replayed(standby))
            try:
                await asyncio.wait({fetching, replaying}, return_when=asyncio.FIRST_EXCEPTION)
                if fetching.done():
                    fetching.result()
                await replaying
            finally:
                for task in (fetching, replaying):
                    task.cancel()
                await asyncio.gather(fetching, replaying, return_exceptions=True)
        finally:
            await server.stop()

    async def _until_replayed(self, standby: Standby) -> None:
        await standby.ensure_started()
        goal = self._stop.replayed_lsn
        last: tuple[object, ...] = ()
        moved_at = time.monotonic()
        while not await standby.replayed_everything(goal, PROGRESS_SECONDS):
            now = await standby.progress()
            if now != last:
                last, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                raise LogshipError(
                    Code.RESTORE_FAILED,
                    f"replay got no further for {STALL_SECONDS:.0f} s",
                    f"see {self._place.layout.log_file}",
                )
            self._check_room()
            with contextlib.suppress(LogshipError):
                replayed = (await standby.positions()).replayed
                self._report("replaying", {"at": str(replayed or "the start"), "to": str(goal)})
        await self._check_stopped(standby)

    def _check_room(self) -> None:
        """Who runs beside it, the store above all, needs what is to stay free."""
        place = self._place
        free_bytes = shutil.disk_usage(place.into).free
        if free_bytes < place.keep_free_bytes:
            raise LogshipError(
                Code.DISK_FULL,
                f"no room to replay on in {place.into}: {free_bytes} bytes are free, "
                f"{place.keep_free_bytes} are to stay free",
                "make room, or restore into a directory on another disk",
            )

    async def _check_stopped(self, standby: Standby) -> None:
        """It is where it was to stop, to the byte."""
        replayed = (await standby.positions()).replayed
        if replayed != self._stop.replayed_lsn:
            raise LogshipError(
                Code.RESTORE_FAILED,
                f"replay stopped at {replayed}, not at {self._stop.replayed_lsn}",
                f"see {self._place.layout.log_file}; please report this",
            )

    async def _open(
        self, standby: Standby, server: Server
    ) -> tuple[Opened | None, tuple[str, ...]]:
        self._report("open", {"how": self._place.open_mode})
        opened: Opened | None = None
        complaints: tuple[str, ...] = ()
        if self._place.open_mode == "promote":
            opened = await standby.promote()
            complaints = await standby.admit_clients()
        await standby.settle_tablespaces()
        await self._leave_alone(server)
        return opened, complaints

    async def _leave_alone(self, server: Server) -> None:
        """From now on it has no source of WAL, nor looks for one."""
        layout = self._place.layout
        text = await asyncio.to_thread(layout.config_file.read_text, encoding="utf-8")
        lines = [
            "primary_conninfo = ''" if line.startswith("primary_conninfo") else line
            for line in text.splitlines()
        ]
        head = [
            "# Written by `applier restore`.  It is yours now: nothing writes it again.",
            *(line for line in lines if not line.startswith("#")),
        ]
        await asyncio.to_thread(write_ours, layout.config_file, "\n".join(head) + "\n")
        await asyncio.to_thread(server.reload)
        if self._place.open_mode == "read-only":
            connection = await connect(layout, self._place.port, self._profile.bootstrap_superuser)
            try:
                with standby_errors():
                    await connection.execute("select pg_wal_replay_pause()")
            finally:
                await connection.close()

    # --- what is told ----------------------------------------------------------------------

    def _settings(self) -> StandbySettings:
        place = self._place
        return StandbySettings(
            instance=self._sources.name,
            port=place.port,
            wal_server_directory=place.wal_directory,
            wal_server_port=_WAL_PORT,
            listen_addresses=place.listen_addresses,
            shared_buffers_mb=place.shared_buffers_mb,
            settings={**place.settings, **_ALONE},
        )

    def _result(
        self,
        installation: Installation,
        opened: Opened | None,
        complaints: tuple[str, ...],
        target: Target,
    ) -> dict[str, Any]:
        stop, place, layout = self._stop, self._place, self._place.layout
        assert self._served is not None
        last = stop.last_commit_time
        run_as, pg_ctl = self._machine.run_as, installation.bin_dir / "pg_ctl"
        files = {"config_file": layout.config_file, "hba_file": layout.hba_file}
        # pg_ctl passes them through a shell.
        options = shlex.join(
            word for key, file in files.items() for word in ("-c", f"{key}={file}")
        )
        start: list[str | Path] = [
            pg_ctl,
            "start",
            "-D",
            layout.data,
            "-l",
            layout.log_file,
            "-o",
            options,
        ]
        return {
            "name": self._sources.name,
            "target": str(target),
            "stopped_at": stop.what,
            "lsn": str(stop.replayed_lsn),
            "timeline": stop.timeline,
            "last_commit_time": None if last is None else last / 1_000_000,
            "last_commit": None if last is None else shown_time(last),
            "seed": stop.seed.as_dict(),
            "fetched_bytes": self._served.fetched_bytes,
            "open": place.open_mode,
            "opened_timeline": None if opened is None else opened.timeline,
            "complaints": list(complaints),
            "data_directory": str(layout.data),
            "socket_directory": str(layout.socket_directory),
            "port": place.port,
            "superuser": self._profile.bootstrap_superuser,
            "run_as": run_as.name,
            "version": installation.version,
            "stop_command": run_as.shell_line([pg_ctl, "stop", "-D", layout.data]),
            "start_command": run_as.shell_line(start),
            "seconds": {name: round(each, 3) for name, each in self._seconds.items()},
        }

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[name] = time.monotonic() - began


def _received(served: ServedWal, status: StandbyStatus) -> None:
    if status.flush_lsn:
        served.replayed(status.flush_lsn)


async def _nothing_runs() -> None:
    """Before the swap of a seed: the directory is new, no server runs on it."""


def _refused(what: str, hint: str) -> RefusedError:
    return RefusedError(Code.RESTORE_FAILED, what, hint)
