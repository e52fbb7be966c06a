"""What a round does, and when: everything that its seed decides."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from tests.support.installations import MAJORS

Protection = Literal["sync", "async"]
Target = Literal["shipper", "applier", "standby", "primary", "link", "clocks", "disk"]

_FAULTS: dict[Target, tuple[str, ...]] = {
    "shipper": ("kill", "stop"),
    "applier": ("kill", "stop"),
    "standby": ("kill", "stop"),
    "primary": ("kill", "stop"),
    "link": ("cut", "reset", "stall", "slow", "refuse"),
    "clocks": ("step",),
    "disk": ("full", "read-only"),
}
_AT_ONCE = frozenset({"cut", "reset", "step"})
_MAX_SECONDS = 1.5
_CLOCK_STEPS_SECONDS = (-86400.0, -3600.0, -7.0, 7.0, 3600.0, 86400.0)


@dataclass(frozen=True)
class Fault:
    """Something done to `target` from `at_seconds` on, for so long (0: at once).

    amount: bytes per second of a slow link, seconds of a clock step, else 0.
    """

    at_seconds: float
    target: Target
    kind: str
    seconds: float
    amount: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.2f} s" if self.seconds else ""
        amount = f" ({self.amount:g})" if self.amount else ""
        return f"{self.at_seconds:5.2f} s  {self.target}: {self.kind}{amount}{lasting}"


@dataclass(frozen=True)
class Plan:
    """One round.

    calm_end: all faults end and the standby must catch up, before the primary is lost.
    offline: the applier is killed with the primary, and promotion is done without one.
    lose_standby: the standby's server is killed as well.
    old_line_returns: after the promotion the primary and its shipper come back.
    """

    seed: int
    major: int
    protection: Protection
    wal_segsize_mb: int
    writers: int
    seconds: float
    faults: tuple[Fault, ...]
    calm_end: bool
    offline: bool
    lose_standby: bool
    old_line_returns: bool

    def __str__(self) -> str:
        end = "after a calm" if self.calm_end else "in the midst of it"
        how = "offline" if self.offline else "online"
        lines = [
            f"seed {self.seed}: PostgreSQL {self.major}, {self.protection}, segments of "
            f"{self.wal_segsize_mb} MB, {self.writers} writers, {self.seconds:.2f} s; "
            f"the primary is lost {end}, promoted {how}"
            + (", the standby's server killed before" if self.lose_standby else "")
        ]
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])


def make_plan(seed: int) -> Plan:
    """The same plan for the same seed.  Majors rotate, protection alternates."""
    dice = random.Random(seed)
    seconds = dice.uniform(3.0, 6.0)
    targets: list[Target] = ["shipper", "applier", "standby", "primary", "link", "link", "clocks"]
    faults = [_fault(dice, dice.choice(targets), seconds) for _ in range(dice.randint(3, 6))]
    if seed % 4 == 3:
        faults.append(_fault(dice, "disk", seconds, kinds=_FAULTS["disk"][seed // 4 % 2 :][:1]))
    return Plan(
        seed=seed,
        major=MAJORS[seed % len(MAJORS)],
        protection="sync" if seed // len(MAJORS) % 2 == 0 else "async",
        wal_segsize_mb=16 if dice.random() < 0.2 else 1,
        writers=dice.randint(2, 5),
        seconds=seconds,
        faults=_apart(faults),
        calm_end=dice.random() < 0.4,
        offline=dice.random() < 0.35,
        lose_standby=dice.random() < 0.25,
        old_line_returns=dice.random() < 0.3,
    )


def _fault(
    dice: random.Random, target: Target, seconds: float, kinds: tuple[str, ...] = ()
) -> Fault:
    kind = dice.choice(kinds or _FAULTS[target])
    amount = 0.0
    if kind == "slow":
        amount = float(dice.choice((20_000, 200_000, 1_000_000)))
    elif kind == "step":
        amount = dice.choice(_CLOCK_STEPS_SECONDS)
    return Fault(
        at_seconds=dice.uniform(0.2, seconds),
        target=target,
        kind=kind,
        seconds=0.0 if kind in _AT_ONCE else dice.uniform(0.05, _MAX_SECONDS),
        amount=amount,
    )


def _apart(faults: list[Fault]) -> tuple[Fault, ...]:
    """In order of time, without those that meet an earlier one on the same target.

    A read-only disk takes the applier and the standby down with it.
    """
    kept: list[Fault] = []
    for fault in sorted(faults, key=lambda each: each.at_seconds):
        if not any(_meet(earlier, fault) for earlier in kept):
            kept.append(fault)
    return tuple(kept)


def _meet(earlier: Fault, later: Fault) -> bool:
    hosts = ("applier", "standby", "disk")
    together = earlier.target == later.target or (
        "disk" in (earlier.target, later.target)
        and earlier.target in hosts
        and later.target in hosts
    )
    # Room for a server to start again, which is part of what is disturbed.
    return together and later.at_seconds < earlier.at_seconds + earlier.seconds + 0.3
