"""The status document of one instance: see `logship.status` for what its keys mean."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from applier.compat import Outcome
from applier.operations.exposure import exposure_bytes
from applier.operations.instance import Instance
from applier.operations.last_drill import Drill
from applier.operations.parameters import way_back
from applier.operations.promotion import describe_loss
from applier.standby.life import STEADY_SECONDS, LifeState
from applier.standby.status import StandbyStatus
from logship import status
from logship.errors import Code
from logship.lsn import Lsn, plain_lsn

STALE_SECONDS = 10.0
"""What the primary said longer ago than this is not shown as in effect."""

RESTARTS_WITHOUT_ALARM = 3
"""A standby that failed oftener, and has not run for a while since, is an alarm."""


def instance_status(instance: Instance) -> status.InstanceStatus:
    """All that is known of `instance` now.  Reads memory only, and asks the file system for its
    free room and whether there was a drill."""
    incarnation = instance.record.incarnation
    drill = _drill_of(instance)
    return {
        "name": instance.name,
        "phase": phase(instance),
        "link": {"state": _link_state(instance), "since": instance.link.since},
        "incarnation": None
        if incarnation is None
        else {
            "system_identifier": str(incarnation.system_identifier),
            "major": incarnation.major,
        },
        "previous": instance.former.status(),
        "protection": _protection(instance),
        "primary": _primary(instance),
        "store": _store(instance),
        "standby": _standby(instance),
        "transfer_gap": _transfer_gap(instance),
        "apply_gap": _apply_gap(instance),
        "room": _room(instance),
        "seed": _seed(instance),
        "gap": _gap(instance),
        "bucket": instance.bucket.status(),
        "other_roads": _other_roads(instance),
        "compat": _compat(instance),
        "promotion": _promotion(instance),
        "last_drill": _last_drill(drill),
        "budget": instance.budget.status(),
        "alarms": _alarms(instance, drill),
    }


def phase(instance: Instance) -> status.Phase:
    """Where the instance is on its way."""
    if instance.record.promotion is not None:
        return "promoted"
    if instance.record.fence is not None:
        return "promoting"
    if instance.arrival.seeder is not None:
        return "seeding"
    following = instance.following
    if following.placed is None:
        return "waiting"
    if following.verdict is None or following.verdict.blocked:
        return "blocked"
    return "following" if instance.gaps.current is None else "gap"


def _link_state(instance: Instance) -> Any:
    return instance.link.state


def _text(lsn: int | None) -> str | None:
    return str(Lsn(lsn)) if lsn else None


def _fresh(instance: Instance) -> bool:
    heard_at = instance.link.heard_at
    connected = instance.link.state == "connected"
    return connected and heard_at is not None and time.monotonic() - heard_at < STALE_SECONDS


def _protection(instance: Instance) -> status.ProtectionStatus:
    configured: Any = instance.record.protection or None
    in_effect = instance.link.sync_state if _fresh(instance) else ""
    return {"configured": configured, "in_effect": in_effect or "unknown"}


def _primary(instance: Instance) -> status.PrimaryStatus:
    link, heard = instance.link, instance.heard
    return {
        "flush_lsn": _text(heard.lsn) if heard else None,
        "timeline": heard.timeline if heard else None,
        "heard_at": heard.at if heard else None,
        "reachable": link.primary_reachable
        if _fresh(instance)
        else instance.bucket.sign.primary_reachable,
        "slot_wal_status": link.slot_wal_status or None,
    }


def _store(instance: Instance) -> status.StoreStatus:
    store = instance.store
    if store is None or store.start is None:
        return {"start": None, "written": None, "durable": None}
    return {
        "start": str(store.start),
        "written": str(store.written) if store.written else None,
        "durable": str(store.durable) if store.durable else None,
    }


def _standby(instance: Instance) -> status.StandbyStatus:
    following = instance.following
    server = following.standby.status() if following.standby is not None else None
    streamed = following.serving.standby_status()
    installation = following.installation
    state = str(server.state) if server is not None else None
    if instance.record.promotion is not None:
        state = "promoted"
    return {
        "state": state,
        "version": str(installation.version) if installation is not None else None,
        "chosen": instance.record.installation or None,
        "port": instance.settings.port,
        "flush_lsn": _text(streamed.flush_lsn) if streamed else None,
        "replay_lsn": _text(following.serving.applied_lsn),
        "last_error": _failure_of(server),
    }


def _failure_of(server: StandbyStatus | None) -> str | None:
    """Why it failed last, until it has run for a while since."""
    if server is None:
        return None
    recovered = server.state is LifeState.RUNNING and server.state_seconds >= STEADY_SECONDS
    return None if recovered else server.last_failure or None


def _alarms(instance: Instance, drill: Drill | None) -> list[status.Alarm]:
    return [
        *instance.alarms.as_list(),
        *_standby_alarm(instance),
        *_drill_alarm(instance, drill),
    ]


def _standby_alarm(instance: Instance) -> Iterator[status.Alarm]:
    standby = instance.following.standby
    server = standby.status() if standby is not None else None
    why = _failure_of(server)
    if server is None or why is None or server.restarts <= RESTARTS_WITHOUT_ALARM:
        return
    if instance.record.promotion is not None or instance.alarms.has(Code.STANDBY_FAILED):
        return
    what = f"the standby does not stay up; it was started again {server.restarts} times: {why}"
    back = way_back(
        instance.name, instance.settings.settings, instance.host.settings.standby.settings, why
    )
    hint = f"{back or f'shipper status {instance.name}'}; its log is in standby/ of its directory"
    yield {"code": str(Code.STANDBY_FAILED), "what": what, "hint": hint}


def _drill_alarm(instance: Instance, drill: Drill | None) -> Iterator[status.Alarm]:
    if drill is None or drill.failure is None or instance.record.promotion is not None:
        return
    yield {
        "code": str(Code.DRILL_FAILED),
        "what": f"the last drill failed: {drill.failure.what}",
        "hint": f"{drill.failure.hint or 'look at it'}; it ends with the next that passes: "
        f"applier drill {instance.name}",
    }


def _drill_of(instance: Instance) -> Drill | None:
    """Of the cluster that the instance is: what was recovered of another proves nothing."""
    drill = instance.last_drill.now()
    if drill is None or drill.incarnation in ("", str(instance.record.incarnation)):
        return drill
    return None


def _last_drill(drill: Drill | None) -> status.DrillStatus | None:
    if drill is None:
        return None
    return {
        "at": drill.at,
        "passed": drill.failure is None,
        "seconds": drill.seconds if drill.failure is None else None,
        "timeline": drill.timeline,
        "lsn": drill.lsn,
        "last_commit_time": drill.last_commit_time,
        "error": None if drill.failure is None else msgspec.to_builtins(drill.failure),
    }


def _transfer_gap(instance: Instance) -> status.TransferGap:
    store = instance.store
    gap_bytes = (
        exposure_bytes(instance.heard, store.durable, store.histories())
        if store is not None
        else None
    )
    if gap_bytes is None:
        return {"bytes": None, "seconds": None}
    if gap_bytes == 0:
        return {"bytes": 0, "seconds": 0.0}
    # Not known after a restart, until the sender comes again.
    since = instance.sender.behind_since
    seconds = time.monotonic() - since if since is not None else None
    return {"bytes": gap_bytes, "seconds": seconds}


def _apply_gap(instance: Instance) -> status.ApplyGap:
    durable = instance.store.durable if instance.store is not None else None
    serving = instance.following.serving
    applied = serving.applied_lsn
    if durable is None or not applied:
        return {"bytes": None, "seconds": None}
    # What a promotion left is no work that waits, however long ago it was.
    is_promoted = instance.record.promotion is not None
    return {
        "bytes": max(0, durable.lsn - applied),
        "seconds": None if is_promoted else serving.apply_gap_seconds(durable.lsn),
    }


def _room(instance: Instance) -> status.RoomStatus:
    if instance.record.incarnation is not None:
        directory = instance.places.store
    elif not instance.host.settings.store.volumes:
        directory = instance.directory
    else:  # on which volume its WAL will be is decided when its primary is known
        return {"bytes": None, "free_bytes": None}
    try:
        free_bytes = shutil.disk_usage(directory).free
    except OSError:
        return {"bytes": None, "free_bytes": None}
    room_bytes = instance.budget.room_bytes(free_bytes - instance.host.keep_free_bytes)
    return {
        "bytes": None if room_bytes is None else max(0, room_bytes),
        "free_bytes": free_bytes,
    }


def _seed(instance: Instance) -> status.SeedStatus | None:
    seeder = instance.arrival.seeder
    if seeder is None:
        return None
    pace, now = instance.arrival.pace, time.monotonic()
    return {
        "running": True,
        "bytes_done": seeder.received_bytes,
        "bytes_estimated": seeder.estimated_bytes or None,
        "bytes_per_second": pace.bytes_per_second(now),
        "seconds_left": pace.seconds_left(seeder.estimated_bytes, now),
    }


def _gap(instance: Instance) -> status.GapStatus | None:
    gap = instance.gaps.current
    if gap is None:
        return None
    return {
        "from_lsn": str(Lsn(gap.from_lsn)),
        "available_lsn": _text(gap.available_lsn),
        "code": gap.code,
        "what": gap.what,
        "filling": instance.gaps.is_filling,
    }


def _other_roads(instance: Instance) -> list[status.OtherRoadStatus] | None:
    roads = instance.link.other_roads
    if roads is None or not _fresh(instance):
        return None
    return [
        {
            "name": road.name,
            "role": road.role,
            "state": road.state,
            "durable": _text(road.durable_lsn),
            "since_lsn": _text(road.since_lsn),
            "available_lsn": _text(road.available_lsn),
            "what": road.what or None,
        }
        for road in roads
    ]


def _compat(instance: Instance) -> status.CompatStatus | None:
    verdict = instance.following.whole_verdict
    if verdict is None:
        return None
    return {
        "verdict": _outcome(verdict.outcome),
        "findings": [
            {
                "rule": finding.rule,
                "verdict": _outcome(finding.outcome),
                "what": f"primary {finding.primary or '-'}, standby {finding.standby or '-'}: "
                f"{finding.why}",
                "hint": finding.remedy,
            }
            for finding in verdict.findings
        ],
    }


def _outcome(outcome: Outcome) -> Any:
    return str(outcome)


def _promotion(instance: Instance) -> dict[str, Any] | None:
    promotion = instance.record.promotion
    if promotion is None:
        return None
    document: dict[str, Any] = msgspec.to_builtins(promotion, enc_hook=plain_lsn)
    document |= {
        "opened_lsn": str(Lsn(promotion.opened_lsn)),
        "durable_lsn": str(Lsn(promotion.durable_lsn)),
        "lost": describe_loss(promotion),
    }
    return document
