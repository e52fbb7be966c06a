"""A server that runs on a machine, as the proofs ask it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import make_conninfo

from logship.rehearsal.engine import RUN_SECONDS, Machine
from logship.rehearsal.site.programs import ask_tool


@dataclass(frozen=True)
class Server:
    """host: an address, or the directory of its unix socket, as the machine itself sees it."""

    machine: Machine
    host: str
    port: int
    user: str = "postgres"

    @property
    def conninfo(self) -> str:
        """Without a database."""
        return make_conninfo(host=self.host, port=self.port, user=self.user)

    def sql(self, *statements: str, database: str = "postgres") -> list[list[Any]]:
        """The rows of the last statement that returned any.  Raises LogshipError."""
        conninfo = make_conninfo(self.conninfo, dbname=database)
        told = {"conninfo": conninfo, "statements": statements}
        rows: list[list[Any]] = self.ask("sql", told)["rows"]
        return rows

    def ask(
        self,
        module: str,
        document: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = RUN_SECONDS,
    ) -> dict[str, Any]:
        """The answer of a program of `logship.rehearsal.inside` that is told of this server.
        Raises LogshipError."""
        told = {"conninfo": self.conninfo, **(document or {})}
        return ask_tool(self.machine, module, told, timeout_seconds=timeout_seconds)
