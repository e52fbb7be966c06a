"""What `StandbyLife` commands, done: the server started and stopped, and its end noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from applier.standby import server_log
from applier.standby.files import StandbyFiles
from applier.standby.layout import StandbyLayout
from applier.standby.life import (
    Command,
    ConfigurationChanged,
    Event,
    Exited,
    StandbyLife,
    Start,
    Started,
)
from applier.standby.liveness import ProcessEnd
from applier.standby.placement import undo_unfinished_opening
from applier.standby.session import Session
from applier.standby.tablespaces import StandbyTablespaces
from logship.errors import Code, LogshipError
from logship.postgres.process import Server, StopMode

_log = structlog.get_logger(__name__)

START_TIMEOUT_SECONDS = 60.0
_SERVER_THREADS = ThreadPoolExecutor(8, "standby-server")
"""Of all standbys, for what may take a minute: starting and stopping.  In the loop's own threads
a few servers that are slow to start would hold up every other instance's WAL."""


class Acting:
    """The one place that acts.  may_be_open: whether the server may be out of recovery.

    contain, release: as for `Standby`.
    """

    def __init__(
        self,
        instance: str,
        layout: StandbyLayout,
        server: Server,
        files: StandbyFiles,
        tablespaces: StandbyTablespaces,
        session: Session,
        *,
        may_be_open: bool,
        contain: Callable[[int], None],
        release: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._instance = instance
        self._layout = layout
        self._server = server
        self._files = files
        self._tablespaces = tablespaces
        self._session = session
        self.may_be_open = may_be_open
        self._contain = contain
        self._release = release
        self._clock = clock
        self.life = StandbyLife(clock())
        self.turn = asyncio.Lock()
        """Held while something is done to the server."""
        self._wake = asyncio.Event()
        self._process_end: ProcessEnd | None = None
        self._log_offset_bytes = 0

    @property
    def is_opened(self) -> bool:
        """Whether PostgreSQL has left recovery for good: it removed standby.signal."""
        layout = self._layout
        return layout.control_file.exists() and not layout.signal_file.exists()

    async def handle(self, event: Event) -> None:
        """Give `life` an event, perform its commands, give it what comes of them.

        Goes on to the end when the caller is cancelled: a command whose outcome `life` never
        learned of would leave it starting, or stopping, for ever.
        """
        acting = asyncio.ensure_future(self._act(event))
        acting.add_done_callback(_mark_as_seen)
        await asyncio.shield(acting)

    async def _act(self, event: Event) -> None:
        async with self.turn:
            events: list[Event] = [event]
            while events:
                for command in self.life.handle(events.pop(0), self._clock()):
                    events += await self._perform(command)

    async def _perform(self, command: Command) -> list[Event]:
        if isinstance(command, Start):
            return await self._start()
        return await self._stop()

    async def _start(self) -> list[Event]:
        changed = False
        try:
            self.refuse_if_opened()
            changed = await asyncio.to_thread(self._files.write)
            pid = await asyncio.to_thread(self._server.running_pid)
            if pid is None:
                changed = False
                loop = asyncio.get_running_loop()
                pid = await loop.run_in_executor(_SERVER_THREADS, self._start_server)
            elif await asyncio.to_thread(self._server.runs_other_program):
                # It may replay only what it was version-checked against.
                changed = True
        except (LogshipError, OSError) as error:
            why = error.what if isinstance(error, LogshipError) else str(error)
            pid = await asyncio.to_thread(self._server.running_pid)
            # One that is slow to start goes on starting: killing it would only prolong it.
            slow = isinstance(error, LogshipError) and error.retryable and pid is not None
            _log.error(
                "standby is slow to start" if slow else "standby does not start",
                instance=self._instance,
                why=why,
            )
            if pid is None or not slow:
                await self.learn()
                return [Exited(why)]
        self._watch_pid(pid)
        await asyncio.to_thread(self._contain, pid)
        _log.info("standby runs", instance=self._instance, pid=pid)
        # One that is open serves clients: only its operator may restart it.
        if changed and not self.is_opened:
            return [Started(pid), ConfigurationChanged()]
        # It looks for the WAL server at once: see `Standby.retry_streaming`.
        await asyncio.to_thread(self._server.reload)
        return [Started(pid)]

    def _start_server(self) -> int:
        layout = self._layout
        if undo_unfinished_opening(layout, self._server.run_as):
            _log.warning("the server died while it opened", instance=self._instance)
        server_log.trim(layout.log_file)
        self._log_offset_bytes = server_log.size_bytes(layout.log_file)
        return self._tablespaces.start(
            lambda private_paths: self._server.start(
                config_file=layout.config_file,
                hba_file=layout.hba_file,
                log_file=layout.log_file,
                timeout_seconds=START_TIMEOUT_SECONDS,
                private_paths=private_paths,
            )
        )

    async def _stop(self) -> list[Event]:
        await self._session.end()
        loop = asyncio.get_running_loop()
        modes: tuple[StopMode, ...] = ("fast", "immediate")
        for mode in modes:
            try:
                await loop.run_in_executor(_SERVER_THREADS, self._server.stop, mode)
            except LogshipError as error:
                _log.error(
                    "standby does not stop",
                    instance=self._instance,
                    mode=mode,
                    why=error.what,
                )
            else:
                self.let_go()
                await asyncio.to_thread(self._release)
                return [Exited("stopped")]
        # The next look sees its end, should it come.
        return []

    async def wait(self, tick_seconds: float) -> None:
        """Until the next look is due: after a tick, when the server ends, or when it is to be
        started again."""
        now = self._clock()
        due = now + tick_seconds if self.life.deadline is None else self.life.deadline
        timer = asyncio.get_running_loop().call_later(max(due - now, 0.0), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            self._wake.clear()

    async def has_ended(self, pid: int) -> bool:
        """Whether the server that was process `pid` is not there any more."""
        end = self._process_end
        if end is not None and end.known:
            return end.pid == pid and end.ended
        return await asyncio.to_thread(self._server.running_pid) != pid

    async def learn(self) -> bool:
        """Whether it ended on a tablespace's record that was not known before."""
        return await asyncio.to_thread(
            self._tablespaces.learn, self._layout.log_file, self._log_offset_bytes
        )

    async def why(self) -> str:
        """What the log says of its end."""
        found = await asyncio.to_thread(
            server_log.last_failures, self._layout.log_file, self._log_offset_bytes
        )
        return "; ".join(found) or "it ended without a word"

    def refuse_if_opened(self) -> None:
        """Raises LogshipError(STANDBY_FAILED): it is open although nobody promoted it."""
        if self.is_opened and not self.may_be_open:
            raise LogshipError(
                Code.STANDBY_FAILED,
                f"{self._layout.data} is no standby any more: its standby.signal is gone",
                "if it was promoted by hand, stop protecting the instance here; else seed it anew",
            )

    def _watch_pid(self, pid: int) -> None:
        self.let_go()
        self._process_end = ProcessEnd(pid, self._wake.set)

    def let_go(self) -> None:
        """Notice its end no more."""
        if self._process_end is not None:
            self._process_end.close()
            self._process_end = None


def _mark_as_seen(task: asyncio.Future[None]) -> None:
    # Of a cancelled caller nobody asks for the error any more; asyncio would report it.
    if not task.cancelled():
        task.exception()
