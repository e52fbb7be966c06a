"""Whether the software that standbys run on was changed: by looking at files, now and then."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

State = Mapping[str, object]
"""By path: what was there."""


def state_of(paths: Iterable[Path]) -> dict[str, object]:
    """Of each path its inode, time and size; None: nothing is there.  Blocks for microseconds."""
    return {str(path): _state(path) for path in paths}


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def digest(state: State) -> str:
    """The same for equal states only, also in another process."""
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()


class PackageWatch:
    """Says when changed packages are to be looked at: once they rest.  Pure.

    A package is replaced file by file, so a change counts when a second look finds all as the
    first one did.
    """

    def __init__(self, state: State) -> None:
        """`state`: what everything that was found out so far is true of."""
        self._acted: dict[str, object] = dict(state)
        self._seen: dict[str, object] = dict(state)

    def look(self, state: State) -> bool:
        """Take a look in.  True, once for each change: look at everything again now.

        A path that comes to be watched is no change.
        """
        rests = _same(self._seen, state)
        self._seen = dict(state)
        if _same(self._acted, state):
            self._acted |= state
            return False
        if rests:
            self._acted = dict(state)
        return rests


def _same(before: State, now: State) -> bool:
    return all(before[path] == found for path, found in now.items() if path in before)
