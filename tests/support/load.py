"""A client that writes while a test looks."""

from __future__ import annotations

import threading

from tests.support.servers import PrimaryServer

ROWS = 200
"""Of one commit: some 70 kB of WAL."""


class Load:
    """Commits `ROWS` rows into the table `t` (which it makes if there is none) all along, as long
    as the block lasts, and counts what was committed.

    checkpoints: each commit is followed by one.
    """

    def __init__(
        self, server: PrimaryServer, pause_seconds: float = 0.05, *, checkpoints: bool = False
    ) -> None:
        self._server = server
        self._pause_seconds = pause_seconds
        self._checkpoints = checkpoints
        self._stop = threading.Event()
        self.rows = 0
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Load:
        self._server.execute("create table if not exists t (v text)")
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            self._server.execute(
                "insert into t (v) select repeat(md5(random()::text), 10) "
                "from generate_series(1, %s)",
                ROWS,
            )
            self.rows += ROWS
            if self._checkpoints:
                self._server.execute("checkpoint")
            self._stop.wait(self._pause_seconds)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)
