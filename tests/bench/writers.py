"""`python -m tests.bench.writers RATE CONNINFO …`: small commits on several servers, in turn.

RATE: commits a second on each.  A process of its own, as it must not wait for what is measured.
It commits until SIGTERM, into the table `written`, which it makes.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from types import FrameType

import psycopg

from tests.bench.client import Client

_INSERT = "insert into written (what) values (repeat('w', 200))"


class _StopError(Exception):
    pass


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    rate, conninfos = float(sys.argv[1]), sys.argv[2:]
    with contextlib.suppress(_StopError), contextlib.ExitStack() as stack:
        for conninfo in conninfos:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("create table if not exists written (what text)")
        clients = [stack.enter_context(Client(conninfo, _INSERT)) for conninfo in conninfos]
        _write(clients, 1 / (rate * len(clients)))
    return 0


def _write(clients: list[Client], pause_seconds: float) -> None:
    due = time.monotonic()
    while True:
        for client in clients:
            due = max(due + pause_seconds, time.monotonic() - 1)  # a stall is not made up for
            time.sleep(max(0.0, due - time.monotonic()))
            client.run()


def _stop(number: int, frame: FrameType | None) -> None:
    raise _StopError


if __name__ == "__main__":
    raise SystemExit(main())
