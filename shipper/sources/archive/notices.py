"""What inotify says of one directory, through watchdog's thread.

Watchdog's observers are not used: they lose an overflow of the kernel's queue, and hold back
each rename for half a second.  What can't be noticed (another machine that writes to a file
system both have mounted) is found by looking: see `watching`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

_WHOLE = InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_MOVED_TO
_GONE = InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM
_SELF = (
    InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT
)
_MASK = Mask(_WHOLE | _GONE | _SELF | InotifyConstants.IN_CREATE | InotifyConstants.IN_ONLYDIR)


class Notices:
    """Collects, between two calls of `take`, what happened to which name.

    `wake` is called in the event loop when there is something to take.  Made and used in the
    loop's thread; `watch` and `stop` block for a moment.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._inotify: InotifyFD | None = None
        self._seen: dict[str, bool | None] = {}
        """By name: True: whole, False: made and not known to be whole, None: gone."""
        self.lost = False
        """Some were missed, or the directory itself went away: only a look at it tells."""

    def watch(self, directory: Path) -> None:
        """Begin, with nothing noticed yet.  Raises OSError."""
        self.stop()
        inotify = InotifyFD()
        inotify.start()
        self._inotify = inotify
        self._seen.clear()
        self.lost = False
        try:
            inotify.add_callback(os.fsencode(directory), _MASK, self, CallbackId(id(self)))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.stop()
            inotify.join()

    def take(self) -> dict[str, bool | None]:
        """What was noticed since the last call."""
        seen, self._seen = self._seen, {}
        return seen

    # --- watchdog's callbacks, in its thread ------------------------------------------------

    def on_event(self, event: InotifyEvent) -> None:
        if event.mask & _SELF:
            self._tell(self._noticed_loss)
        elif event.name:
            name = os.fsdecode(event.name)
            state = None if event.mask & _GONE else bool(event.mask & _WHOLE)
            self._tell(self._noticed, name, state)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._tell(self._noticed_loss)

    def on_queue_overflow(self) -> None:
        self._tell(self._noticed_loss)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        # Stopping tells of the watch that it ends, too: that is no loss.
        if self._inotify is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)

    # --- in the loop --------------------------------------------------------------------------

    def _noticed(self, name: str, state: bool | None) -> None:
        if self._inotify is not None:
            self._seen[name] = state
            self._wake()

    def _noticed_loss(self) -> None:
        if self._inotify is not None:
            self.lost = True
            self._wake()
