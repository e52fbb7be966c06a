"""What a server says of a parameter in its configuration, without a cluster.

Given a parameter by `-c` and asked for another by `-C`, `postgres` checks the first, prints the
second and ends, before it looks at any data (`PostmasterMain` in
`src/backend/postmaster/postmaster.c`).
"""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

from logship.postgres.installations import Installation
from logship.postgres.probe import ended
from logship.postgres.run_as import RunAs

_TIMEOUT_SECONDS = 10
_FATAL = re.compile(r"\bFATAL:  (.*)$", re.MULTILINE)
_MORE = re.compile(r"\b(?:DETAIL|HINT):  (.*)$", re.MULTILINE)


class Complaint(NamedTuple):
    """In the server's own words."""

    what: str
    hint: str
    """"": it gives none."""


async def complaint_of(
    installation: Installation, run_as: RunAs, name: str, value: str
) -> Complaint | None:
    """Why a server of `installation` would not start with `name` set to `value`; None: nothing
    is wrong with it alone, or nobody can say.

    Names with a dot are of extensions, and any is taken.  Takes some 20 ms.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            installation.bin_dir / "postgres",
            # Any directory will do.
            *("-D", installation.bin_dir, "-c", "config_file=/dev/null"),
            *("-c", f"{name}={value}", "-C", "wal_level"),
            cwd=installation.bin_dir,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**run_as.environment(), "LC_ALL": "C"},
            **run_as.subprocess_arguments(),
        )
        _, stderr = await ended(process, _TIMEOUT_SECONDS)
    except (OSError, TimeoutError):
        return None
    said = stderr.decode("utf-8", "replace")
    fatal = _FATAL.search(said)
    # Else it is not well for another reason, and its standbys will tell.
    if process.returncode == 0 or fatal is None or f'"{name.lower()}"' not in fatal[1].lower():
        return None
    return Complaint(fatal[1].strip(), "; ".join(_MORE.findall(said)))
