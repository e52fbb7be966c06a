"""A client that costs little: libpq's blocking calls on prepared statements."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from psycopg import pq

_READ_ONLY = b"25006"  # read_only_sql_transaction
_FIRST_WRITE_PAUSE_SECONDS = 0.0005
_PATIENCE_SECONDS = 60.0


class Client:
    """One connection with one prepared statement, which takes at most one number."""

    def __init__(self, conninfo: str, statement: str) -> None:
        self._connection = pq.PGconn.connect(conninfo.encode())
        if self._connection.status != pq.ConnStatus.OK:
            raise ConnectionError(self._message())
        prepared = self._connection.prepare(b"statement", statement.encode())
        if prepared.status != pq.ExecStatus.COMMAND_OK:
            raise RuntimeError(self._message())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.finish()

    def run(self, *numbers: int) -> int:
        """Run the statement; returns how many rows came.  Raises RuntimeError."""
        result = self._run(*numbers)
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise RuntimeError(self._message())
        return result.ntuples

    def run_when_writable(self) -> float:
        """Run the statement again and again until the server takes writes; returns the time
        (perf_counter) at which it was acknowledged.  Raises TimeoutError, RuntimeError."""
        deadline = time.perf_counter() + _PATIENCE_SECONDS
        while time.perf_counter() < deadline:
            result = self._run()
            if result.status == pq.ExecStatus.COMMAND_OK:
                return time.perf_counter()
            if result.error_field(pq.DiagnosticField.SQLSTATE) != _READ_ONLY:
                raise RuntimeError(self._message())
            time.sleep(_FIRST_WRITE_PAUSE_SECONDS)
        raise TimeoutError(f"no write within {_PATIENCE_SECONDS:.0f} s")

    def _run(self, *numbers: int) -> pq.abc.PGresult:
        return self._connection.exec_prepared(b"statement", [str(n).encode() for n in numbers])

    def _message(self) -> str:
        return self._connection.get_error_message()
