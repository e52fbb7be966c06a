"""pg_upgrade, which only Debian's packages have here: from 14 to 15."""

from __future__ import annotations

from pathlib import Path

from tests.support.installations import postgres_dir
from tests.support.processes import make_server_directory, run_as_server
from tests.support.servers import PrimaryServer

DEBIAN = Path("/usr/lib/postgresql/15")
OLD_MAJOR, NEW_MAJOR = 14, 15

# pg_upgrade asks the old cluster's own pg_resetwal, which the fetched servers lack, for what it
# would do; that of another major refuses.  What the control file says is the same in both.
_RESETWAL = """#!/bin/sh
if [ "$1" = -V ]; then echo "pg_resetwal (PostgreSQL) {version}"; exit; fi
for data; do :; done
"{controldata}" "$data" || exit 1
segment=$(ls "$data/pg_wal" | grep -E '^[0-9A-F]{{24}}$' | sort | tail -n 1)
echo "First log segment after reset:        $segment"
"""


def is_there() -> bool:
    """Whether this machine has what `upgrade` needs."""
    return (DEBIAN / "bin" / "pg_upgrade").exists()


def old_programs(directory: Path) -> Path:
    """The `bin` of an installation of 14 with all that pg_upgrade calls, made in `directory`."""
    programs = directory / "old-programs" / "bin"
    make_server_directory(programs.parent, 0o755)
    make_server_directory(programs, 0o755)
    for name in ("initdb", "pg_ctl", "postgres"):
        (programs / name).symlink_to(postgres_dir(OLD_MAJOR) / "bin" / name)
    (programs / "pg_controldata").symlink_to(DEBIAN / "bin" / "pg_controldata")
    resetwal = programs / "pg_resetwal"
    resetwal.write_text(
        _RESETWAL.format(
            version=postgres_dir(OLD_MAJOR).name, controldata=DEBIAN / "bin" / "pg_controldata"
        )
    )
    resetwal.chmod(0o755)
    return programs


def upgrade(old: PrimaryServer, new: PrimaryServer) -> None:
    """Bring all of `old` (14) into `new` (15), which holds nothing yet; both are stopped, and
    `new` takes over the address."""
    programs = old_programs(new.directory)
    run_as_server(
        [
            *(DEBIAN / "bin" / "pg_upgrade", "-U", "postgres", "--no-sync"),
            *("-b", programs, "-B", DEBIAN / "bin", "-d", old.data, "-D", new.data),
            *("-p", str(old.port), "-P", str(new.port), "-s", new.directory),
        ],
        new.directory,
    )
    new.port = old.port
    new.configure({"port": str(old.port)})
