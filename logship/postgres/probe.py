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
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import structlog

from logship import durable
from logship.decoders import json_decoder
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

    Raises LogshipError(NO_INSTALLATION) when initdb fails, with its words.
    """
    known = await asyncio.to_thread(known_profile, installation, cache_directory)
    if known is not None:
        return known
    async with throw_away_cluster(installation, run_as) as data:
        return await asyncio.to_thread(learn_profile, installation, data, cache_directory)


def known_profile(installation: Installation, cache_directory: Path) -> Profile | None:
    """What `probe` found out before and kept.  Raises LogshipError as `probe`."""
    with contextlib.suppress(OSError, *UNREADABLE):
        kept = (cache_directory / f"{build_key(installation)}.json").read_bytes()
        return json_decoder(Profile).decode(kept)
    return None


def learn_profile(installation: Installation, data: Path, cache_directory: Path) -> Profile:
    """The answer of `probe` from a cluster that `installation` made; keeps it.  Blocks."""
    made = read_control_file(data).profile(
        server_version_num=installation.version_num, architecture=platform.machine()
    )
    profile = msgspec.structs.replace(made, system_identifier=0)
    keep_answer(cache_directory / f"{build_key(installation)}.json", msgspec.json.encode(profile))
    return profile


def build_key(installation: Installation) -> str:
    """Names one build of one installation: another program has another key.

    Raises LogshipError(NO_INSTALLATION): the program is gone.
    """
    program = installation.bin_dir / "postgres"
    try:
        state = program.stat()
    except OSError as error:
        raise LogshipError(
            Code.NO_INSTALLATION,
            f"PostgreSQL {installation.version} in {installation.bin_dir} is gone: "
            f"{error.strerror}",
            "install it again; it is found by itself",
        ) from error
    build = f"{program}\0{state.st_mtime_ns}\0{state.st_size}\0{platform.machine()}"
    return f"{installation.version}-{hashlib.sha256(build.encode()).hexdigest()[:16]}"


def keep_answer(path: Path, document: bytes) -> None:
    """Write what was found out of an installation, for the next start.  Blocks."""
    try:
        durable.make_directory(path.parent)
        durable.write_file(path, document)
    except (OSError, LogshipError) as error:
        # Only the next start's second is lost.
        log.warning("A probe's answer could not be kept", path=str(path), error=str(error))


@contextlib.asynccontextmanager
async def throw_away_cluster(installation: Installation, run_as: RunAs) -> AsyncIterator[Path]:
    """The data directory of a new cluster, which is removed afterwards.  Takes about a second.

    Raises LogshipError(NO_INSTALLATION) when initdb fails, with its words.
    """
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="logship-probe-"))
    try:
        run_as.chown(place)
        await _initdb(installation, place / "data", run_as)
        yield place / "data"
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


async def _initdb(installation: Installation, data: Path, run_as: RunAs) -> None:
    process = await asyncio.create_subprocess_exec(
        installation.bin_dir / "initdb",
        *("-D", data, "-U", "postgres", "--auth", "reject", "--no-sync"),
        # ICU's collations are known in encodings that ICU knows, of which C's own is none.
        *("--locale", "C", "--encoding", "UTF8"),
        cwd=data.parent,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**run_as.environment(), "LC_ALL": "C"},
        **run_as.subprocess_arguments(),
    )
    try:
        output, _ = await ended(process, _INITDB_TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise _failed(installation, f"no end in {_INITDB_TIMEOUT_SECONDS} s") from error
    if process.returncode != 0:
        said = output.decode("utf-8", "replace").strip().splitlines()
        telling = [line for line in said if "error" in line.lower() or "FATAL" in line]
        raise _failed(installation, "; ".join((telling or said)[-3:]))


async def ended(
    process: asyncio.subprocess.Process, timeout_seconds: float, given: bytes | None = None
) -> tuple[bytes, bytes]:
    """What it wrote to its pipes by its end.  Whatever interrupts that kills it, and raises:
    TimeoutError, a cancellation."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await process.communicate(given)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise


def _failed(installation: Installation, why: str) -> LogshipError:
    return LogshipError(
        Code.NO_INSTALLATION,
        f"initdb of PostgreSQL {installation.version} in {installation.bin_dir} failed: {why}",
        "repair or remove this installation; run the command by hand to see all it says",
    )
