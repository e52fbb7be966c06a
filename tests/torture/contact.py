"""What the applier's status shows of the primary, looked at until the primary is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg

from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.status import InstanceStatus

LOOK_SECONDS = 0.1


class Contact(threading.Thread):
    """Asks the status for the primary's last heard position, then the primary for its own: what
    is shown must be no further.

    look: the status, and the number of the process that gave it (0: it ended meanwhile).
    failure: what was wrong, if anything was.
    """

    def __init__(
        self, look: Callable[[], tuple[InstanceStatus, int]], dsn: str, stop: threading.Event
    ) -> None:
        super().__init__(name="contact")
        self.failure: BaseException | None = None
        self._look = look
        self._dsn = dsn
        self._stop_looking = stop
        self._shown: dict[int, Lsn] = {}

    def shown_by(self, process: int) -> Lsn:
        """The furthest position that one process of the applier showed; 0 if it was not asked.

        What one before it had heard within a second of its end was in its memory only.
        """
        return self._shown.get(process, Lsn(0))

    def run(self) -> None:
        try:
            while not self._stop_looking.is_set():
                try:
                    self._compare()
                except psycopg.Error:
                    self._stop_looking.wait(LOOK_SECONDS)
        except BaseException as error:
            self.failure = error

    def _compare(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            while not self._stop_looking.wait(LOOK_SECONDS):
                self._note()
                row = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
                assert row is not None
                flushed = Lsn.parse(row[0])
                shown = max(self._shown.values(), default=Lsn(0))
                if shown > flushed:
                    raise AssertionError(f"the status showed {shown}, the primary is at {flushed}")

    def _note(self) -> None:
        try:
            status, process = self._look()
        except LogshipError:
            return
        lsn = status["primary"]["flush_lsn"]
        if process and lsn is not None:
            self._shown[process] = max(self.shown_by(process), Lsn.parse(lsn))
