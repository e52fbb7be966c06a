"""Runs a standby's data directory without an applier: PostgreSQL alone, on the WAL in the store.

Takes `directory` (of an incarnation: `data` and `wal` are in it), `bin_directory`, `sockets` and
`port` with the `conninfo` of both, `until` (the LSN to replay to), `preload` (as
`shared_preload_libraries` has it), `parameters` (that win over all else) and `seconds`.  Starts
it, waits until it has replayed so far, and promotes it; the server then goes on.  Answers with
`reached`: one of `nothing`, `start`, `closed` (it runs, and can let nobody in), `replay`, `open`;
and what the server `said` if it did not get to the end.

Nothing is checked and nothing is raised to what the primary has: what breaks is to be seen.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.postgres.control_file import ControlFile, read_control_file
from logship.postgres.installations import Installation
from logship.postgres.process import Server, Wait, last_words
from logship.postgres.run_as import RunAs
from logship.rehearsal.inside.databases import connect, one_line
from logship.rehearsal.inside.speaking import answer

NOTHING, START, CLOSED, REPLAY, OPEN = "nothing", "start", "closed", "replay", "open"

# CheckMyDatabase in postinit.c: no database of this locale can be entered.
_NO_SUCH_LOCALE = "database locale is incompatible with operating system"

_POLL_SECONDS = 0.1

_LOOK: LiteralString = """
select pg_catalog.pg_last_wal_replay_lsn()::text, pg_catalog.pg_get_wal_replay_pause_state()
"""


def run(told: Mapping[str, Any]) -> dict[str, str]:
    place = Path(told["directory"]) / "bare"
    place.mkdir(mode=0o700, exist_ok=True)
    Path(told["sockets"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    data = Path(told["directory"]) / "data"
    control = read_control_file(data)
    (place / "postgresql.conf").write_text(_configuration(told, data, control), encoding="utf-8")
    (place / "pg_hba.conf").write_text("local all all trust\n", encoding="utf-8")
    log_file = place / "server.log"
    # Its version is not asked: whatever program it is, it is to be tried.
    installation = Installation(Path(told["bin_directory"]), 0, "configured")
    server = Server(installation, data, RunAs.of(None))
    deadline = time.monotonic() + told["seconds"]
    try:
        server.start(
            config_file=place / "postgresql.conf",
            hba_file=place / "pg_hba.conf",
            log_file=log_file,
            timeout_seconds=told["seconds"],
            wait=Wait.RECOVERING,
        )
    except LogshipError as error:
        return {"reached": NOTHING, "said": error.what}
    reached, said = _replay(told, server, log_file, deadline)
    if said:
        return {"reached": reached, "said": said}
    try:
        with connect(told) as connection:
            ((opened,),) = connection.execute("select pg_catalog.pg_promote(true, 60)").fetchall()
    except psycopg.Error as error:
        return {"reached": REPLAY, "said": _words(log_file) or one_line(error)}
    return {"reached": OPEN if opened else REPLAY, "said": "" if opened else _words(log_file)}


def _replay(
    told: Mapping[str, Any], server: Server, log_file: Path, deadline: float
) -> tuple[str, str]:
    """Wait until it has replayed as far as is wanted.

    Returns how far it got, and why it does not replay; "": it does.
    """
    until = Lsn.parse(told["until"])
    reached, seen, pause = NOTHING, "nothing", ""
    while True:
        if server.running_pid() is None:
            return reached, _words(log_file)
        try:
            with connect(told) as connection:
                ((seen, pause),) = connection.execute(_LOOK).fetchall()
                reached = START
        except psycopg.OperationalError as error:
            if _NO_SUCH_LOCALE in str(error):
                return CLOSED, one_line(error)
        if reached is START and seen and Lsn.parse(seen) >= until:
            return REPLAY, ""
        if pause == "paused":
            return reached, f"replay was paused at {seen}: {_words(log_file)}"
        if time.monotonic() >= deadline:
            return reached, f"{seen} of {until} is replayed, and no more: {_words(log_file)}"
        time.sleep(_POLL_SECONDS)


def _words(log_file: Path) -> str:
    return "; ".join(last_words(log_file))


def _configuration(told: Mapping[str, Any], data: Path, control: ControlFile) -> str:
    wal = shlex.quote(f"{told['directory']}/wal")
    size_bytes = control.wal_segment_size
    # A segment that is being filled has a tail after it (docs/store-format.md).
    restore = (
        f"if test -f {wal}/%f; then cp {wal}/%f %p; "
        f"else test -f {wal}/%f.partial && head -c {size_bytes} {wal}/%f.partial > %p; fi"
    )
    parameters: dict[str, Any] = {
        "data_directory": data,
        "listen_addresses": "",
        "unix_socket_directories": told["sockets"],
        "port": told["port"],
        "restore_command": restore,
        "recovery_target_timeline": "latest",
        "hot_standby": "on",
        "shared_buffers": "32MB",
        "shared_preload_libraries": told["preload"],
        # It is opened, and then nothing is to be done a second time.
        "cron.launch_active_jobs": "off",
        "max_logical_replication_workers": 0,
        "lc_messages": "C",
        "log_line_prefix": "",
        "max_connections": control.max_connections,
        "max_worker_processes": control.max_worker_processes,
        "max_wal_senders": control.max_wal_senders,
        "max_prepared_transactions": control.max_prepared_transactions,
        "max_locks_per_transaction": control.max_locks_per_transaction,
        "wal_level": control.wal_level,
        "track_commit_timestamp": "on" if control.track_commit_timestamp else "off",
        **told["parameters"],
    }
    lines = (f"{name} = '{_escaped(str(value))}'" for name, value in parameters.items())
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


if __name__ == "__main__":
    raise SystemExit(answer(run))
