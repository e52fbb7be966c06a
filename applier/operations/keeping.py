"""The store of one instance: opened, closed, and opened again when it can't be written any more."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from applier.fleet.places import check_mounted
from applier.store import Store
from applier.store.commit_indexing import CommitIndexing
from logship import durable
from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.threads import run_to_the_end
from logship.wal import WalLine

if TYPE_CHECKING:
    from applier.operations.instance import Instance

OPEN_AGAIN_SECONDS = 1.0


class Keeping:
    """The store of the cluster that the instance's record names."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.store: Store | None = None
        """None: it is not open, or just being opened again."""
        self.turn = asyncio.Lock()
        """Held while the store is opened or closed."""
        self._indexing: CommitIndexing | None = None

    @property
    def opened(self) -> Store:
        """Raises LogshipError (STORE_FAILED, retryable): it is being opened again."""
        if self.store is None:
            raise LogshipError(Code.STORE_FAILED, "the store is being opened again", retryable=True)
        return self.store

    async def open(self, profile: Profile) -> None:
        """Call it with `turn` held, or when nothing else goes on yet.  A cancelled caller leaves
        no store open, nor its lock taken.  Raises LogshipError."""
        instance = self._instance
        line = WalLine(profile.system_identifier, profile.major, profile.wal_segment_size)
        places = instance.places
        check_mounted(places, instance.record.volumes)
        for directory in places:
            await asyncio.to_thread(durable.make_directory, directory, 0o711)
        self.store = await self._made_store(places.wal, line)
        for code in (Code.STORE_FAILED, Code.STORE_DAMAGED, Code.STORE_LOCKED):
            instance.alarms.clear(code)
        # First, so that the standby's WAL is on its way before a sync is begun.
        instance.following.serve(self.store)
        self.store.keep_flushing(partial(self._flushed, self.store))
        self._indexing = CommitIndexing(self.store)
        self._indexing.start()

    async def _made_store(self, directory: Path, line: WalLine) -> Store:
        made: list[Store] = []
        try:
            await run_to_the_end(None, lambda: made.append(self._make_store(directory, line)))
        except asyncio.CancelledError:
            for store in made:
                await run_to_the_end(None, store.close)
            raise
        return made[0]

    def _make_store(self, directory: Path, line: WalLine) -> Store:
        instance = self._instance
        instance.tablespaces.open(line)
        return Store.open(directory, line, keep_free_bytes=instance.host.keep_free_bytes)

    async def close(self) -> None:
        """Call it with `turn` held, or when nothing else goes on any more."""
        self._instance.following.serving.withdraw()
        if self._indexing is not None:
            indexing, self._indexing = self._indexing, None
            await indexing.stop()
        if self.store is not None:
            store, self.store = self.store, None
            # Not left behind: who opens it next would find its lock taken.
            await run_to_the_end(None, store.close)

    async def ensure(self, profile: Profile) -> None:
        """Have it open.  Raises LogshipError, also if the instance is not to be used."""
        async with self.turn:
            self._instance.check_usable()
            if self.store is None:
                await self.open(profile)

    async def settle(self) -> None:
        """Before anything is decided by what the store holds: have all of it durable."""
        store = self.opened
        try:
            await store.settle()
        except LogshipError as error:
            self.refused(store, error)
            raise

    def refused(self, store: Store, error: LogshipError) -> None:
        """`store` did not take something: alarm what an operator must see, and open it again
        where it can't be written any more."""
        instance = self._instance
        if error.code in (
            Code.WAL_CONFLICT,
            Code.BAD_WAL_PAGE,
            Code.STORE_FAILED,
            Code.TIMELINE_DIVERGED,
            Code.DISK_QUOTA,
        ):
            instance.alarms.raise_error(error)
        if error.code == Code.STORE_FAILED:
            instance.spawn(self._reopen(store))

    def _flushed(self, store: Store, error: LogshipError | None) -> None:
        """`durable` has risen, or `store` can't be written any more."""
        if self.store is not store:
            return
        instance = self._instance
        if error is not None:
            instance.alarms.raise_error(error)
            instance.tell_failed(error)
            instance.spawn(self._reopen(store))
            return
        instance.became_durable(store)

    async def _reopen(self, failed: Store) -> None:
        """After a failed fsync nothing in memory is believed: scan what is on the disk."""
        instance = self._instance
        assert instance.record.profile is not None
        async with self.turn:
            if self.store is not failed:
                return  # somebody else did it
            await self.close()
            while True:
                try:
                    await self.open(instance.record.profile)
                except LogshipError as error:
                    instance.alarms.raise_error(error)
                    await asyncio.sleep(OPEN_AGAIN_SECONDS)
                    continue
                break
        instance.alarms.clear(Code.STORE_FAILED)
