"""The states of both sessions, as data.  docs/link-protocol.md prints these tables."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class IllegalTransition(RuntimeError):
    """Something happened that this state does not allow.

    Caused by a local call it is a bug.  Caused by a peer's frame the session turns it into
    BAD_FRAME.
    """


class ShipperState(StrEnum):
    NEW = "new"
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


class ShipperTrigger(StrEnum):
    SEND_HELLO = "send hello"
    SEND_FRAME = "send any other frame"
    SEND_BYE = "send bye"
    HEAR_WELCOME = "hear welcome"
    HEAR_HEARTBEAT = "hear heartbeat"
    HEAR_FRAME = "hear any other frame"
    HEAR_REFUSE = "hear refuse"
    HEAR_FENCED = "hear fenced"
    LOSE = "lose the peer"


class ApplierState(StrEnum):
    AWAITING_HELLO = "awaiting hello"
    DECIDING = "deciding"
    OPEN = "open"
    CLOSED = "closed"


class ApplierTrigger(StrEnum):
    HEAR_HELLO = "hear hello"
    HEAR_FRAME = "hear any other frame"
    HEAR_BYE = "hear bye"
    SEND_WELCOME = "send welcome"
    SEND_HEARTBEAT = "send heartbeat"
    SEND_FRAME = "send any other frame"
    SEND_REFUSE = "send refuse"
    SEND_FENCED = "send fenced"
    LOSE = "lose the peer"


_S, _ST = ShipperState, ShipperTrigger
SHIPPER_TRANSITIONS: Mapping[tuple[ShipperState, ShipperTrigger], ShipperState] = {
    (_S.NEW, _ST.SEND_HELLO): _S.GREETING,
    (_S.NEW, _ST.LOSE): _S.CLOSED,
    (_S.GREETING, _ST.HEAR_WELCOME): _S.OPEN,
    (_S.GREETING, _ST.HEAR_HEARTBEAT): _S.GREETING,
    (_S.GREETING, _ST.HEAR_REFUSE): _S.CLOSED,
    (_S.GREETING, _ST.HEAR_FENCED): _S.CLOSED,
    (_S.GREETING, _ST.SEND_BYE): _S.CLOSED,
    (_S.GREETING, _ST.LOSE): _S.CLOSED,
    (_S.OPEN, _ST.SEND_FRAME): _S.OPEN,
    (_S.OPEN, _ST.HEAR_HEARTBEAT): _S.OPEN,
    (_S.OPEN, _ST.HEAR_FRAME): _S.OPEN,
    (_S.OPEN, _ST.HEAR_REFUSE): _S.CLOSED,
    (_S.OPEN, _ST.HEAR_FENCED): _S.CLOSED,
    (_S.OPEN, _ST.SEND_BYE): _S.CLOSED,
    (_S.OPEN, _ST.LOSE): _S.CLOSED,
}

_A, _AT = ApplierState, ApplierTrigger
APPLIER_TRANSITIONS: Mapping[tuple[ApplierState, ApplierTrigger], ApplierState] = {
    (_A.AWAITING_HELLO, _AT.HEAR_HELLO): _A.DECIDING,
    (_A.AWAITING_HELLO, _AT.SEND_REFUSE): _A.CLOSED,
    (_A.AWAITING_HELLO, _AT.LOSE): _A.CLOSED,
    (_A.DECIDING, _AT.HEAR_BYE): _A.CLOSED,
    (_A.DECIDING, _AT.SEND_WELCOME): _A.OPEN,
    (_A.DECIDING, _AT.SEND_HEARTBEAT): _A.DECIDING,
    (_A.DECIDING, _AT.SEND_REFUSE): _A.CLOSED,
    (_A.DECIDING, _AT.SEND_FENCED): _A.CLOSED,
    (_A.DECIDING, _AT.LOSE): _A.CLOSED,
    (_A.OPEN, _AT.HEAR_FRAME): _A.OPEN,
    (_A.OPEN, _AT.HEAR_BYE): _A.CLOSED,
    (_A.OPEN, _AT.SEND_HEARTBEAT): _A.OPEN,
    (_A.OPEN, _AT.SEND_FRAME): _A.OPEN,
    (_A.OPEN, _AT.SEND_REFUSE): _A.CLOSED,
    (_A.OPEN, _AT.SEND_FENCED): _A.CLOSED,
    (_A.OPEN, _AT.LOSE): _A.CLOSED,
}

_StateT = TypeVar("_StateT", bound=StrEnum)
_TriggerT = TypeVar("_TriggerT", bound=StrEnum)


def next_state(
    table: Mapping[tuple[_StateT, _TriggerT], _StateT], state: _StateT, trigger: _TriggerT
) -> _StateT:
    """Where `trigger` leads from `state`.  Raises IllegalTransition for an unlisted pair."""
    try:
        return table[state, trigger]
    except KeyError:
        raise IllegalTransition(f"{trigger!s} while {state!s}") from None
