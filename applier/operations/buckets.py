"""The bucket as a process has it: opened, read for its instances, and seeds out of it on order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from applier.operations.bucket_retention import BucketRetention
from applier.operations.bucket_road import BucketRoad
from applier.operations.instance import Instance
from applier.receivers.bucket.reader import BucketReader, SeedOrder
from applier.receivers.bucket.receiver import BucketReceiver
from applier.settings import ApplierSettings, BucketSettings
from logship.bucket.seed_archive import SeedInfo
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.objects.encryption import Identities
from logship.objects.opening import open_store

log = structlog.get_logger(__name__)

LINK, BUCKET = "link", "bucket"


class Buckets:
    """Reads the settings' bucket, if they have one, for the instances that are attached to it.

    In an event loop; `attach` instances, then `stop`.  Raises LogshipError for identities or an
    AWS profile that can't be used; whether the bucket answers shows later.
    """

    def __init__(self, settings: ApplierSettings, instances: Mapping[str, Instance]) -> None:
        self._instances = instances
        bucket = settings.bucket
        self._retention: BucketRetention | None = None
        reading = bucket if bucket is not None else BucketSettings(url="file:///nonexistent")
        self._store: ObjectStore | None = open_store(bucket) if bucket is not None else None
        identities = Identities(reading.identity_files)
        if self._store is not None:
            self._retention = BucketRetention(self._store, identities)
        self._receiver = BucketReceiver(
            _RoadsOf(instances),
            self._store,
            poll_seconds=reading.poll_seconds,
            prefetch_bytes=reading.prefetch_mb << 20,
            identities=identities,
        )
        self._orders: dict[asyncio.Task[None], str] = {}
        self._ordered: set[str] = set()
        """Instances for which an order is being looked into, or read from a directory."""

    def attach(self, name: str) -> None:
        """Read the bucket for an instance, whose settings say so."""
        instance = self._instances[name]
        road = instance.bucket
        road.is_open = True
        instance.retention.bucket = self._retention
        road.wake = partial(self._receiver.wake, name)
        road.hurry = partial(self._receiver.hurry, name)
        self._receiver.start([name])

    async def detach(self, name: str) -> None:
        """Let go of an instance: neither the bucket nor a directory is read for it any more."""
        instance = self._instances[name]
        instance.bucket.is_open = False
        instance.retention.bucket = None
        orders = [task for task, owner in self._orders.items() if owner == name]
        for task in orders:
            task.cancel()
        await asyncio.gather(*orders, return_exceptions=True)
        await self._receiver.leave(name)

    async def stop(self) -> None:
        for task in self._orders:
            task.cancel()
        await asyncio.gather(*self._orders, return_exceptions=True)
        await self._receiver.stop()
        if self._store is not None:
            self._store.close()

    async def request_seed(self, name: str, why: str, source: str) -> dict[str, Any]:
        """source: "link", "bucket", the path of a directory, or "": the link if its shipper is
        connected, else the bucket.

        Raises LogshipError: RefusedError where there is no such road, or no seed that can be
        recovered; what the bucket raises.
        """
        instance = self._instances[name]
        if not source:
            source = BUCKET if instance.bucket.is_open and not instance.is_connected else LINK
        answer: dict[str, Any] = {"name": name, "requested": True, "from": source}
        if source == LINK:
            if not instance.settings.has_link:
                raise RefusedError(
                    Code.SEED_FAILED,
                    f"{name} has no link: its settings have no public key of a shipper",
                    f"applier seed {name} --from bucket takes the newest one of the bucket",
                )
            instance.request_seed(why)
            return answer
        with self._one_at_a_time(name) as turn:
            info = await self._order(instance, SeedOrder(why), source, turn)
        return answer | {"seed_id": info.begin.seed_id}

    @contextlib.contextmanager
    def _one_at_a_time(self, name: str) -> Iterator[contextlib.ExitStack]:
        """One order of an instance: two readers must not feed it at once.  What is given is
        closed at the end of the order."""
        if name in self._ordered:
            raise RefusedError(
                Code.SEED_FAILED, f"a seed of {name} is ordered already", "wait for it"
            )
        self._ordered.add(name)
        with contextlib.ExitStack() as turn:
            turn.callback(self._ordered.discard, name)
            yield turn

    async def _order(
        self, instance: Instance, order: SeedOrder, source: str, turn: contextlib.ExitStack
    ) -> SeedInfo:
        name = instance.name
        if source == BUCKET:
            reader = self._receiver.readers.get(name)
            if reader is None:
                raise RefusedError(
                    Code.SEED_FAILED,
                    f"{name} is attached to no bucket",
                    "add the table [bucket] to the settings, or name a directory",
                )
            info = await self._usable(instance, reader)
            reader.order_seed(order)
        else:
            store = _directory(source)
            reader = self._receiver.reader_of(name, store, order)
            info = await self._usable(instance, reader)
            task = asyncio.create_task(self._seed_from(name, reader))
            self._orders[task] = name
            task.add_done_callback(lambda done: self._orders.pop(done, None))
            rest = turn.pop_all()
            task.add_done_callback(lambda _: rest.close())
        return info

    async def _usable(self, instance: Instance, reader: BucketReader) -> SeedInfo:
        info = await reader.usable_seed()
        instance.check_seed_possible()
        return info

    async def _seed_from(self, name: str, reader: BucketReader) -> None:
        try:
            await self._receiver.run_instead(name, reader)
        except LogshipError as error:
            log.error("no seed came of it", instance=name, **error.as_dict())


class _RoadsOf(Mapping[str, BucketRoad]):
    """The bucket's road into each instance that there is."""

    def __init__(self, instances: Mapping[str, Instance]) -> None:
        self._instances = instances

    def __getitem__(self, name: str) -> BucketRoad:
        return self._instances[name].bucket

    def __iter__(self) -> Iterator[str]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)


def _directory(text: str) -> DirectoryStore:
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise UsageError(
            Code.USAGE,
            f"{text} is no directory on the recovery server",
            'name one by its full path, or "link", or "bucket"',
        )
    return DirectoryStore(path)
