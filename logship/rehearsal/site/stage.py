"""A primary and a recovery server that are built for a rehearsal and taken down after it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import Engine
from logship.rehearsal.outcome import Verdict
from logship.rehearsal.plan import PATIENCE_SECONDS, Plan
from logship.rehearsal.site.copied import copy_of
from logship.rehearsal.site.primary import Primary, Written, longest_pause_seconds
from logship.rehearsal.site.recovery import Progress, Recovery

INSTANCE = "rehearsed"


@dataclass
class Stage:
    """Both sides, and how they are copied for a look at what would be.

    say: tells a person what is going on.  patience_seconds: how long a standby may take to follow.
    looked_seconds: how long it was `looking` since `start_writes`.
    """

    engine: Engine
    primary: Primary
    recovery: Recovery
    say: Callable[[str], None]
    patience_seconds: float
    looked_seconds: float = 0.0
    _quiet_seconds: float = 0.0
    """Of them, those in which writes were paused."""
    _forks: int = 0
    _writing: bool = False
    _written: list[Written] = field(default_factory=list)

    def ship(self) -> None:
        """Start the shipper, towards the recovery server."""
        self.primary.write_settings(self.recovery.link_address, self.recovery.applier_public_key)
        self.primary.start_shipper()

    def change_primary(self, image: str) -> None:
        """Stop writes, shipper and server well, and go on in `image`; nothing runs there yet."""
        self.pause_writes()
        self.primary.stop_shipper()
        self.primary.stop()
        self.primary.machine.change(image=image)

    def wait_protected(self) -> Progress:
        """How far protection gets, within the plan's patience, with all that the primary has now.
        Raises LogshipError: the primary does not answer."""
        return self.recovery.wait_protected(str(self.primary.flush_lsn()), self.patience_seconds)

    def wait_following(self) -> None:
        """Until all that the primary has now is replayed.  Raises LogshipError."""
        progress = self.wait_protected()
        if progress.replayed_seconds is None:
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"the standby does not follow within {self.patience_seconds:.0f} s: "
                f"{progress.said or 'nobody says why'}",
                "what is there before the first step must work by itself",
            )

    # --- the work that goes on ------------------------------------------------------------

    def start_writes(self) -> None:
        """Commit all the time, from now on."""
        self._written = []
        self.looked_seconds = self._quiet_seconds = 0.0
        self.resume_writes()

    def pause_writes(self) -> None:
        """Before the primary's machine is changed, and as an operator does who announces a
        pause.  It counts as one."""
        if self._writing:
            self._writing = False
            self._written.append(self.primary.stop_writer().earlier_by(self._quiet_seconds))

    def resume_writes(self) -> None:
        if not self._writing:
            self.primary.start_writer()
            self._writing = True

    def end_writes(self) -> float:
        """Stop them.  The longest time without a commit since `start_writes`, in seconds, without
        what was looked at in it."""
        self.pause_writes()
        return longest_pause_seconds(self._written)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """What the rehearsal looks at in the midst of a step: no part of what the step costs.
        Writes are paused all the while, or not at all."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self.looked_seconds += seconds
            if not self._writing:
                self._quiet_seconds += seconds

    # --- copies ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def recovery_copy(self, *, image: str | None = None) -> Iterator[Recovery]:
        """A copy of the recovery server, maybe with another image, on which nothing runs yet."""
        copy = self.recovery.stopped_copy(image=image)
        try:
            yield copy
        finally:
            copy.remove()

    @contextlib.contextmanager
    def primary_copy(self, *, image: str | None = None) -> Iterator[Primary]:
        """The same of the primary, without its shipper.  The real one is stopped for it and runs
        again."""
        self.primary.stop_shipper()
        self.primary.stop()
        try:
            self._forks += 1
            fork = self.primary.fork(f"primary-copy-{self._forks}", image=image)
        finally:
            self.primary.start()
            self.ship()
        try:
            yield fork
        finally:
            fork.machine.remove()

    def verdict_on(self, primary: Primary) -> Verdict:
        """What the version check says of WAL of `primary`, which runs, on the recovery server."""
        primary.write_settings(self.recovery.link_address, self.recovery.applier_public_key)
        return self.recovery.compat(primary_profile=primary.profile())


def build(plan: Plan, engine: Engine, say: Callable[[str], None]) -> Stage:
    """Make both sides, seed the standby, and wait until it follows.  Raises LogshipError."""
    start = plan.start
    say(f"building: primary {start.primary}, recovery server {start.standby}")
    primary = Primary(
        engine.machine("primary", start.primary, start.shipper), INSTANCE, plan.database
    )
    with copy_of(plan.database) as copied:
        primary.create(copied)
    recovery = Recovery.create(
        engine.machine("recovery", start.standby, start.applier),
        INSTANCE,
        primary.shipper_public_key(),
        start.standby_parameters,
    )
    recovery.start()
    # A plan may have little patience with its steps: the first seed takes as long as it takes.
    seed_seconds = max(plan.patience_seconds, PATIENCE_SECONDS)
    stage = Stage(engine, primary, recovery, say, seed_seconds)
    stage.ship()
    stage.wait_following()
    stage.patience_seconds = plan.patience_seconds
    return stage
