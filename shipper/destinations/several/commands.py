"""What a `Flow` has its shell do, and what it has said on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from logship.frames import GapFound
from logship.lsn import Lsn, Position
from shipper.destinations import DestinationEvent
from shipper.destinations.several.members import Member


class Up(NamedTuple):
    """Tell who sends."""

    event: DestinationEvent


class Connect(NamedTuple):
    """Reach this member, and keep trying."""

    name: str


class Part(NamedTuple):
    """End its connection; it is not tried again until Connect."""

    name: str
    why: str


class GoOnAt(NamedTuple):
    """`resume` of this member."""

    name: str
    position: Position


class SkipTo(NamedTuple):
    """`skip_to` of this member; tell `skipped` where it goes on."""

    name: str
    position: Position
    why: str


class Hole(NamedTuple):
    """`send_gap` of this member."""

    name: str
    gap: GapFound


class SendHistory(NamedTuple):
    name: str
    timeline: int
    content: bytes


class Say(NamedTuple):
    """A line for the log."""

    level: str
    event: str
    fields: Mapping[str, str]


Command = Up | Connect | Part | GoOnAt | SkipTo | Hole | SendHistory | Say


def misses(member: Member) -> Say:
    gap = member.gap
    assert gap is not None
    fields = {
        "destination": member.name,
        "code": gap.code,
        "missing_from": f"{gap.timeline}:{Lsn(gap.from_lsn)}",
        "available_from": str(Lsn(gap.available_lsn)),
        "what": gap.what,
    }
    return Say("error", "a destination misses WAL that the primary can't give it", fields)


def skips(member: Member, position: Position) -> Say:
    fields = {"destination": member.name, "from": str(member.next), "to": str(position)}
    return Say("warning", "the spill goes on after a hole", fields)


def spills(why: str, where: Position) -> Say:
    fields = {"why": why, "link_has": str(where)}
    return Say("warning", "spilling to the bucket", fields)
