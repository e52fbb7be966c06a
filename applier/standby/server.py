"""`Standby`: the asyncio shell that keeps one standby up, asks it, and opens it.

Idle costs nearly nothing: the server's end is an event (a pidfd), and every two seconds the
control file's times are looked at, as PostgreSQL writes every change of the primary's
parameters there before it acts on it (`xlog_redo`, XLOG_PARAMETER_CHANGE).  No SQL runs
unless somebody asks; positions come from the WAL server's status updates.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from applier.standby import probes, server_log
from applier.standby.acting import START_TIMEOUT_SECONDS, Acting
from applier.standby.configuration import StandbySettings
from applier.standby.files import StandbyFiles
from applier.standby.layout import StandbyLayout
from applier.standby.life import (
    ConfigurationChanged,
    Exited,
    LifeState,
    StandbyLife,
    Tick,
    WantRunning,
    WantStopped,
)
from applier.standby.promotion import Opened, ReplayWatch, admit_clients, promote
from applier.standby.session import Session
from applier.standby.status import StandbyStatus
from applier.standby.tablespaces import Note, StandbyTablespaces
from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.lsn import Lsn
from logship.postgres.control_file import read_control_file
from logship.postgres.process import Server

_log = structlog.get_logger(__name__)

_TICK_SECONDS = 2.0
_TICKS_PER_TRIM = 60
_RETRY_SECONDS = 0.05


class Standby:
    """One standby of one incarnation.

    tablespaces: whose notes are kept up to date while the server runs.  opened: whether the
    server may be out of recovery, because a promotion was begun.  Without it a data directory
    that is no standby any more is not started.  contain: is called in a thread with the process
    id of each server that was started or adopted; release: so when it was stopped.

    Make sure first that the version check passes and that `prepare` was called once for the
    seed.  Then either keep `watch` running as a task, or call the other methods on their own
    (`shipper promote --offline`): the server outlives this object in any case.

    Raises UsageError(SETTINGS) for settings that no start could work with.
    """

    def __init__(
        self,
        settings: StandbySettings,
        layout: StandbyLayout,
        server: Server,
        profile: Profile,
        tablespaces: StandbyTablespaces,
        *,
        opened: bool = False,
        contain: Callable[[int], None] = lambda pid: None,
        release: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._contain = contain
        self._layout = layout
        self._server = server
        self._tablespaces = tablespaces
        self._given_up: tuple[Note, ...] = ()
        self._clock = clock
        self._files = StandbyFiles(settings, layout, server.run_as, profile)
        self._session = Session(self._connect, clock)
        self._acting = Acting(
            settings.instance,
            layout,
            server,
            self._files,
            tablespaces,
            self._session,
            may_be_open=opened,
            contain=contain,
            release=release,
            clock=clock,
        )
        self._complaints: tuple[str, ...] = ()

    @property
    def _life(self) -> StandbyLife:
        return self._acting.life

    @property
    def is_opened(self) -> bool:
        """Whether PostgreSQL has left recovery for good: it removed standby.signal."""
        return self._acting.is_opened

    # --- what an operator sees ------------------------------------------------------------

    def status(self) -> StandbyStatus:
        life, now = self._life, self._clock()
        return StandbyStatus(
            state=life.state,
            pid=life.pid,
            state_seconds=now - life.since,
            restarts=life.restarts,
            last_failure=life.last_failure,
            start_in_seconds=None if life.deadline is None else max(0.0, life.deadline - now),
            opened=self.is_opened,
            complaints=self._complaints,
        )

    # --- its life -------------------------------------------------------------------------

    async def ensure_started(self) -> None:
        """Adopt the server if it runs, else start it; it is kept up from now on by `watch`.

        A standby that was adopted with other settings than now is started anew.  Returns once
        it runs, which may be before it lets anybody in.

        Raises LogshipError(STANDBY_FAILED): it did not start (retryable, and `watch` does), or
        the data directory is no standby any more (not retryable).
        """
        self._acting.refuse_if_opened()
        await self._acting.handle(WantRunning())
        if self._life.state is not LifeState.RUNNING:
            raise LogshipError(
                Code.STANDBY_FAILED,
                f"the standby of {self._settings.instance} did not start: "
                f"{self._life.last_failure or self._life.state}",
                f"see {self._layout.log_file}",
                retryable=True,
            )

    async def stop(self) -> None:
        """Stop the server (fast) and leave it down.  Returns when it is down."""
        await self._acting.handle(WantStopped())
        if self._life.state is not LifeState.STOPPED:
            raise LogshipError(
                Code.STANDBY_FAILED,
                f"the standby of {self._settings.instance} does not stop",
                f"see {self._layout.log_file}",
                retryable=True,
            )

    async def watch(self) -> None:
        """Keep the server as it should be until cancelled; the server then stays as it is."""
        ticks = 0
        try:
            while True:
                await self._acting.wait(_TICK_SECONDS)
                ticks += 1
                try:
                    await self._look()
                    await self._session.end_if_idle()
                    if ticks % _TICKS_PER_TRIM == 0:
                        await asyncio.to_thread(server_log.trim, self._layout.log_file)
                except (LogshipError, OSError) as error:
                    # A control file that is just being written, say: the next look is near.
                    _log.warning(
                        "a look at the standby failed",
                        instance=self._settings.instance,
                        why=str(error),
                    )
        finally:
            await self.close()

    async def set_profile(self, profile: Profile) -> None:
        """The primary changed: take over larger parameters before their WAL record arrives.

        Raises LogshipError(CONTROL_FILE) if the standby's own can't be read.
        """
        self._files.profile = profile
        if self._life.state is not LifeState.STOPPED:
            await self._raise_floors()

    async def take_up_tablespaces(self) -> tuple[Note, ...]:
        """Have the server able to replay every record that is noted: start it anew if it must
        see another path.  Returns those that it can't have; it must be held before them.

        Raises LogshipError, OSError.
        """
        if self.is_opened:
            return ()
        unready = await asyncio.to_thread(self._tablespaces.unready, self._life.pid)
        if not unready or unready == self._given_up:
            return unready
        if await asyncio.to_thread(self._tablespaces.can_be_private):
            _log.info(
                "the primary made a tablespace, its standby is started anew",
                instance=self._settings.instance,
                locations=[note.shown_location for note in unready],
            )
            await self._acting.handle(ConfigurationChanged())
            unready = await asyncio.to_thread(self._tablespaces.unready, self._life.pid)
            # What a new start could not give is no reason for another.
            self._given_up = unready
        return unready

    async def settle_tablespaces(self) -> None:
        """Have the server need no paths of its own when it is started again, where that can be.

        Raises LogshipError (STANDBY_FAILED), OSError.
        """
        if not await asyncio.to_thread(self._tablespaces.are_settled):
            with self._session.in_use(), probes.standby_errors():
                connection = await self._session.connected()
                await connection.execute("checkpoint")
        await asyncio.to_thread(self._tablespaces.settle)

    async def retry_streaming(self) -> None:
        """Have a standby that lost the WAL server look for it again at once.

        Call it when the WAL server has come up or serves this instance again.  By itself the
        standby looks every few seconds: each look that fails costs a process and log lines.
        """
        # SIGHUP wakes the startup process out of its wait for the next attempt
        # (`StartupProcSigHupHandler` calls `WakeupRecovery`).
        await asyncio.to_thread(self._server.reload)

    async def close(self) -> None:
        """Let go of the server without stopping it."""
        self._acting.let_go()
        await self._session.end()

    # --- what it says ---------------------------------------------------------------------

    async def positions(self) -> probes.Positions:
        """Ask the server.  Raises LogshipError(STANDBY_FAILED, retryable)."""
        with self._session.in_use():
            try:
                return await probes.read_positions(await self._session.connected())
            except LogshipError:
                # The session is of a server that ended meanwhile; there may be another.
                await self._session.end()
                return await probes.read_positions(await self._session.connected())

    async def progress(self) -> tuple[object, ...]:
        """Changes whenever the server gets further, also while it lets nobody in: received,
        replayed, and where the control file says that recovery has come to."""
        marks: list[object] = [self._life.pid]
        with suppress(LogshipError, OSError):
            control = await asyncio.to_thread(read_control_file, self._layout.data)
            marks += [control.checkpoint_lsn, control.min_recovery_end_lsn]
        with suppress(LogshipError):
            found = await self.positions()
            marks += [found.received, found.replayed]
        return tuple(marks)

    async def replayed_everything(self, end_lsn: int, timeout_seconds: float) -> bool:
        """Wait until what was received up to `end_lsn` is replayed as far as records go.

        True: `promote` loses nothing of it.  False: not within the time, or replay stands
        still.  Survives restarts of the server meanwhile.
        """
        watch = ReplayWatch(Lsn(end_lsn))
        deadline = self._clock() + timeout_seconds
        while self._clock() < deadline:
            try:
                found = await self.positions()
                if watch.done(found, self._clock()):
                    return True
                if found.replay_pause != probes.NOT_PAUSED:
                    await self._end_pause()
                pause_seconds = watch.pause_seconds(found)
            except LogshipError as error:
                if not error.retryable:
                    raise
                await self._look()
                pause_seconds = _RETRY_SECONDS
            await asyncio.sleep(pause_seconds)
        return False

    # --- the day --------------------------------------------------------------------------

    async def promote(self, timeout_seconds: float = 60.0) -> Opened:
        """Open the server; see `promotion.promote`.  Note first, durably, that this begins.

        Clients are let in by `admit_clients`, afterwards.
        """
        self._acting.may_be_open = True
        with self._session.in_use():
            connection = await self._connected_within(timeout_seconds)
            opened = await promote(
                connection, self._layout.data, self._server.promote, timeout_seconds
            )
        _log.info(
            "standby promoted",
            instance=self._settings.instance,
            timeline=opened.timeline,
            lsn=str(opened.lsn),
            promote_seconds=round(opened.promote_seconds, 3),
        )
        return opened

    async def admit_clients(self) -> tuple[str, ...]:
        """Put the primary's pg_hba.conf rules into force on the promoted server.

        Rules that this server can't read are left out, as one would make it ignore them all.
        Returns those, and why; they are in `status` as well.  Raises LogshipError
        (STANDBY_FAILED) if the server does not answer, or is a standby still.
        """
        if not self.is_opened:
            raise LogshipError(
                Code.STANDBY_FAILED,
                f"the standby of {self._settings.instance} is not promoted: it admits nobody",
                "promote it first",
            )
        with self._session.in_use(), probes.standby_errors():
            connection = await self._connected_within(START_TIMEOUT_SECONDS)
            self._complaints = await admit_clients(
                connection, self._layout, self._files.profile.bootstrap_superuser
            )
        return self._complaints

    async def change_settings(self, settings: StandbySettings) -> str:
        """Give a server that is open other parameters.  What takes a restart is in force from
        its next start on: it serves clients, and is not started anew for that.

        Returns shared_buffers as in force.  Raises UsageError(SETTINGS), OSError, and
        LogshipError(CONTROL_FILE, STANDBY_FAILED).
        """
        async with self._acting.turn:
            self._settings = settings
            self._files.change_settings(settings)
            await asyncio.to_thread(self._files.write)
            await asyncio.to_thread(self._server.reload)
            if self._life.pid is not None:
                await asyncio.to_thread(self._contain, self._life.pid)
        with self._session.in_use():
            return await probes.read_shared_buffers(await self._session.connected())

    @property
    def admits_nobody(self) -> bool:
        """Whether the rules in force still are a standby's, which let no client in."""
        return self._files.is_closed()

    # --- looking --------------------------------------------------------------------------

    async def _look(self) -> None:
        life = self._life
        if life.pid is not None and await self._acting.has_ended(pid := life.pid):
            await self._session.end()
            why = await self._acting.why()
            if life.state is LifeState.RUNNING:
                _log.error("standby ended", instance=self._settings.instance, why=why)
            await self._acting.handle(Exited(why, pid))
            # It may have ended for want of larger parameters, which are known now.
            await self._raise_floors()
            if await self._acting.learn():
                await self._acting.handle(ConfigurationChanged())
        elif life.state is LifeState.RUNNING:
            if self._files.control_file_changed():
                await self._raise_floors()
                await asyncio.to_thread(self._tablespaces.settle)
        elif life.deadline is not None and self._clock() >= life.deadline:
            await self._acting.handle(Tick())

    async def _raise_floors(self) -> None:
        """Start anew if replay needs larger parameters than the server was started with."""
        if self.is_opened:
            return
        needed = await asyncio.to_thread(self._files.raised_floors)
        if needed is None:
            return
        _log.info(
            "the primary raised parameters, its standby is started anew",
            instance=self._settings.instance,
            **needed._asdict(),
        )
        await self._acting.handle(ConfigurationChanged())

    async def _end_pause(self) -> None:
        """Somebody paused replay, or PostgreSQL did for want of larger parameters."""
        await self._raise_floors()
        with self._session.in_use(), probes.standby_errors():
            connection = await self._session.connected()
            await connection.execute("select pg_wal_replay_resume()")

    # --- what is held ---------------------------------------------------------------------

    async def _connect(self) -> probes.Connection:
        superuser = self._files.profile.bootstrap_superuser
        return await probes.connect(self._layout, self._settings.port, superuser)

    async def _connected_within(self, timeout_seconds: float) -> probes.Connection:
        """The session, waiting for a server that has just been started to let us in."""
        deadline = self._clock() + timeout_seconds
        while True:
            try:
                return await self._session.connected()
            except LogshipError:
                if self._clock() >= deadline:
                    raise
            await self._look()
            await asyncio.sleep(_RETRY_SECONDS)
