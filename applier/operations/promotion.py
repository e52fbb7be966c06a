"""Open the standby, and say what could not be brought back.

Needs nothing but this server's own disk.  The steps, each told to `report` as it is made:

    fence    durable before anything else: no byte of the old line is accepted any more
    flush    what arrived is made durable: this is what will be recovered
    receive  the standby has all of it in its own pg_wal
    replay   ... and has replayed it, as far as records go
    promote  PostgreSQL opens it, and a write has succeeded
    record   what was opened and what was lost, durable

A failure before `promote` takes the fence back: nothing was opened.  After a crash in the
middle the fence stands and `resume` finishes the job.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from applier.operations.instance import Instance
from applier.operations.record import Heard, Promotion
from applier.standby import Opened, Standby
from logship.errors import Code, LogshipError, RefusedError
from logship.lsn import Lsn, Position, plain_lsn

log = structlog.get_logger(__name__)

Report = Callable[[str, dict[str, Any]], None]

PROGRESS_SECONDS = 1.0
STALL_SECONDS = 60.0
"""Promotion gives up when the standby has neither received nor replayed a byte for so long."""


def lost_bytes(heard: Heard | None, durable: Position) -> int | None:
    """WAL that the primary was heard to have flushed and that is not here; None: never heard."""
    if heard is None:
        return None
    if heard.timeline < durable.timeline:
        return 0
    return max(0, heard.lsn - durable.lsn)


async def promote(instance: Instance, report: Report, *, offline: bool = False) -> dict[str, Any]:
    """Promote `instance`; returns its record as JSON-able data.

    Raises RefusedError (nothing was changed) or LogshipError(PROMOTE_FAILED, …).
    """
    _refuse_unless_possible(instance)
    started_at = time.monotonic()
    report("fence", {})
    await instance.fence("promotion")
    try:
        standby, durable = await _bring_up_to_date(instance, report)
    except (LogshipError, asyncio.CancelledError):
        await instance.unfence()
        raise
    return await _open(instance, standby, durable, report, started_at, offline=offline)


async def resume(instance: Instance, report: Report, *, offline: bool = False) -> dict[str, Any]:
    """Finish a promotion that a crash interrupted: fenced, and no promotion on record."""
    log.warning("finishing an interrupted promotion", instance=instance.name)
    started_at = time.monotonic()
    if instance.following.was_opened:
        standby = await instance.following.start_opened()
        assert instance.store is not None and instance.store.durable is not None
        durable = instance.store.durable
    else:
        standby, durable = await _bring_up_to_date(instance, report)
    return await _open(instance, standby, durable, report, started_at, offline=offline)


def _refuse_unless_possible(instance: Instance) -> None:
    promotion = instance.record.promotion
    if promotion is not None:
        raise RefusedError(
            Code.ALREADY_PROMOTED,
            f"{instance.name} was promoted already: it opened on timeline "
            f"{promotion.opened_timeline} at {Lsn(promotion.opened_lsn)}, port {promotion.port}",
            f"shipper status {instance.name} shows the record",
        )
    if instance.seeder is not None:
        raise RefusedError(
            Code.PROMOTE_REFUSED,
            f"a seed of {instance.name} is arriving and will replace its standby",
            "wait for it, or stop its shipper to give the seed up",
        )
    instance.following.refuse_promotion_unless_ready()
    store = instance.store
    if store is None or store.durable is None:
        raise RefusedError(
            Code.PROMOTE_REFUSED, f"{instance.name} has no WAL to recover with", "seed it first"
        )


async def _bring_up_to_date(instance: Instance, report: Report) -> tuple[Standby, Position]:
    store = instance.store
    assert store is not None
    durable = await store.flush()
    assert durable is not None
    report("flush", {"durable": str(durable)})
    standby = await instance.following.ready_to_promote()
    await _wait_received(instance, durable, report)
    report("replay", {"to": str(durable.lsn)})
    while not await standby.replayed_everything(durable.lsn, STALL_SECONDS):
        await _check_progress(instance, standby, report)
    return standby, durable


async def _wait_received(instance: Instance, durable: Position, report: Report) -> None:
    wal_server = instance.host.wal_server
    seen, seen_at = Lsn(0), time.monotonic()
    while True:
        try:
            await wal_server.wait_for_flush(instance.name, durable, PROGRESS_SECONDS)
        except TimeoutError:
            pass
        else:
            return
        status = instance.following.standby_status()
        flushed = status.flush_lsn if status is not None else Lsn(0)
        if status is not None and status.refusal is not None:
            refusal = status.refusal
            raise LogshipError(refusal.code, refusal.what, refusal.hint)
        if flushed > seen:
            seen, seen_at = flushed, time.monotonic()
        elif time.monotonic() - seen_at > STALL_SECONDS:
            raise _stalled(instance, f"it received nothing beyond {seen} of {durable.lsn}")
        report("receive", {"flushed": str(flushed), "to": str(durable.lsn)})


async def _check_progress(instance: Instance, standby: Standby, report: Report) -> None:
    before = await standby.positions()
    await asyncio.sleep(PROGRESS_SECONDS)
    after = await standby.positions()
    if after.replayed == before.replayed:
        raise _stalled(instance, f"replay stands still at {after.replayed}")
    report("replay", {"replayed": str(after.replayed)})


def _stalled(instance: Instance, what: str) -> LogshipError:
    return LogshipError(
        Code.PROMOTE_FAILED,
        f"the standby of {instance.name} does not come up to date: {what}",
        "nothing was opened and protection goes on; look at the standby's log",
        retryable=True,
    )


async def _open(
    instance: Instance,
    standby: Standby,
    durable: Position,
    report: Report,
    started_at: float,
    *,
    offline: bool,
) -> dict[str, Any]:
    report("promote", {})
    opened: Opened = await standby.promote()
    now = time.monotonic()
    heard = instance.heard
    promotion = Promotion(
        at=time.time(),
        offline=offline,
        opened_timeline=opened.timeline,
        opened_lsn=opened.lsn,
        durable_timeline=durable.timeline,
        durable_lsn=durable.lsn,
        heard=heard,
        lost_bytes=lost_bytes(heard, durable),
        promote_seconds=now - started_at - (opened.first_write_seconds - opened.promote_seconds),
        first_write_seconds=now - started_at,
        port=instance.settings.port,
    )
    await instance.remember(promotion=promotion)
    instance.following.withdraw()
    complaints = await standby.admit_clients()
    answer: dict[str, Any] = msgspec.to_builtins(promotion, enc_hook=plain_lsn)
    answer |= {"opened_lsn": str(opened.lsn), "durable_lsn": str(durable.lsn)}
    answer["lost"] = describe_loss(promotion)
    answer["complaints"] = list(complaints)
    report("record", {})
    log.warning("promoted", instance=instance.name, lost=answer["lost"], port=promotion.port)
    return answer


def describe_loss(promotion: Promotion) -> str:
    """The loss in one sentence that is true."""
    heard = promotion.heard
    if heard is None or promotion.lost_bytes is None:
        return "not known: the primary's own position was never heard here"
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(heard.at))
    if promotion.lost_bytes == 0:
        return (
            f"nothing that was known: the primary was last heard at {when} with "
            f"{Lsn(heard.lsn)}, all of it was recovered; what it wrote after that is not known"
        )
    return (
        f"{promotion.lost_bytes} bytes of WAL: the primary had flushed {Lsn(heard.lsn)} when "
        f"last heard at {when}, durable here was {Lsn(promotion.durable_lsn)}"
    )
