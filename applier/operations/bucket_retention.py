"""Retention of an instance's part of the bucket, by the applier that reads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from applier.retention.bucket import Rules, retain_bucket
from applier.retention.leases import running_restores, seeds_in_use
from applier.retention.plan import Need
from applier.retention.report import Part
from logship.bucket.keys import Keys
from logship.bucket.seed_archive import Opens
from logship.objects import ObjectStore

if TYPE_CHECKING:
    from applier.operations.instance import Instance


class BucketRetention:
    """One bucket, for all instances that are attached to it."""

    def __init__(self, store: ObjectStore, identities: Opens) -> None:
        self._store = store
        self._identities = identities

    async def run(self, instance: Instance, now: float, *, dry_run: bool) -> dict[str, Part]:
        """Remove what nothing needs, if the settings say so.  Raises LogshipError."""
        settings = instance.host.settings.retention
        if not settings.remove_from_bucket:
            why = "retention.remove_from_bucket is false: nothing is removed from it"
            return {"bucket": Part(held=why)}
        store, incarnation = instance.opened_store, instance.record.incarnation
        assert incarnation is not None, "an open store is of a known cluster"
        durable = store.durable
        needs = []
        if durable is not None:
            needs = [Need(durable.timeline, durable.lsn, "this applier reads on from here")]
        leases = await asyncio.to_thread(running_restores, instance.directory)
        needs += [lease.need for lease in leases]
        parts = await asyncio.to_thread(
            retain_bucket,
            self._store,
            Keys(instance.name, incarnation),
            store.line.segment_bytes,
            Rules(settings.bucket_seeds, now - settings.window_hours * 3600, now),
            needs=needs,
            in_use=seeds_in_use(leases),
            identities=self._identities,
            dry_run=dry_run,
        )
        return {"bucket seeds": parts.seeds, "bucket WAL": parts.wal}
