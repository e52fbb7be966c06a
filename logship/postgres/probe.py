"""What an installation makes: its catalog version, page sizes and the like.

No program prints these (initdb, pg_ctl and postgres may be all there is), but the control
file of a cluster that it made has them all.  So one is made, read and thrown away, once for
each build.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import platform
import shutil
import tempfile
from pathlib import Path

import msgspec
import structlog

from logship import durable
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.postgres.control_file import read_control_file
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

_INITDB_TIMEOUT_SECONDS = 120


async def probe(installation: Installation, run_as: RunAs, cache_directory: Path) -> Profile:
    """What a cluster made by `installation` would be, as the version check sees it.

    `system_identifier` is 0 and the parameters are initdb's: neither says anything of the
    installation.  Takes about a second the first time; then the answer is kept in
    `cache_directory` until the `postgres` program changes.

    Raises LogshipError(NO_INSTALLATION) when initdb fails, with its words, or is not there any
    more.
    """
    try:
        cached = cache_directory / f"{_key(installation)}.json"
        with contextlib.suppress(OSError, *UNREADABLE):
            return msgspec.json.decode(cached.read_bytes(), type=Profile)
        made = await _make(installation, run_as)
    except OSError as error:
        raise _failed(installation, str(error)) from error
    await asyncio.to_thread(_keep, cached, made)
    return made


def _key(installation: Installation) -> str:
    program = installation.bin_dir / "postgres"
    state = program.stat()
    build = f"{program}\0{state.st_mtime_ns}\0{state.st_size}\0{platform.machine()}"
    return f"{installation.version}-{hashlib.sha256(build.encode()).hexdigest()[:16]}"


def _keep(path: Path, profile: Profile) -> None:
    try:
        durable.make_directory(path.parent)
        durable.write_file(path, msgspec.json.encode(profile))
    except (OSError, LogshipError) as error:
        # Only the next start's second is lost.
        log.warning("A probe's answer could not be kept", path=str(path), error=str(error))


async def _make(installation: Installation, run_as: RunAs) -> Profile:
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="logship-probe-"))
    try:
        run_as.chown(place)
        data = place / "data"
        await _initdb(installation, data, run_as)
        control = await asyncio.to_thread(read_control_file, data)
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
    profile = control.profile(
        server_version_num=installation.version_num, architecture=platform.machine()
    )
    return msgspec.structs.replace(profile, system_identifier=0)


async def _initdb(installation: Installation, data: Path, run_as: RunAs) -> None:
    process = await asyncio.create_subprocess_exec(
        installation.bin_dir / "initdb",
        *("-D", data, "-U", "postgres", "--auth", "reject", "--no-sync", "--locale", "C"),
        cwd=data.parent,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**run_as.environment(), "LC_ALL": "C"},
        **run_as.subprocess_arguments(),
    )
    try:
        async with asyncio.timeout(_INITDB_TIMEOUT_SECONDS):
            output, _ = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise _failed(installation, f"no end in {_INITDB_TIMEOUT_SECONDS} s") from error
        raise
    if process.returncode != 0:
        said = output.decode("utf-8", "replace").strip().splitlines()
        telling = [line for line in said if "error" in line.lower() or "FATAL" in line]
        raise _failed(installation, "; ".join((telling or said)[-3:]))


def _failed(installation: Installation, why: str) -> LogshipError:
    return LogshipError(
        Code.NO_INSTALLATION,
        f"initdb of PostgreSQL {installation.version} in {installation.bin_dir} failed: {why}",
        "repair or remove this installation; run the command by hand to see all it says",
    )
