"""What one instance may take: its share of memory, its part of the disk, its intake, its turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from applier.budgets.disk import DiskQuota
from applier.budgets.intake import IntakeRate
from applier.budgets.memory import (
    MemoryParameters,
    promoted_parameters,
    share_of_buffers_mb,
    standby_buffers_mb,
)
from applier.receivers import Resume
from applier.settings import InstanceSettings, Parameter
from applier.standby.configuration import (
    ParameterFloors,
    check_operator_settings,
    effective_floors,
)
from logship.errors import Code, LogshipError
from logship.frames import Hello
from logship.lsn import Lsn, Position
from logship.status import BudgetStatus, MemoryStatus

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

CATCH_UP_BYTES = 64 << 20
"""Who is this far behind when its sender comes has to catch up, and needs a turn for it."""
_MEGABYTE = 1 << 20
_BLOCK_BYTES = 512
"""Of `st_blocks`, whatever the file system's own blocks are."""


class MemoryShare(NamedTuple):
    """share_mb: None where there is no rule.  parameters: of PostgreSQL, the operator's among
    them, which win; shared_buffers stands by itself."""

    share_mb: int | None
    shared_buffers_mb: int
    parameters: dict[str, Parameter]

    def shown(self) -> dict[str, str]:
        """What an operator wants to see of it before a promotion."""
        return {
            "shared_buffers": f"{self.shared_buffers_mb}MB",
            **{
                name: str(self.parameters[name])
                for name in MemoryParameters(0, 0, 0, 0, 0).reloadable()
                if name in self.parameters
            },
        }


class Budget:
    """One instance's limits, and how far they are used."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._sharing = instance.host.sharing
        self.turn = self._sharing.turns.turn_of(
            instance.name, lambda: self._instance.settings.priority
        )
        self.turn.on_came = self._turn_came
        self._is_lifted = False
        self._settings: InstanceSettings | None = None
        """By which the limits were made."""
        self._quota: DiskQuota | None = None
        self._rate: IntakeRate | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._target: Position | None = None
        """Up to where the link's sender has to catch up."""
        self._from_bucket_bytes = 0
        """What came from the bucket since it was last read to its end."""
        self.is_contained = False
        """Whether the kernel holds the server to its share."""

    def _limits(self) -> tuple[DiskQuota | None, IntakeRate | None]:
        """As the settings are now: an operator may change an instance's."""
        own = self._instance.settings
        if own is not self._settings:
            self._settings = own
            budgets = self._instance.host.settings.budgets
            disk_mb = budgets.instance_disk_mb if own.disk_mb is None else own.disk_mb
            if not disk_mb:
                self._quota = None
            elif self._quota is None:
                self._quota = DiskQuota(disk_mb * _MEGABYTE)
            else:
                self._quota.limit_bytes = disk_mb * _MEGABYTE  # what was measured stays
            rate_mb = own.intake_mb_per_second
            rate_mb = budgets.intake_mb_per_second if rate_mb is None else rate_mb
            self._rate = IntakeRate(rate_mb * _MEGABYTE, time.monotonic()) if rate_mb else None
        return self._quota, self._rate

    def lift(self) -> None:
        """A promotion is under way: what still comes is held up by nothing but the disk."""
        self._is_lifted = True
        if self._catches_up:
            self.turn.take("catch-up")

    def impose(self) -> None:
        """The promotion failed: the limits hold again."""
        self._is_lifted = False

    # --- memory -----------------------------------------------------------------------------

    def memory(self, *, promoted: bool) -> MemoryShare:
        """What its server has, as a standby or promoted."""
        name, settings = self._instance.name, self._instance.host.settings
        operators = settings.parameters_of(name)
        shares = self._sharing.shares(name, promoted=promoted)
        if shares is None:
            return MemoryShare(None, settings.shared_buffers_mb_of(name), operators)
        own_buffers_mb = self._instance.settings.shared_buffers_mb
        buffers_mb = own_buffers_mb or standby_buffers_mb(shares.standby_mb)
        if not promoted:
            return MemoryShare(shares.standby_mb, buffers_mb, operators)
        found = promoted_parameters(
            shares.promoted_mb,
            max_connections=self._max_connections(operators),
            standby_buffers_mb=buffers_mb,
        )
        return MemoryShare(
            shares.promoted_mb,
            own_buffers_mb or found.shared_buffers_mb,
            {**found.reloadable(), **check_operator_settings(operators)},
        )

    def _max_connections(self, operators: dict[str, Parameter]) -> int:
        profile = self._instance.record.profile
        floors = ParameterFloors() if profile is None else ParameterFloors.of(profile)
        return effective_floors(floors, check_operator_settings(operators)).max_connections

    def contain(self, pid: int) -> None:
        """Have the kernel hold the server to its share, where it does that.  Blocks shortly."""
        promoted = self._instance.record.promotion is not None
        share_mb, buffers_mb, _ = self.memory(promoted=promoted)
        if share_mb is not None:
            # What an operator gave it wins here as well: the kernel would end its processes.
            limit_mb = max(share_mb, share_of_buffers_mb(buffers_mb))
            cgroups = self._sharing.cgroups
            self.is_contained = cgroups.contain(self._instance.name, pid, limit_mb)

    def release(self) -> None:
        """The server was stopped.  Blocks shortly."""
        self._sharing.cgroups.remove(self._instance.name)
        self.is_contained = False

    # --- turns: seeds -------------------------------------------------------------------------

    def may_seed(self) -> bool:
        """Whether the link's sender may begin a seed now.  If not it is asked for one when the
        turn has come."""
        return self.turn.ask("seed")

    def _turn_came(self) -> None:
        """It may be the link's sender that waited to be asked for a seed."""
        listener, arrival = self._instance.link_listener, self._instance.arrival
        if listener is None or arrival.seeder is not None or not self.turn.wants("seed"):
            return
        try:
            is_wanted = arrival.is_wanted(from_bucket=False)
        except LogshipError:
            is_wanted = False  # the store is being opened again, and its sender comes again
        if is_wanted:
            listener.seed_requested("its turn has come")
        else:
            self.turn.done("seed")

    async def seed_comes_from_bucket(self) -> None:
        """Wait for the turn.  Nobody holds anything ready meanwhile."""
        try:
            await self.turn.wait("seed")
        except BaseException:
            self.turn.done("seed")
            raise

    # --- turns: catching up -------------------------------------------------------------------

    def sender_came(self, hello: Hello, resume: Resume) -> Resume:
        """The link's sender is to go on as `resume` says.  Returns that, less a seed that has to
        wait for its turn.

        It catches up until it is where its primary was by then.  What is written after that is
        no catching up, however much.
        """
        self._target = None
        begins, flush = resume.position, Position(hello.timeline, Lsn(hello.flush_lsn))
        behind_bytes = flush.lsn - begins.lsn if begins is not None and begins <= flush else 0
        if hello.primary_reachable and behind_bytes >= CATCH_UP_BYTES:
            self._target = flush
            self.turn.ask("catch-up")
        return resume._replace(seed_wanted=resume.seed_wanted and self.may_seed())

    def caught_up(self) -> None:
        """Nothing more is to come of what the link's sender had to catch up with."""
        self._target = None
        self.turn.done("catch-up")

    def sender_left(self) -> None:
        """Nothing comes by the link any more.  A seed that has begun may go on: its turn is lost
        if it does not, and others wait."""
        self.caught_up()
        if self._instance.arrival.seeder is None:
            self.turn.done("seed")

    def bucket_is_dry(self) -> None:
        """All that was there came; or it is not read any more."""
        self._from_bucket_bytes = 0
        if self._target is None:
            self.turn.done("catch-up")

    def comes_from_bucket(self, size_bytes: int) -> None:
        """So much is about to come from the bucket."""
        self._from_bucket_bytes += size_bytes

    @property
    def _catches_up(self) -> bool:
        return self._target is not None or self._from_bucket_bytes > CATCH_UP_BYTES

    # --- WAL ----------------------------------------------------------------------------------

    def is_free(self, size_bytes: int) -> bool:
        """Whether so much WAL may be written now, without any waiting."""
        quota, rate = self._limits()
        if not self._is_lifted:
            if self._catches_up and not self.turn.ask("catch-up"):
                return False
            if rate is not None and rate.wait_seconds(time.monotonic()) > 0:
                return False
        return quota is None or (
            quota.has_room(size_bytes) and not quota.is_measure_due(size_bytes, time.monotonic())
        )

    async def wait(self) -> None:
        """Until it is this instance's turn, and its rate allows more."""
        if self._catches_up and not self._is_lifted:
            await self.turn.wait("catch-up")
        _, rate = self._limits()
        while rate is not None and not self._is_lifted:
            seconds = rate.wait_seconds(time.monotonic())
            if not seconds:
                break
            await asyncio.sleep(min(seconds, 1.0))

    async def check_room(self, size_bytes: int) -> None:
        """Raises LogshipError(DISK_QUOTA, retryable): the instance has what it may have."""
        quota, _ = self._limits()
        if quota is None:
            return
        if quota.is_measure_due(size_bytes, time.monotonic()):
            await self._measured(must=not quota.has_room(size_bytes))
        if not quota.has_room(size_bytes):
            used_mb, limit_mb = (quota.used_bytes or 0) >> 20, quota.limit_bytes >> 20
            name = self._instance.name
            raise LogshipError(
                Code.DISK_QUOTA,
                f"{name} takes {used_mb} MB of the disk, {limit_mb} MB are its limit, and "
                f"{size_bytes} bytes more were to come",
                f"raise instances.{name}.disk_mb (or budgets.instance_disk_mb), or shorten "
                "retention.window_hours; receiving goes on by itself then",
                retryable=True,
            )

    def came(self, size_bytes: int, written: Position | None) -> None:
        """So much was written, up to `written`; None: of a seed."""
        quota, rate = self._limits()
        if quota is not None:
            quota.came(size_bytes)
        if rate is not None and written is not None:
            rate.take(size_bytes, time.monotonic())
        self.turn.use()
        if self._target is not None and written is not None and written >= self._target:
            self.caught_up()
            log.info("has caught up", instance=self._instance.name, at=str(written))

    # --- disk ---------------------------------------------------------------------------------

    async def _measured(self, *, must: bool) -> None:
        """Look at the disk; wait for it only where that decides something."""
        if self._measuring is None or self._measuring.done():
            self._measuring = self._instance.spawn(self._measure())
        if must:
            await asyncio.shield(self._measuring)

    async def _measure(self) -> None:
        quota = self._quota
        if quota is None:
            return
        came_bytes = quota.came_bytes
        instance = self._instance
        record, roots = instance.record, [instance.directory]
        if record.incarnation is not None:
            roots += instance.places
        for kept in record.previous:
            roots += instance.places_of(kept.incarnation, kept.volumes)
        try:
            used_bytes = await asyncio.get_running_loop().run_in_executor(
                instance.host.measuring, disk_bytes, roots
            )
        except OSError as error:
            raise LogshipError(
                Code.STORE_FAILED,
                f"it can't be found out what {instance.name} takes of the disk: {error}",
                "look at the disk and its messages",
                retryable=True,
            ) from error
        quota.measured(used_bytes, came_bytes, time.monotonic())

    # --- what is shown ------------------------------------------------------------------------

    def room_bytes(self, disk_bytes: int) -> int | None:
        """How much of what the disk has room for may come; None: not known before what the
        instance takes is measured for the first time."""
        quota, _ = self._limits()
        if quota is None:
            return disk_bytes
        used_bytes = quota.used_bytes
        return None if used_bytes is None else min(disk_bytes, quota.limit_bytes - used_bytes)

    def status(self) -> BudgetStatus:
        quota, rate = self._limits()
        return {
            "memory": self._memory_status(),
            "disk": None
            if quota is None
            else {"limit_bytes": quota.limit_bytes, "used_bytes": quota.used_bytes},
            "intake_bytes_per_second": None if rate is None else int(rate.bytes_per_second),
            "turn": self.turn.state,
        }

    def _memory_status(self) -> MemoryStatus | None:
        standby, promoted = self.memory(promoted=False), self.memory(promoted=True)
        if standby.share_mb is None or promoted.share_mb is None:
            return None
        return {
            "standby_mb": standby.share_mb,
            "promoted_mb": promoted.share_mb,
            "standby": standby.shown(),
            "promoted": promoted.shown(),
            "limited_by_kernel": self.is_contained,
        }


def disk_bytes(roots: Iterable[Path]) -> int:
    """What the files in and below `roots` take of the disk.  Each is counted once, links are not
    followed, and what goes away meanwhile does not count.  Blocks.  Raises OSError."""
    sizes: dict[tuple[int, int], int] = {}
    pending = [os.fspath(root) for root in roots]
    while pending:
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    sizes[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK_BYTES
    return sum(sizes.values())
