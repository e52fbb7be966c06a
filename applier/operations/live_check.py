"""What a running standby says of its own collations and libraries, looked at now and then."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from applier.compat import Finding, LiveFacts, Outcome, live_findings
from applier.compat.live import LIBRARIES
from applier.standby import LifeState, Standby, StandbyLayout
from applier.standby.inspection import inspect
from logship.errors import LogshipError
from logship.identity import Profile

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

LOOK_SECONDS = 300.0
"""Between two looks, if the standby replayed something meanwhile: an idle one is left alone."""
RETRY_SECONDS = 10.0
"""After a look that failed: a standby that replays to consistency lets nobody in yet."""


class LookTurn:
    """Says when the next look is due.  Pure; `now` in monotonic seconds."""

    def __init__(self) -> None:
        self._not_before = 0.0
        self._seen_lsn: int | None = None

    def again(self) -> None:
        """Something changed: the next look is due now."""
        self._not_before, self._seen_lsn = 0.0, None

    def is_due(self, now: float, applied_lsn: int) -> bool:
        return now >= self._not_before and applied_lsn != self._seen_lsn

    def looked(self, now: float, applied_lsn: int) -> None:
        self._not_before, self._seen_lsn = now + LOOK_SECONDS, applied_lsn

    def failed(self, now: float, pause_seconds: float = RETRY_SECONDS) -> None:
        """Look again after `pause_seconds`, idle or not."""
        self._not_before, self._seen_lsn = now + pause_seconds, None


class LiveCheck:
    """`findings` is what the last look found; empty before the first one."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.findings: tuple[Finding, ...] = ()
        self._turn = LookTurn()
        self._looking = asyncio.Lock()
        self._loaded: dict[str, str] = {}
        self._server = 0
        self._looked_of: Profile | None = None
        """What the primary was at the last look."""

    def again(self) -> None:
        """The primary was heard of again: look soon if it changed."""
        if self._instance.record.profile != self._looked_of:
            self._turn.again()

    def forget(self) -> None:
        """Another server runs from here on, or will: what was found was true of the last one."""
        self.findings = ()
        self._loaded = {}
        self._server += 1
        self._turn.again()

    def is_due(self, standby: Standby) -> bool:
        """Whether to look now.  Never at a server that is promoted, but for its promotion."""
        instance = self._instance
        return (
            instance.record.fence is None
            and self.is_due_at(time.monotonic())
            and standby.status().state is LifeState.RUNNING
        )

    def is_due_at(self, now: float) -> bool:
        """Whether to look, if there is a server."""
        return self._turn.is_due(now, self._instance.following.serving.applied_lsn)

    def looked_at(self, profile: Profile, applied_lsn: int) -> None:
        """A look at all was taken, of a standby of such a primary."""
        self._looked_of = profile
        self._turn.looked(time.monotonic(), applied_lsn)

    async def look(self, layout: StandbyLayout, *, with_libraries: bool = True) -> None:
        """Look now.  Raises LogshipError(STANDBY_FAILED, retryable): it lets nobody in.

        with_libraries: else none is loaded, and what was found of them stays.
        """
        instance = self._instance
        profile = instance.record.profile
        assert profile is not None
        async with self._looking:
            applied_lsn, server = instance.following.serving.applied_lsn, self._server
            try:
                facts = await inspect(
                    layout,
                    instance.settings.port,
                    profile.bootstrap_superuser,
                    self._loaded if with_libraries else None,
                    may_load=lambda: not instance.promotion_turn.locked(),
                )
            except LogshipError:
                self._turn.failed(time.monotonic())
                raise
            if server != self._server:
                return
            self._take(facts, with_libraries)
            if facts.unread:
                # It answers, but not of all: that may be so for good.
                self._looked_of = profile
                self._turn.failed(time.monotonic(), LOOK_SECONDS)
            else:
                self.looked_at(profile, applied_lsn)

    def _take(self, facts: LiveFacts, with_libraries: bool) -> None:
        found = live_findings(facts)
        if not with_libraries:
            known = [one for one in self.findings if one.rule == LIBRARIES]
            found = (*(one for one in found if one.rule != LIBRARIES), *known)
        for finding in found:
            if finding.outcome is not Outcome.PASS and finding not in self.findings:
                log.warning(
                    "a look into the standby",
                    instance=self._instance.name,
                    rule=finding.rule,
                    primary=finding.primary,
                    standby=finding.standby,
                    remedy=finding.remedy,
                )
        self.findings = found

    async def look_for_promotion(self, layout: StandbyLayout) -> None:
        """For a promotion: what can be had without risk to the server.  Raises no LogshipError."""
        try:
            await self.look(layout, with_libraries=False)
        except LogshipError as error:
            log.warning("the server that is promoted was not looked into", **error.as_dict())
