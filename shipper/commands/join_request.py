"""Redeeming a join token at the applier that gave it out."""

from __future__ import annotations

import asyncio
from typing import Final

from logship import __version__
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Join,
    Joined,
    Payload,
    decode_joined,
    encode,
)
from logship.identity import Profile
from logship.link.refusals import error_of
from logship.link.token import JoinToken
from logship.link.transport import Dealer, KeyDeniedError

CONNECT_TIMEOUT_SECONDS: Final = 10.0
ANSWER_TIMEOUT_SECONDS: Final = 60.0
"""The applier makes directories and files, on a disk that may be busy."""


async def redeem(
    token: JoinToken,
    shipper_public_key: str,
    profile: Profile,
    *,
    answer_timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
) -> Joined:
    """Have `shipper_public_key` registered for the token's instance.

    May be repeated with the same key.  Raises LogshipError: RefusedError where the applier says
    no; APPLIER_UNREACHABLE, LINK_AUTHENTICATION; LINK_LOST (retryable) when no answer came.
    """
    heard: asyncio.Queue[list[Payload] | LogshipError] = asyncio.Queue()
    dealer = Dealer(
        token.address,
        server_public_key=token.applier_public_key,
        keys=token.keys,
        on_message=heard.put_nowait,
        on_closed=heard.put_nowait,
    )
    try:
        await _connect(dealer, token)
        dealer.send(encode(_join(shipper_public_key, profile)))
        async with asyncio.timeout(answer_timeout_seconds):
            answer = await heard.get()
    except TimeoutError:
        raise _unanswered(
            f"the applier at {token.address} did not answer within {answer_timeout_seconds:g} s"
        ) from None
    finally:
        dealer.close()
    if isinstance(answer, LogshipError):
        raise _unanswered(answer.what) from answer
    return _read(answer, token)


async def _connect(dealer: Dealer, token: JoinToken) -> None:
    try:
        await dealer.connect(CONNECT_TIMEOUT_SECONDS)
    except KeyDeniedError as error:
        raise RefusedError(
            Code.TOKEN_UNKNOWN,
            f"the applier at {token.address} does not know this token: it ended long ago, or a "
            "newer one took its place",
            f"make a new one there: applier enroll {token.instance}",
        ) from error
    except LogshipError as error:
        if error.code is not Code.LINK_AUTHENTICATION:
            raise
        raise LogshipError(
            error.code,
            f"what answers at {token.address} is not the applier that gave out this token",
            "if that address leads to another recovery server, or to a proxy: applier enroll "
            f"{token.instance} --address, as this host reaches the applier",
        ) from error


def _join(shipper_public_key: str, profile: Profile) -> Join:
    return Join(
        version_min=OLDEST_PROTOCOL_VERSION,
        version_max=PROTOCOL_VERSION,
        software=__version__,
        public_key=shipper_public_key,
        profile=profile,
    )


def _read(parts: list[Payload], token: JoinToken) -> Joined:
    frame = decode_joined(parts)
    if isinstance(frame, Joined):
        if frame.instance != token.instance:
            raise LogshipError(
                Code.BAD_FRAME,
                f"the applier answered for {frame.instance}, the token is for {token.instance}",
                "look at the applier's log",
            )
        return frame
    error = error_of(frame)
    if error.retryable:
        raise error
    raise RefusedError(error.code, error.what, error.hint)


def _unanswered(why: str) -> LogshipError:
    return LogshipError(
        Code.LINK_LOST,
        why,
        "repeat the command: if the token was redeemed, it was for this host",
        retryable=True,
    )
