"""Where tokens are given out and redeemed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from applier.enrolment.record import (
    Enrolment,
    forget_enrolment,
    key_digest,
    load_enrolments,
    save_enrolment,
)
from applier.operations.admission import check_profile
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.frames import PROTOCOL_VERSION, Join, Joined
from logship.identity import Profile, check_instance_name
from logship.link.token import JoinToken
from logship.settings_network import check_address

MAX_HOURS: Final = 7 * 24.0
REMEMBER_SECONDS: Final = 7 * 86400.0
"""For so long after its end a token is still known, so that who comes late is told why."""

_log = structlog.get_logger(__name__)


class Registered(NamedTuple):
    """An instance that was registered.  notes: what its operator should look at."""

    standby_port: int
    notes: tuple[str, ...] = ()


class Instances(Protocol):
    """The recovery server's instances, as far as a new one is concerned."""

    def shipper_key(self, name: str) -> str | None:
        """The public key of its shipper; None: it has none, or there is no such instance."""
        ...

    def taken(self, name: str) -> LogshipError | None:
        """Why no instance of that name can be enrolled, and what to do; None: it can."""
        ...

    async def register(self, name: str, public_key: str) -> None:
        """Make the instance, durably, and let its shipper in.  Raises LogshipError: there is
        nothing of it then."""
        ...

    async def describe(self, name: str, profile: Profile) -> Registered:
        """The instance, for the one who joined with a primary of this profile."""
        ...


class EnrolmentDesk:
    """Gives out tokens and redeems them: a `Registrar` for the link.

    directory: where the tokens are remembered.  applier_public_key: asked for when it is needed;
    may raise LogshipError.  clock: seconds since the epoch.  `load` first.
    """

    def __init__(
        self,
        directory: Path,
        instances: Instances,
        *,
        applier_public_key: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._instances = instances
        self._applier_public_key = applier_public_key
        self._clock = clock
        self._enrolments: dict[str, Enrolment] = {}
        """By the digest of the token's key."""
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Take up what is remembered, and forget what is long over."""
        found, unreadable = await asyncio.to_thread(load_enrolments, self._directory)
        for error in unreadable:
            _log.warning("a token is not known any more", **error.as_dict())
        self._enrolments = {each.key_digest: each for each in found}
        for each in found:
            if self._clock() >= each.expires_at + REMEMBER_SECONDS:
                try:
                    await self._forget(each)
                except LogshipError as error:
                    _log.warning("a token can't be forgotten", **error.as_dict())

    @property
    def is_open(self) -> bool:
        """Whether a token waits to be redeemed: the link must listen then."""
        return any(
            not each.is_registered and self._clock() < each.expires_at
            for each in self._enrolments.values()
        )

    async def issue(self, name: str, address: str, hours: float) -> tuple[JoinToken, float]:
        """A new token and when it ends; one before it for the same name is void.

        address: where the applier is reached.  Raises UsageError, and RefusedError where there
        is an instance of that name.
        """
        check_instance_name(name)
        for what, hint in check_address("the address", address):
            raise UsageError(Code.USAGE, what, hint)
        if not 0 < hours <= MAX_HOURS:
            raise UsageError(
                Code.USAGE,
                f"a token can't be good for {hours:g} hours",
                f"more than 0 and up to {MAX_HOURS:g}",
            )
        async with self._turn:
            taken = self._instances.taken(name)
            if taken is not None:
                raise taken
            token = JoinToken.make(
                address=address, applier_public_key=self._applier_public_key(), instance=name
            )
            now = self._clock()
            enrolment = Enrolment(
                instance=name,
                key_digest=key_digest(token.keys.public),
                issued_at=now,
                expires_at=now + hours * 3600,
            )
            await self._save(enrolment)
            for each in self._of(name):
                if each is not enrolment:
                    del self._enrolments[each.key_digest]
        _log.info("a token was given out", instance=name, hours=hours)
        return token, enrolment.expires_at

    async def withdraw(self, name: str) -> None:
        """Make the name's token void, if there is one."""
        async with self._turn:
            for each in self._of(name):
                await self._forget(each)

    # --- Registrar ------------------------------------------------------------------------

    def may_join(self, public_key: str) -> bool:
        return key_digest(public_key) in self._enrolments

    async def join(self, token_key: str, join: Join, address: str) -> Joined:
        async with self._turn:
            enrolment = self._enrolments.get(key_digest(token_key))
            if enrolment is None:
                raise RefusedError(
                    Code.TOKEN_UNKNOWN,
                    "the applier does not know the token any more",
                    "make a new one: applier enroll NAME",
                )
            check_profile(join.profile)
            ours = self._applier_public_key()
            if join.public_key == ours or self.may_join(join.public_key):
                # Registered, a token's key could ship for ever.
                raise RefusedError(
                    Code.KEY_NOT_ALLOWED,
                    "the shipper's key is not its own",
                    "a shipper makes a pair of its own: shipper join does",
                )
            await self._redeem(enrolment, join.public_key)
        name = enrolment.instance
        _log.info("a shipper joined", instance=name, address=address, key=join.public_key)
        registered = await self._instances.describe(name, join.profile)
        return Joined(
            version=min(PROTOCOL_VERSION, join.version_max),
            instance=name,
            standby_port=registered.standby_port,
            notes=list(registered.notes),
        )

    async def _redeem(self, enrolment: Enrolment, shipper_key: str) -> None:
        redeemed = enrolment.redeem(shipper_key, self._clock())
        name = enrolment.instance
        taken = self._instances.taken(name)
        if taken is not None and self._instances.shipper_key(name) != shipper_key:
            raise taken
        if taken is None:
            if redeemed.is_registered:
                raise RefusedError(
                    Code.TOKEN_USED,
                    f"the token for {name} was used, and {name} was removed since",
                    f"make a new one: applier enroll {name}",
                )
            if redeemed is not enrolment:
                await self._save(redeemed)
            await self._instances.register(name, shipper_key)
        if not redeemed.is_registered:
            await self._save(msgspec.structs.replace(redeemed, is_registered=True))

    # --- what is remembered ---------------------------------------------------------------

    def _of(self, name: str) -> list[Enrolment]:
        return [each for each in self._enrolments.values() if each.instance == name]

    async def _save(self, enrolment: Enrolment) -> None:
        await asyncio.to_thread(save_enrolment, self._directory, enrolment)
        self._enrolments[enrolment.key_digest] = enrolment

    async def _forget(self, enrolment: Enrolment) -> None:
        self._enrolments.pop(enrolment.key_digest, None)
        try:
            await asyncio.to_thread(forget_enrolment, self._directory, enrolment.instance)
        except OSError as error:
            raise LogshipError(
                Code.STORE_FAILED,
                f"the token of {enrolment.instance} can't be removed: {error.strerror}",
                "look at the disk and its messages",
                retryable=True,
            ) from error
