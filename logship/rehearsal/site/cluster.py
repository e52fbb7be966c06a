"""PostgreSQL's own programs on a machine's cluster: made, started, stopped, checked, upgraded.

A cluster is `directory`: `data`, its unix socket, and what pg_upgrade leaves.  It listens on the
socket alone, and trusts whoever gets there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import RUN_SECONDS, Done, Machine
from logship.rehearsal.site.programs import check_ended, must_run

PORT = 5432
SUPERUSER = "postgres"
START_SECONDS = 60
UPGRADE_SECONDS = 900.0
PARAMETERS_FILE = "rehearsal.conf"

_INCLUDE = f"\ninclude_if_exists = '{PARAMETERS_FILE}'\n"
_HBA = "local all all trust\nlocal replication all trust\n"
# What a copy of a real cluster must not do: nothing of it leaves the machine, and its files
# name nothing that is not there.
_KEPT_INSIDE = {
    "archive_mode": "off",
    # Its jobs would be done a second time.  Without pg_cron nobody reads it.
    "cron.launch_active_jobs": "off",
    "external_pid_file": "",
    "hba_file": "pg_hba.conf",
    "ident_file": "pg_ident.conf",
    "logging_collector": "off",
    "log_destination": "stderr",
    "max_logical_replication_workers": "0",
    "ssl": "off",
    "synchronous_standby_names": "",
}


@dataclass(frozen=True)
class Initdb:
    """What a new cluster is made with.  icu_locale: "": its order of text is libc's."""

    locale: str = "C"
    icu_locale: str = ""
    more: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        icu = ("--locale-provider=icu", "--icu-locale", self.icu_locale) if self.icu_locale else ()
        return ("--encoding", "UTF8", "--locale", self.locale, *icu, *self.more)


@dataclass(frozen=True)
class Cluster:
    """One data directory of `machine`, run by the programs in `bin_directory`.

    copied: it is a copy of a real one.
    """

    machine: Machine
    directory: PurePosixPath
    bin_directory: PurePosixPath
    copied: bool = False
    data_name: str = "data"

    @property
    def data(self) -> PurePosixPath:
        return self.directory / self.data_name

    @property
    def log_file(self) -> PurePosixPath:
        return self.machine.home / "logs" / f"{self.directory.name}.log"

    def create(self, initdb: Initdb) -> None:
        """Raises LogshipError: what initdb said."""
        self._must(
            [
                *(self.bin_directory / "initdb", "-D", self.data, "-U", SUPERUSER),
                *("--auth", "trust", "--no-sync", *initdb.arguments()),
            ]
        )
        self._include_parameters()

    def adopt(self) -> None:
        """Make a data directory that was copied here one of a rehearsal; it is not running."""
        self.machine.write(self.data / "pg_hba.conf", _HBA)
        self.machine.write(self.data / "pg_ident.conf", "")
        for name in ("postmaster.pid", "standby.signal", "recovery.signal"):
            self._must(["rm", "-f", self.data / name])
        self._include_parameters()
        # One command a line: the superuser of the original may have any name.
        make = (
            "do $$ begin if exists (select from pg_catalog.pg_roles where rolname = 'postgres')"
            " then alter role postgres superuser login;"
            " else create role postgres superuser login; end if; end $$\n"
            # Else a promoted copy, whose settings are another's, takes the publisher's changes.
            "update pg_catalog.pg_subscription set subenabled = false\n"
        )
        options = [f"-c{name}={value}" for name, value in self._options().items()]
        program = self.bin_directory / "postgres"
        self._must(
            [program, "--single", "-D", self.data, *options, "template1"],
            UPGRADE_SECONDS,
            stdin=make,
        )

    def write_parameters(self, parameters: Mapping[str, str]) -> None:
        """All that the rehearsal sets, anew; they count from the next start or reload."""
        self.machine.write(self.data / PARAMETERS_FILE, parameters_text(parameters))

    def start(self) -> None:
        """Returns when it takes connections.  Raises LogshipError: what the server said."""
        self._must(["mkdir", "-p", self.log_file.parent])
        options = " ".join(f"-c {name}={_quoted(value)}" for name, value in self._options().items())
        done = self._control("start", "-l", self.log_file, "-o", options)
        if done.returncode != 0:
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"PostgreSQL does not start on {self.machine.name}: {self._last_words()}",
                f"all that it said is in {self.log_file}",
            )

    def stop(self) -> None:
        """A fast shutdown; nothing happens if it does not run."""
        if self.running:
            done = self._control("stop", "-m", "fast")
            check_ended(self.machine, "pg_ctl stop", done)

    @property
    def running(self) -> bool:
        done = self.machine.run([self.bin_directory / "pg_ctl", "status", "-D", self.data])
        return done.returncode == 0

    def reload(self) -> None:
        self._must([self.bin_directory / "pg_ctl", "reload", "-D", self.data])

    def enable_checksums(self, enable: bool) -> None:
        """By pg_checksums; it must be stopped.  Raises LogshipError."""
        mode = "--enable" if enable else "--disable"
        self._must([self._program("pg_checksums"), mode, "-D", self.data], UPGRADE_SECONDS)

    def upgrade_to(self, new: Cluster) -> None:
        """By pg_upgrade, as copies; both are stopped, and `new` holds nothing yet.  Raises
        LogshipError."""
        done = self.machine.run(
            [
                *(new._program("pg_upgrade"), "--no-sync", "-U", SUPERUSER),
                *("-b", self.bin_directory, "-B", new.bin_directory),
                *("-d", self.data, "-D", new.data, "-s", new.directory),
                *("-p", str(PORT), "-P", str(PORT)),
            ],
            timeout_seconds=UPGRADE_SECONDS,
        )
        if done.returncode != 0:
            logs = new.data / "pg_upgrade_output.d"
            find = ("find", logs, "-name", "*.log", "-exec", "tail", "-q", "-n", "6", "{}", "+")
            done = done._replace(stderr=done.stderr + self.machine.run(find).stdout)
        check_ended(self.machine, "pg_upgrade", done)

    # --- inside ---------------------------------------------------------------------------

    def _options(self) -> dict[str, str]:
        """What no settings file of the cluster may say otherwise."""
        inside = _KEPT_INSIDE if self.copied else {}
        files = ("hba_file", "ident_file") if self.copied else ()
        return {
            "unix_socket_directories": str(self.directory),
            "listen_addresses": "",
            "port": str(PORT),
            **inside,
            **{name: str(self.data / inside[name]) for name in files},
        }

    def _include_parameters(self) -> None:
        file = self.data / "postgresql.conf"
        try:
            text = self.machine.read(file).decode("utf-8", "replace")
        except FileNotFoundError:  # a cluster whose settings are elsewhere
            text = ""
        self.machine.write(file, text + _INCLUDE)

    def _control(self, *arguments: str | PurePosixPath) -> Done:
        command = [self.bin_directory / "pg_ctl", *arguments, "-D", self.data]
        wait = ("-w", "-t", str(START_SECONDS))
        return self.machine.run([*command, *wait], timeout_seconds=START_SECONDS + 30)

    def _program(self, name: str) -> PurePosixPath:
        """Raises LogshipError(NO_INSTALLATION): an installation need not have all of them."""
        program = self.bin_directory / name
        if self.machine.run(["test", "-x", program]).returncode != 0:
            raise LogshipError(
                Code.NO_INSTALLATION,
                f"the PostgreSQL in {self.bin_directory} of {self.machine.name} has no {name}",
                "rehearse it with an image that has all of PostgreSQL's server programs",
            )
        return program

    def _must(
        self,
        command: Sequence[str | PurePosixPath],
        timeout_seconds: float = RUN_SECONDS,
        *,
        stdin: str = "",
    ) -> None:
        must_run(self.machine, command, stdin=stdin, timeout_seconds=timeout_seconds)

    def _last_words(self) -> str:
        try:
            text = self.machine.read(self.log_file).decode("utf-8", "replace")
        except FileNotFoundError:
            return "it said nothing"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return (fatal or lines or ["it said nothing"])[-1]


def parameters_text(parameters: Mapping[str, str]) -> str:
    """As a settings file of PostgreSQL.  Pure."""
    return "".join(
        f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in parameters.items()
    )


def _quoted(value: str) -> str:
    """For the shell that pg_ctl starts the server with."""
    return "'" + value.replace("'", "'\\''") + "'"
