"""Instances in memory, for which tokens are given out."""

from __future__ import annotations

import asyncio
from typing import Any

from applier.enrolment.desk import Registered
from logship import __version__
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import PROTOCOL_VERSION, Join
from logship.identity import Profile
from logship.link.keys import KeyPair
from tests.support.link_frames import profile


def join_of(keys: KeyPair, **changes: Any) -> Join:
    """What a shipper with these keys sends."""
    fields: dict[str, Any] = {
        "version_min": PROTOCOL_VERSION,
        "version_max": PROTOCOL_VERSION,
        "software": __version__,
        "public_key": keys.public,
        "profile": profile(),
    }
    return Join(**{**fields, **changes})


class MemoryInstances:
    """See `applier.enrolment.desk.Instances`.

    keys: public key by instance.  fail: raised by the next `register`, one each, after what it
    did if `late`.  may_go_on: cleared, `register` waits before it returns.
    """

    def __init__(self, **keys: str) -> None:
        self.keys = dict(keys)
        self.fail: list[LogshipError] = []
        self.late = False
        self.registered: list[str] = []
        self.told: list[Profile] = []
        """What each that joined said of its primary."""
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def shipper_key(self, name: str) -> str | None:
        return self.keys.get(name)

    def taken(self, name: str) -> RefusedError | None:
        if name not in self.keys:
            return None
        return RefusedError(Code.USAGE, f"there is {name} already", f"applier remove {name}")

    async def register(self, name: str, public_key: str) -> None:
        assert name not in self.keys
        if self.fail and not self.late:
            raise self.fail.pop(0)
        self.keys[name] = public_key
        self.registered.append(name)
        if self.fail:
            raise self.fail.pop(0)
        await self.may_go_on.wait()

    async def describe(self, name: str, profile: Profile) -> Registered:
        self.told.append(profile)
        return Registered(5433, (f"{name} is PostgreSQL {profile.major}",))
