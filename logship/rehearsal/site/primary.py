"""The primary of a rehearsal: its cluster, its shipper, and the work that goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from psycopg.conninfo import make_conninfo

from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.rehearsal.engine import RUN_SECONDS, Machine, Process
from logship.rehearsal.inside.writer import APPLICATION_NAME, READY
from logship.rehearsal.plan import Database
from logship.rehearsal.plan.schema import DUMP_HINT
from logship.rehearsal.site import generated
from logship.rehearsal.site.cluster import PORT, SUPERUSER, Cluster, Initdb
from logship.rehearsal.site.programs import must_run
from logship.rehearsal.site.server import Server

SHIPPER_ROLE = "logship"
SCHEMA_DATABASE = "rehearsal_schema"
"""Where the operator's dump goes, unless it names a database itself."""
LOAD_SECONDS = 900.0
WRITER_SECONDS = 60.0
SESSION_SECONDS = 20.0
"""How long the last commit of a writer that has ended is waited for."""
_POLL_SECONDS = 0.05

_DEFAULT_PARAMETERS = {"shared_buffers": "32MB", "wal_level": "replica"}

_SETTINGS = """\
instance = "{instance}"
state_directory = "{directory}/state"

[primary]
conninfo = "host={socket} port={port} user={role} dbname=postgres"
connect_timeout_seconds = 3

[link]
address = "{address}"
applier_public_key = "{applier_public_key}"
secret_key_file = "{directory}/keys/shipper.key"
"""

_SESSIONS = f"""
select pg_catalog.count(*) from pg_catalog.pg_stat_activity
where application_name = '{APPLICATION_NAME}'
"""

# What pg_upgrade wants to find in the new cluster as it was in the old.
_NATURE = """
select current_setting('data_checksums') = 'on', pg_size_bytes(current_setting('wal_segment_size')),
    d.datcollate, d.datctype, pg_encoding_to_char(d.encoding), to_jsonb(d) ->> 'datlocprovider',
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale')
from pg_catalog.pg_database d where d.datname = 'template0'
"""


@dataclass(frozen=True)
class Written:
    """What a writer did.

    longest_pause_seconds: the longest time without an acknowledged commit while it ran.
    first_at, last_at: of the commits; None: there was none.  begun_at, ended_at: of the writer.
    All four in seconds since the epoch.
    """

    commits: int
    longest_pause_seconds: float
    first_at: float | None
    last_at: float | None
    begun_at: float
    ended_at: float

    def earlier_by(self, seconds: float) -> Written:
        """The same, as if all of it had been so much earlier.  Pure."""
        return replace(
            self,
            first_at=None if self.first_at is None else self.first_at - seconds,
            last_at=None if self.last_at is None else self.last_at - seconds,
            begun_at=self.begun_at - seconds,
            ended_at=self.ended_at - seconds,
        )


def longest_pause_seconds(written: Sequence[Written]) -> float:
    """Of writers that ran one after the other, the times between them included.  Pure."""
    if not written:
        return 0.0
    longest, quiet_since = 0.0, written[0].begun_at
    for each in written:
        if each.first_at is not None and each.last_at is not None:
            longest = max(longest, each.longest_pause_seconds, each.first_at - quiet_since)
            quiet_since = each.last_at
    return max(longest, written[-1].ended_at - quiet_since)


class Primary:
    """All of it is below the machine's home, so it stays over a change of image.

    instance: its name, as shipper and applier know it.
    """

    def __init__(self, machine: Machine, instance: str, database: Database) -> None:
        self.machine = machine
        self.instance = instance
        self.database = database
        self.parameters = {**_DEFAULT_PARAMETERS, **database.parameters}
        self._copied = False
        self._shipper: Process | None = None
        self._writer: Process | None = None

    # --- the cluster ----------------------------------------------------------------------

    @property
    def directory(self) -> PurePosixPath:
        return self.machine.home / "primary"

    @property
    def server(self) -> Server:
        return Server(self.machine, str(self.directory), PORT, SUPERUSER)

    @property
    def major(self) -> int:
        return int(self.machine.read(self.directory / "data" / "PG_VERSION"))

    def create(self, restored: Path | None = None) -> None:
        """A new cluster with all that the plan's database has, or one around `restored`, a data
        directory of this host whose server is stopped.  It runs afterwards.

        Of several installations on the machine it is of the lowest major.  Raises LogshipError.
        """
        self._copied = restored is not None
        if restored is not None:
            self.machine.put_tree(restored, self.directory / "data")
            self._cluster(self.major).adopt()
        else:
            self._make_directory()
            asked = self.database
            cluster = self._cluster(min(self.machine.facts.majors))
            cluster.create(Initdb(asked.locale, asked.icu_locale, asked.initdb))
        self._cluster().write_parameters(self.parameters)
        self.start()
        self._fill()
        self.sql(
            f"do $$ begin create role {SHIPPER_ROLE} login replication;"
            " exception when duplicate_object then null; end $$",
            f"alter role {SHIPPER_ROLE} login replication",
            f"grant pg_monitor to {SHIPPER_ROLE}",
        )

    def start(self) -> None:
        """Raises LogshipError: what the server said."""
        self._cluster().start()

    def stop(self) -> None:
        self._cluster().stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def sql(self, *statements: str, database: str = "postgres") -> list[list[Any]]:
        """The rows of the last statement that returned any.  Raises LogshipError."""
        return self.server.sql(*statements, database=database)

    def run_script(self, script: str | bytes, database: str) -> None:
        """Statements until one is refused: each by itself by psql, if the installation has it; else
        by `inside.load`, which makes one transaction of those that can be one.  Raises
        LogshipError."""
        file = self.machine.home / "script.sql"
        self.machine.write(file, script)
        conninfo = make_conninfo(self.server.conninfo, dbname=database)
        psql = self._cluster().bin_directory / "psql"
        if self.machine.run(["test", "-x", psql]).returncode == 0:
            quiet = (psql, "-X", "-q", "-v", "ON_ERROR_STOP=1")
            self._run([*quiet, "-d", conninfo, "-f", file], LOAD_SECONDS)
        else:
            told = {"conninfo": conninfo, "file": str(file)}
            self.server.ask("load", told, timeout_seconds=LOAD_SECONDS)

    def set_parameters(self, parameters: Mapping[str, str], *, restart: bool = True) -> None:
        """In the server's settings, by a restart or a reload.  Raises LogshipError: it does not
        start with them."""
        self.parameters = {**self.parameters, **parameters}
        cluster = self._cluster()
        cluster.write_parameters(self.parameters)
        if restart:
            self.restart()
        else:
            cluster.reload()

    def flush_lsn(self) -> Lsn:
        return Lsn.parse(self.sql("select pg_catalog.pg_current_wal_flush_lsn()::text")[0][0])

    def enable_checksums(self, enable: bool) -> None:
        """The server is stopped for it, and runs afterwards.  Raises LogshipError."""
        self.stop()
        self._cluster().enable_checksums(enable)
        self.start()

    def upgrade_major(self, to_major: int) -> None:
        """By pg_upgrade, to the newest of `to_major` on the machine.  It runs before and
        afterwards, without statistics; the old data directory stays beside the new.

        Raises LogshipError: what pg_upgrade said; then the old server runs as before.
        """
        old_major = self.major
        new = self._cluster(to_major)
        kept = f"data-{old_major}"
        old = Cluster(
            self.machine, self.directory, self._bin_of(old_major), self._copied, data_name=kept
        )
        (nature,) = self.sql(_NATURE)
        self.stop()
        self._run(["mv", new.data, old.data])
        try:
            new.create(Initdb(more=_initdb_arguments(nature, to_major)))
            old.upgrade_to(new)
            if self._copied:
                new.adopt()
            new.write_parameters(self.parameters)
            self.start()
        except LogshipError:
            self._run(["rm", "-rf", new.data])
            self._run(["mv", old.data, new.data])
            self.start()
            raise

    def fork(self, name: str, *, image: str | None = None) -> Primary:
        """A copy on another machine, on which nothing runs.  The caller stops this one before,
        and removes the copy's machine."""
        machine = self.machine.fork(name, image=image)
        made = Primary(machine, self.instance, self.database)
        made.parameters = dict(self.parameters)
        made._copied = self._copied
        return made

    # --- the shipper ----------------------------------------------------------------------

    @property
    def shipper_directory(self) -> PurePosixPath:
        return self.machine.home / "shipper"

    @property
    def shipper_settings(self) -> PurePosixPath:
        return self.shipper_directory / "shipper.toml"

    def shipper_public_key(self) -> str:
        """Of its pair of keys, which is made when it is first asked for."""
        keys = self.shipper_directory / "keys"
        try:
            return self.machine.read(keys / "shipper.pub").decode("ascii").strip()
        except FileNotFoundError:
            self._run([*self.machine.logship_command("shipper"), "keygen", keys])
            return self.machine.read(keys / "shipper.pub").decode("ascii").strip()

    def write_settings(self, address: str, applier_public_key: str) -> None:
        """Of the shipper: where the applier listens (`tcp://HOST:PORT`), and its key."""
        self.shipper_public_key()
        text = _SETTINGS.format(
            instance=self.instance,
            directory=self.shipper_directory,
            socket=self.directory,
            port=PORT,
            role=SHIPPER_ROLE,
            address=address,
            applier_public_key=applier_public_key.strip(),
        )
        self.machine.write(self.shipper_settings, text)

    def start_shipper(self) -> None:
        """With the settings that were written last."""
        command = [*self.machine.logship_command("shipper"), "run", "--config"]
        self._shipper = self.machine.start([*command, self.shipper_settings], "shipper")

    def stop_shipper(self) -> None:
        shipper, self._shipper = self._shipper, None
        if shipper is not None:
            shipper.stop()

    def shipper_log(self) -> str:
        """What the shipper printed since it was last started."""
        return self._shipper.log() if self._shipper is not None else ""

    def profile(self) -> bytes:
        """What the shipper would tell of this primary, as JSON.  Raises LogshipError."""
        command = [*self.machine.logship_command("shipper"), "profile", "--json", "--config"]
        return self._run([*command, self.shipper_settings]).encode()

    # --- the work that goes on ------------------------------------------------------------

    def start_writer(self) -> None:
        """Commits go on until `stop_writer`, whatever becomes of the server.  Raises LogshipError:
        the program did not start."""
        writer = self.machine.start(
            [
                *self.machine.tool_command("writer"),
                f"{self.server.conninfo} dbname={generated.DATABASE}",
                generated.WRITES_TABLE,
                self.acknowledged_file,
            ],
            "writer",
        )
        deadline = time.monotonic() + WRITER_SECONDS
        while READY not in writer.log():
            if not writer.running or time.monotonic() > deadline:
                writer.kill()
                raise LogshipError(
                    Code.REHEARSAL_FAILED,
                    f"the writer on {self.machine.name} does not start: {writer.log().strip()}",
                )
            time.sleep(_POLL_SECONDS)
        self._writer = writer

    def stop_writer(self) -> Written:
        """Nothing of it is committed afterwards, unless its last commit takes SESSION_SECONDS, as
        one does that waits for a recovery server that never answers.

        Raises LogshipError: it did not end well, or was killed before.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            raise RuntimeError("no writer was started")
        status = writer.stop()
        lines = writer.log().strip().splitlines() or ["nothing"]
        self._wait_for_last_commit()
        try:
            written = Written(**json.loads(lines[-1]))
        except (ValueError, TypeError):
            written = None
        if status != 0 or written is None:
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"the writer on {self.machine.name} ended with {status}: {lines[-1]}",
            )
        return written

    def _wait_for_last_commit(self) -> None:
        deadline = time.monotonic() + SESSION_SECONDS
        with suppress(LogshipError):  # a server that is down commits nothing
            while self.sql(_SESSIONS) != [[0]] and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    @property
    def acknowledged_file(self) -> PurePosixPath:
        """The ids of all acknowledged commits, one a line."""
        return self.machine.home / "acknowledged"

    # --- inside ---------------------------------------------------------------------------

    def _cluster(self, major: int = 0) -> Cluster:
        bin_directory = self._bin_of(major or self.major)
        return Cluster(self.machine, self.directory, bin_directory, self._copied)

    def _bin_of(self, major: int) -> PurePosixPath:
        return self.machine.facts.bin_of(major, self.machine.image)

    def _make_directory(self) -> None:
        self._run(["mkdir", "-p", self.directory])

    def _fill(self) -> None:
        asked = self.database
        for name, statements in generated.statements(asked.rows, asked.icu_index).items():
            self.sql(f'create database "{name}"')
            self.sql(*statements, database=name)
        if asked.schema is not None:
            try:
                self.sql(f'create database "{SCHEMA_DATABASE}"')
                self.run_script(asked.schema.read_bytes(), SCHEMA_DATABASE)
            except LogshipError as error:
                raise LogshipError(
                    Code.REHEARSAL_FAILED,
                    f"the schema {asked.schema} can't be loaded: {error.what}",
                    f"the new server has no roles but its own: {DUMP_HINT}, of a major that is "
                    "not newer than the server; and the image needs the extensions that it creates",
                ) from error

    def _run(
        self, command: Sequence[str | PurePosixPath], timeout_seconds: float = RUN_SECONDS
    ) -> str:
        """What it printed.  Raises LogshipError."""
        return must_run(self.machine, command, timeout_seconds=timeout_seconds)


def _initdb_arguments(nature: Sequence[Any], major: int) -> tuple[str, ...]:
    """A new cluster like the old one, of another major.  nature: a row of `_NATURE`."""
    checksums, segment_bytes, collate, ctype, encoding, provider, locale = nature
    more = [
        *("--encoding", encoding, "--lc-collate", collate, "--lc-ctype", ctype),
        *("--wal-segsize", str(segment_bytes >> 20)),
    ]
    if checksums:
        more.append("--data-checksums")
    elif major >= 18:  # where they are the default
        more.append("--no-data-checksums")
    if provider == "i":
        more += ["--locale-provider=icu", "--icu-locale", locale]
    elif provider == "b":
        more += ["--locale-provider=builtin", "--builtin-locale", locale]
    return tuple(more)
