"""What a primary is, read once: for commands that ask it without shipping."""

from __future__ import annotations

from logship.identity import Profile
from shipper.settings import ShipperSettings
from shipper.sources.environment import EnvironmentWatch
from shipper.sources.primary import PrimaryQueries


async def read_primary_profile(
    settings: ShipperSettings, *, application_name: str, within_seconds: float | None
) -> Profile:
    """The profile with what surrounds the primary, as its shipper would tell it.

    within_seconds: what of its surroundings is not read by then is told as unread; None: wait
    for all of it.

    Raises LogshipError: PRIMARY_UNREACHABLE, PRIMARY_REFUSED, PRIMARY_NOT_READY (it is a standby).
    """
    primary = PrimaryQueries(
        settings.primary.conninfo,
        application_name=application_name,
        slot=settings.slot_name,
        timeout_seconds=settings.primary.connect_timeout_seconds,
    )
    try:
        await primary.primary_state()
        watch = EnvironmentWatch(primary)
        return await watch.open(await primary.profile(), within_seconds=within_seconds)
    finally:
        await primary.close()
