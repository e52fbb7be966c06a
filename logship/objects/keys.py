"""What a key may be: the part of S3's alphabet that needs no quoting anywhere."""

from __future__ import annotations

import re
from typing import Final

from logship.errors import Code, UsageError

MAX_KEY_CHARACTERS: Final = 900
"""S3 takes 1,024 bytes, the bucket's prefix included."""

_KEY = re.compile(r"\A[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*\Z")


def check_key(key: str) -> str:
    """Return `key` if it may name an object, else raise UsageError."""
    parts = key.split("/")
    if _KEY.match(key) is None or len(key) > MAX_KEY_CHARACTERS or {".", ".."} & set(parts):
        raise UsageError(Code.USAGE, f"{key!r} cannot name an object", "use A-Z a-z 0-9 . _ - /")
    return key
