"""The recovery server's instances as the desk sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from applier.enrolment.desk import Registered
from applier.enrolment.foresight import foresee
from applier.operations.fleet import Fleet
from applier.operations.host import Host
from logship.errors import LogshipError
from logship.identity import Profile


class FleetInstances:
    """See `applier.enrolment.desk.Instances`.  add: of the service."""

    def __init__(
        self,
        fleet: Fleet,
        host: Callable[[], Host],
        add: Callable[[str, Mapping[str, Any]], Awaitable[object]],
    ) -> None:
        self._fleet = fleet
        self._host = host
        self._add = add

    def shipper_key(self, name: str) -> str | None:
        entry = self._fleet.registered.entries.get(name)
        if entry is None or entry.registration.removing is not None:
            return None
        return entry.settings.public_key or None

    def taken(self, name: str) -> LogshipError | None:
        try:
            self._fleet.check_new_name(name)
        except LogshipError as error:
            return error
        return None

    async def register(self, name: str, public_key: str) -> None:
        await self._add(name, {"public_key": public_key})

    async def describe(self, name: str, profile: Profile) -> Registered:
        host = self._host()
        own = host.settings.instances.get(name)
        notes = await foresee(host, name, profile)
        why = self._fleet.why_refused(name, profile)
        if why is not None:
            notes.insert(0, f"its shipper will be refused: {why.what}. {why.hint}")
        bucket = host.settings.bucket
        if bucket is not None and bucket.place.directory is None:
            notes.append(
                f"the recovery server reads the bucket {bucket.url} too: with [bucket] in its "
                "settings the shipper can write there as well"
            )
        return Registered(own.port if own is not None else 0, tuple(notes))
