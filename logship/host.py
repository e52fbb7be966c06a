"""The software of this host that PostgreSQL orders text with, and how to name it.

Both sides name it alike, so that the version check can compare: the shipper tells of the
primary's host if that is its own, the applier of the recovery server.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_ICU_LIBRARY = re.compile(rb"libicui18n\.so\.(\d+)\0")
# What it says when it is asked for an ICU locale (`src/backend/utils/adt/pg_locale*.c`).
_WITHOUT_ICU = b"ICU is not supported in this build"
_CHUNK_BYTES = 1 << 20
_OVERLAP_BYTES = 64


def operating_system() -> str:
    """`Debian GNU/Linux 12 (bookworm)`; "" if the host does not say."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def libc() -> str:
    """`glibc 2.36`; "" for any other than the GNU C library."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def icu_of(program: Path) -> str | None:
    """The major version of ICU that a `postgres` is linked with: `72`.

    "": it was built without ICU.  None: the program does not tell.  Reads the whole program, so
    call it in a thread.  Raises OSError.
    """
    known: str | None = None
    with program.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK_BYTES):
            piece = before + chunk
            found = _ICU_LIBRARY.search(piece)
            if found is not None:
                return found[1].decode("ascii")
            if _WITHOUT_ICU in piece:
                known = ""
            before = chunk[-_OVERLAP_BYTES:]
    return known
