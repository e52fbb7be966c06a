"""The status document: what the applier knows of an instance, as its API gives it.

`applier.operations` fills it, `shipper status` shows it, scripts read it.  What is not known
is null (None), never 0 or "".  LSNs are text (`16/B374D848`), times are seconds since the
epoch by the recovery server's clock, sizes are bytes.  Keys are added, never renamed.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Phase = Literal["waiting", "seeding", "following", "gap", "blocked", "promoting", "promoted"]


class IncarnationStatus(TypedDict):
    """Which cluster the instance is now."""

    system_identifier: str
    """Decimal, as text: JSON readers lose digits of 64-bit numbers."""
    major: int


class PreviousStatus(TypedDict):
    """A cluster that the instance was, and that is kept: it can be promoted."""

    system_identifier: str
    major: int
    since: float
    """When another one took its place."""
    durable: str | None
    """Up to where its WAL is here."""
    replaced_at: float | None
    """Since when its successor's standby streams; None: it does not yet."""
    removed_at: float | None
    """When it goes by itself; None: not before its successor streams."""


class LinkStatus(TypedDict):
    """state: connected, bucket (its bucket is read in its place), lost (it was there before),
    never.  since: of that state."""

    state: Literal["connected", "bucket", "lost", "never"]
    since: float | None


class ProtectionStatus(TypedDict):
    """configured: as the shipper is told.  in_effect: sync_state as the primary's
    pg_stat_replication says (sync, quorum, potential, async), "unknown" when that is stale."""

    configured: Literal["async", "sync"] | None
    in_effect: str


class PrimaryStatus(TypedDict):
    """As last heard from the shipper, at `heard_at`; through a bucket: when it was written there,
    by the shipper's clock, or put with a sign of life."""

    flush_lsn: str | None
    timeline: int | None
    heard_at: float | None
    reachable: bool | None
    slot_wal_status: str | None


class StoreStatus(TypedDict):
    """Positions of the current chain: its first, last written, last durable byte (exclusive)."""

    start: str | None
    written: str | None
    durable: str | None


class StandbyStatus(TypedDict):
    """The standby server.  state: stopped, starting, running, stopping, waiting (it failed, and is
    started again in a moment), promoted.  last_error: why it failed, until it has run for a
    while."""

    state: str | None
    version: str | None
    """Of the installation it runs on, "17.9"."""
    chosen: str | None
    """Which one an operator chose for it; None: the nearest to the primary is taken."""
    port: int | None
    flush_lsn: str | None
    replay_lsn: str | None
    last_error: str | None


class TransferGap(TypedDict):
    """What the primary has flushed and the store has not: the exposure."""

    bytes: int | None
    seconds: float | None


class ApplyGap(TypedDict):
    """What the store has and the standby has not replayed: the work left.

    seconds: how long the oldest of it has been here; None also if that came before the applier
    started.
    """

    bytes: int | None
    seconds: float | None


class RoomStatus(TypedDict):
    """Room on the file system where the instance's WAL is.  bytes: what can still be received,
    which is `free_bytes` without `store.keep_free_mb`, and no more than the instance's quota
    leaves; None with a quota until what it takes was measured once.  None also before one of
    `store.volumes` is chosen, which is when its primary is first heard of."""

    bytes: int | None
    free_bytes: int | None


class SeedStatus(TypedDict):
    """bytes_per_second: of the last seconds.  seconds_left: an estimate, as the cluster grows
    while it is copied."""

    running: bool
    bytes_done: int | None
    bytes_estimated: int | None
    bytes_per_second: float | None
    seconds_left: float | None


class GapStatus(TypedDict):
    """WAL that the primary no longer has and the store needs.  filling: it is looked for in the
    bucket; else only a new seed goes on."""

    from_lsn: str
    available_lsn: str | None
    code: str
    what: str
    filling: bool


class OtherRoadStatus(TypedDict):
    """Where else the shipper puts the same WAL.  role: required, optional, spill.  state:
    connected, idle (a spill that is not needed), spilling, lost, refused, behind, gap.
    since_lsn: where the spilling began, or the hole begins."""

    name: str
    role: str
    state: str
    durable: str | None
    since_lsn: str | None
    available_lsn: str | None
    what: str | None


BucketState = Literal["idle", "reading", "up-to-date", "failed"]


class BucketStatus(TypedDict):
    """The instance's bucket.  state: idle (not needed, and not asked), reading, up-to-date (all
    that is there was read), failed (`error`; it is tried again)."""

    state: BucketState
    error: str | None
    alive_at: float | None
    """Of the shipper's newest sign of life there, by its clock; None: it gives none, or the link
    is listened to in its place."""


class MemoryStatus(TypedDict):
    """Shares of the host's memory: what the server has as a standby, and what a promotion gives it
    (or gave), by PostgreSQL's parameters.  limited_by_kernel: by a cgroup of its own too."""

    standby_mb: int
    promoted_mb: int
    standby: dict[str, str]
    promoted: dict[str, str]
    limited_by_kernel: bool


class DiskStatus(TypedDict):
    """What the instance may take of the disk, and takes.  None: not measured yet."""

    limit_bytes: int
    used_bytes: int | None


class BudgetStatus(TypedDict):
    """What the instance may take.  None: as much as it likes.  turn: whether it is seeded or
    catches up now, or waits until it may; None: neither."""

    memory: MemoryStatus | None
    disk: DiskStatus | None
    intake_bytes_per_second: int | None
    turn: Literal["waiting", "running"] | None


class CompatFinding(TypedDict):
    rule: str
    verdict: Literal["pass", "warn", "block"]
    what: str
    hint: str


class CompatStatus(TypedDict):
    verdict: Literal["pass", "warn", "block"] | None
    findings: list[CompatFinding]


class DrillError(TypedDict):
    code: str
    what: str
    hint: str


class DrillStatus(TypedDict):
    """at: when it began; seconds: from then until the recovered server had committed a write.
    timeline, lsn: up to where WAL was replayed.  last_commit_time: of the newest commit in it, by
    the primary's clock; None: not known.  error: why it failed; None: it passed."""

    at: float
    passed: bool
    seconds: float | None
    timeline: int | None
    lsn: str | None
    last_commit_time: float | None
    error: DrillError | None


class Alarm(TypedDict):
    code: str
    what: str
    hint: str


class InstanceStatus(TypedDict):
    """All of it."""

    name: str
    phase: Phase
    link: LinkStatus
    incarnation: IncarnationStatus | None
    previous: list[PreviousStatus]
    """What it was before, the newest last."""
    protection: ProtectionStatus
    primary: PrimaryStatus
    store: StoreStatus
    standby: StandbyStatus
    transfer_gap: TransferGap
    apply_gap: ApplyGap
    room: RoomStatus
    seed: SeedStatus | None
    gap: GapStatus | None
    bucket: BucketStatus | None
    """None: attached to none."""
    other_roads: list[OtherRoadStatus] | None
    """As the connected shipper says; None: not known now."""
    compat: CompatStatus | None
    promotion: dict[str, Any] | None
    """The record that a promotion leaves: when, where it opened, what was lost."""
    last_drill: DrillStatus | None
    """The last recovery that was tried beside it.  None: there was none."""
    alarms: list[Alarm]
    budget: BudgetStatus
