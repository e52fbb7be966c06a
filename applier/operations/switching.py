"""Have a standby run on another minor of its major, and come back if it does not stream there.

What an operator chose is remembered only once it has proved itself: whatever dies meanwhile, the
next applier starts the standby on what it ran on before.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from applier.operations.instance import Instance
from applier.standby.life import LifeState
from applier.walserver.status import StandbyState, StandbyStatus
from logship.errors import Code, LogshipError, RefusedError
from logship.lsn import Lsn
from logship.postgres.installations import Installation, choose

log = structlog.get_logger(__name__)

AUTO = "auto"
"""In the place of a version: the nearest to the primary, whichever that is."""
POLL_SECONDS = 0.1
STREAMS = frozenset(
    {StandbyState.CATCHUP, StandbyState.STREAMING, StandbyState.HELD, StandbyState.WAITING}
)


async def switch_installation(
    instance: Instance, version: str, within_seconds: float
) -> dict[str, Any]:
    """Run the standby on `version` ("17.10", or AUTO) from now on; returns what was done.

    Raises RefusedError (nothing was changed) or LogshipError(SWITCH_FAILED): it did not stream
    there within `within_seconds`, and runs on what it ran on before.
    """
    _refuse_unless_possible(instance)
    async with instance.promotion_turn:
        await instance.host.discover()
        before = instance.following.installation
        wanted = _find(instance, version)
        await _check(instance, wanted)
        started_at = time.monotonic()
        if wanted != before or instance.following.standby is None:
            await _try(instance, wanted, before, within_seconds)
        await instance.remember(installation="" if version == AUTO else version)
        instance.following.settle()
    log.info("the standby runs on another installation", instance=instance.name, version=version)
    return {
        "name": instance.name,
        "chosen": None if version == AUTO else version,
        "version": wanted.version,
        "directory": str(wanted.bin_dir),
        "before": before.version if before is not None else None,
        "seconds": time.monotonic() - started_at,
    }


def streams(status: StandbyStatus | None, since: float, applied_before: Lsn) -> bool:
    """Whether a standby that was started at `since` streams, and has replayed again what it had.

    Times are monotonic seconds.
    """
    return (
        status is not None
        and status.refusal is None
        and status.connected_at >= since
        and status.last_reply_at is not None
        and status.state in STREAMS
        and status.apply_lsn >= applied_before
    )


def _refuse_unless_possible(instance: Instance) -> None:
    name = instance.name
    if instance.failure is not None:
        raise RefusedError(instance.failure.code, instance.failure.what, instance.failure.hint)
    if instance.record.fence is not None or instance.promotion_turn.locked():
        raise RefusedError(
            Code.SWITCH_FAILED,
            f"{name} was promoted, is being promoted, or is just being switched",
            "a promoted server is production: restart it on another minor as you would there",
        )
    if instance.following.placed is None or not instance.settings.run_standby:
        raise RefusedError(
            Code.SWITCH_FAILED,
            f"{name} has no standby that could run on another installation",
            "seed it first, with run_standby not false",
        )


def _find(instance: Instance, version: str) -> Installation:
    profile = instance.record.profile
    assert profile is not None
    installations = instance.host.installations
    if version == AUTO:
        try:
            return choose(installations, profile.major, profile.server_version_num)
        except LogshipError as error:
            raise RefusedError(error.code, error.what, error.hint) from error
    same = [one for one in installations if one.major == profile.major]
    found = next((one for one in same if one.version == version), None)
    if found is None:
        there = ", ".join(f"{one.version} in {one.bin_dir}" for one in same) or "none"
        raise RefusedError(
            Code.NO_INSTALLATION,
            f"there is no PostgreSQL {version} here that {instance.name} could run on",
            f"found of its major: {there}; name the directory of others in postgres.installations",
        )
    return found


async def _check(instance: Instance, wanted: Installation) -> None:
    verdict = await instance.following.judge(wanted)
    if verdict.blocked:
        raise RefusedError(
            Code.COMPATIBILITY,
            f"the standby of {instance.name} must not run on {wanted.version}: {verdict.summary()}",
            verdict.concerns[0].remedy,
        )


async def _try(
    instance: Instance, wanted: Installation, before: Installation | None, within_seconds: float
) -> None:
    following = instance.following
    applied_before = following.serving.applied_lsn
    started_at = time.monotonic()
    try:
        await following.run_on(wanted)
        await _wait_until_it_streams(instance, started_at, applied_before, within_seconds)
    except BaseException as error:
        log.warning("back to the installation of before", instance=instance.name, why=str(error))
        try:
            await following.run_on(before if before in instance.host.installations else None)
        except LogshipError as again:
            instance.alarms.raise_error(again)
        following.settle()
        if not isinstance(error, LogshipError):
            raise
        raise LogshipError(
            Code.SWITCH_FAILED,
            f"the standby of {instance.name} does not stream on {wanted.version}: {error.what}",
            _where_it_is(following.installation, before),
        ) from error


def _where_it_is(now: Installation | None, before: Installation | None) -> str:
    log_file = "its log says more (standby/server.log)"
    if now == before and before is not None:
        return f"it is on {before.version} again, as before; {log_file}"
    there = f"what there is, {now.version}" if now is not None else "nothing"
    return f"what it ran on before is not installed any more, so it is on {there}; {log_file}"


async def _wait_until_it_streams(
    instance: Instance, started_at: float, applied_before: Lsn, within_seconds: float
) -> None:
    following = instance.following
    while not streams(following.serving.standby_status(), started_at, applied_before):
        server = following.standby.status() if following.standby is not None else None
        if server is None or server.state in (LifeState.WAITING, LifeState.STOPPED):
            why = server.last_failure if server is not None else ""
            raise LogshipError(Code.STANDBY_FAILED, why or "it ended without a word")
        if time.monotonic() - started_at >= within_seconds:
            raise LogshipError(
                Code.STANDBY_FAILED, f"it did not connect within {within_seconds:g} s"
            )
        await asyncio.sleep(POLL_SECONDS)
