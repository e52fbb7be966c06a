"""What an instance does not need any more goes: from its store and from the kept seeds.

Facts are gathered here, `applier.retention.plan` decides, the store and the archive remove.
Where a fact can't be had nothing goes.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from applier.operations.bucket_retention import BucketRetention
from applier.receivers.seed.placement import OLD_SUFFIX, SeedPlaced
from applier.receivers.seed.unpacking import DATA
from applier.retention.leases import running_restores
from applier.retention.plan import Need, Piece, Seed, needs_of_seeds, plan_wal
from applier.retention.report import Part
from applier.store import Store
from logship.errors import Code, LogshipError
from logship.postgres.control_file import read_control_file
from logship.wal import parse_segment_name, segment_end, segment_start

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

_PARTIAL_SUFFIX = ".partial"


class Retention:
    """Of one instance.  One `run` at a time."""

    def __init__(self, instance: Instance) -> None:
        self.bucket: BucketRetention | None = None
        """Of the bucket that the instance is attached to."""
        self._instance = instance
        self._turn = asyncio.Lock()

    async def run(self, *, dry_run: bool, with_bucket: bool = True) -> dict[str, Any]:
        """Remove what nothing needs; returns what went and why everything else stays, by place.

        dry_run: only say it.  with_bucket: look there as well, which lists it.  Raises
        LogshipError; what had been removed by then is gone.
        """
        async with self._turn:
            now = time.time()
            parts = await self._parts(now, dry_run)
            if with_bucket and self.bucket is not None and not self._why_not():
                parts |= await self.bucket.run(self._instance, now, dry_run=dry_run)
        return {
            "name": self._instance.name,
            "dry_run": dry_run,
            "parts": {name: part.as_dict() for name, part in parts.items()},
        }

    async def run_quietly(self, *, with_bucket: bool = True) -> None:
        """As the service does now and then: what fails, whatever it is, is alarmed."""
        instance = self._instance
        try:
            await self.run(dry_run=False, with_bucket=with_bucket)
        except Exception as error:  # a bug with one instance must not end it for all
            if not isinstance(error, LogshipError | OSError):
                log.error("a bug in retention", instance=instance.name, exc_info=error)
            what = error.what if isinstance(error, LogshipError) else str(error) or repr(error)
            instance.alarms.raise_error(
                LogshipError(
                    Code.RETENTION_FAILED,
                    f"old WAL and seeds of {instance.name} can't be removed: {what}",
                    "it is tried again every hour; until then more stays than has to",
                    retryable=True,
                )
            )
        else:
            instance.alarms.clear(Code.RETENTION_FAILED)

    async def wait_for_run(self) -> None:
        """Return when the run that is under way, if any, has ended."""
        async with self._turn:
            pass

    async def _parts(self, now: float, dry_run: bool) -> dict[str, Part]:
        instance = self._instance
        why = self._why_not()
        if why:
            return {"store": Part(held=why), "seeds": Part(held=why)}
        seeds_part, seeds = await instance.arrival.kept.apply_retention(now, dry_run=dry_run)
        return {"store": await self._store_part(seeds, now, dry_run), "seeds": seeds_part}

    def _why_not(self) -> str:
        instance = self._instance
        if instance.record.fence is not None:
            return "it was promoted, or is being promoted: all of it stays"
        if instance.failure is not None or instance.store is None:
            return "its store is not open"
        if (instance.incarnation_directory / (DATA + OLD_SUFFIX)).exists():
            return "the standby of before the last seed is still there"
        return ""

    async def _store_part(self, seeds: list[Seed], now: float, dry_run: bool) -> Part:
        instance = self._instance
        store = instance.opened_store
        leases = await asyncio.to_thread(running_restores, instance.directory)
        needs = [
            *await self._standby_needs(store),
            *needs_of_seeds(seeds),
            *(lease.need for lease in leases),
        ]
        hours = instance.host.settings.retention.window_hours
        segment_bytes = store.line.segment_bytes
        pieces = await asyncio.to_thread(_files_of, store.directory, segment_bytes)
        plan = plan_wal(pieces, needs, window_start=now - hours * 3600, now=now)
        if plan.floors and not dry_run:
            gone = await store.remove_below(plan.floors)
            log.info("removed WAL", instance=instance.name, files=len(gone))
        return Part(plan.removed, plan.kept)

    async def _standby_needs(self, store: Store) -> list[Need]:
        instance = self._instance
        needs: list[Need] = []
        placed = instance.following.placed
        chains = store.chains
        if chains and (placed is None or chains[-1].seed_id != placed.seed_id):
            # Its seed is on its way, or has to be made again: it starts here.
            chain = chains[-1]
            start = segment_start(chain.lsn, store.line.segment_bytes)
            needs.append(Need(chain.timeline, start, "the seed that is to come"))
        if placed is not None:
            data = instance.incarnation_directory / DATA
            needs.append(await asyncio.to_thread(_need_of_standby, data, placed, store))
        for standby in instance.host.wal_server.standbys(instance.name):
            if standby.timeline:
                lsn = standby.write_lsn or standby.sent_lsn
                needs.append(Need(standby.timeline, lsn, f"{standby.application_name} streams it"))
        return needs


def _need_of_standby(data: Path, placed: SeedPlaced, store: Store) -> Need:
    """Where the standby would begin to replay, if it were started now."""
    if (data / "backup_label").exists():
        # Until it has begun to replay the control file may be newer than the backup's start.
        chain = next((c for c in reversed(store.chains) if c.seed_id == placed.seed_id), None)
        timeline = chain.timeline if chain is not None else placed.timeline
        return Need(timeline, placed.start_lsn, "the standby begins with it")
    control = read_control_file(data)
    return Need(control.timeline, control.redo_lsn, "the standby would begin with it again")


def _files_of(directory: Path, segment_bytes: int) -> list[Piece]:
    pieces = []
    for entry in directory.iterdir():
        try:
            timeline, lsn = parse_segment_name(
                entry.name.removesuffix(_PARTIAL_SUFFIX), segment_bytes
            )
            status = entry.stat()
        except (ValueError, FileNotFoundError):
            continue
        pieces.append(
            Piece(
                entry.name,
                timeline,
                int(lsn),
                segment_end(lsn, segment_bytes),
                status.st_size,
                status.st_mtime,
            )
        )
    return pieces
