"""The standby of one instance: checked, started, served, and held when it must not go on."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog

from applier.compat import Outcome, Verdict
from applier.operations.live_check import LiveCheck
from applier.operations.promoted import Promoted
from applier.operations.serving import Serving
from applier.operations.standby_gate import gate_of
from applier.operations.standby_making import layout_of, make_standby
from applier.operations.version_check import VersionCheck
from applier.receivers.seed.placement import (
    SeedPlaced,
    discard_previous,
    is_unfinished,
    read_placement,
)
from applier.standby import LifeState, Standby, StandbyLayout, prepare
from applier.store import Store
from applier.walserver.gate import Gate
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Profile
from logship.lsn import Lsn
from logship.postgres.installations import Installation, choose

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

CONSISTENT_POLL_SECONDS = 1.0

TOLD_BEFORE_OPENING = ("operating-system", "collation-versions", "extension-libraries")
"""Rules whose warnings are of no weight before a standby is opened."""


class Following:
    """Keeps the standby in step with what the version check allows.

    `verdict` is None until there is a primary to compare with and an installation to run.
    A blocked standby is held by the WAL server's gate where it is; it is not stopped, as
    what it has is sound and may be read.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.placed: SeedPlaced | None = None
        self._version_check = VersionCheck(instance)
        self.live = LiveCheck(instance)
        self.serving = Serving(instance, self._gate)
        self.promoted = Promoted(instance, self)
        self.standby: Standby | None = None
        self._runs_on: Installation | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._discarding: asyncio.Task[None] | None = None
        self._removal: Future[None] | None = None
        """Of what the last seed replaced, in its thread: it goes on when `_discarding` ends, once
        it has begun."""
        self._turn = asyncio.Lock()

    @property
    def installation(self) -> Installation | None:
        """What the standby runs on, or would; None: nothing installed can."""
        return self._version_check.installation

    @property
    def verdict(self) -> Verdict | None:
        return self._version_check.verdict

    @property
    def whole_verdict(self) -> Verdict | None:
        """`verdict`, and what the running standby said when it was last looked into."""
        verdict = self.verdict
        return None if verdict is None else Verdict((*verdict.findings, *self.live.findings))

    # --- what it may be given ---------------------------------------------------------------

    def serve(self, store: Store) -> None:
        """Let standbys stream from `store`, held until the version check has spoken."""
        self.serving.serve(store)
        if self.standby is not None:
            self._instance.spawn(self.standby.retry_streaming())

    def _gate(self, store: Store) -> Gate:
        return gate_of(
            store,
            passes=self._version_check.passes,
            held_lsn=self._instance.record.held_lsn,
            seed_id=None if self.placed is None else self.placed.seed_id,
            unready_lsn=self._instance.tablespaces.hold_lsn,
        )

    async def timeline_came(self) -> None:
        """A timeline's history is known, and none of its WAL is here yet."""
        await self._version_check.timeline_came()
        self.serving.set_gate()

    # --- life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """After the applier's start: adopt or start what the last one left."""
        async with self._turn:
            directory = self._instance.incarnation_directory
            self.placed = await asyncio.to_thread(read_placement, directory)
            if self._instance.record.promotion is not None:
                await self._adopt_promoted()
                self._discard_in_background()
                return
            if self._instance.record.fence is None:
                await self._prepare_again()
            await self._check()
            if self._instance.record.fence is None:
                await self._start()
                self._discard_in_background()

    async def _prepare_again(self) -> None:
        """A crash may have come between the seed's arrival and its becoming a standby."""
        # The signal file is the last that `prepare` makes; once it stands, what is in the data
        # directory is the standby's own.
        if self.placed is None or self._layout().signal_file.exists():
            return
        try:
            await asyncio.to_thread(prepare, self._layout(), self._instance.host.run_as)
        except LogshipError as error:
            self._instance.alarms.raise_error(error)

    async def close(self) -> None:
        """Leave the server running."""
        await self._let_go()

    async def _let_go(self) -> None:
        await self._stop_watching()
        if self.standby is not None:
            await self.standby.close()
            self.standby = None

    async def primary_changed(self, profile: Profile) -> None:
        """Check again, before any WAL that the changed primary wrote is served."""
        async with self._turn:
            await self._check()
            if self.standby is not None:
                try:
                    await self.standby.set_profile(profile)
                except (LogshipError, OSError) as error:
                    # A damaged standby is no reason to refuse its primary's WAL.
                    self._instance.alarms.standby_files(error)
            await self._start()
            self.live.again()

    async def check_again(self, *, start: bool = False) -> None:
        """The primary is as it was; what is installed here may have changed.

        start: start the standby where it may run now, or on what is there now.
        Raises LogshipError: the record can't be written.
        """
        instance = self._instance
        async with self._turn:
            if instance.following is not self or instance.failure is not None:
                return  # another cluster was taken up meanwhile, or this one could not be
            if instance.record.profile is None or instance.record.fence is not None:
                return
            await self._check()
            if start:
                await self._start()
                self.live.forget()

    async def compare(
        self,
        against: Installation | None = None,
        primary: Profile | None = None,
        *,
        anew: bool = False,
    ) -> tuple[Installation, Verdict]:
        """For whoever asks: compare anew with `against`, or with what the standby runs on or
        would.  A standby that runs on it is looked into.  Changes nothing.

        primary: instead of the recorded one.  anew: it is a cluster of which nothing is here yet.
        Raises LogshipError: nothing installed fits, or it can't be read.
        """
        chosen = against or self._would_run_on(primary)
        data = self._layout().data if self.placed is not None and not anew else None
        verdict = await self._version_check.compare(chosen, data, primary, anew=anew)
        if anew or chosen != self._runs_on or self.standby is None:
            return chosen, verdict
        with contextlib.suppress(LogshipError):  # down, or not consistent yet
            # What serves clients loads no library for our sake.
            serves = self._instance.record.promotion is not None
            await self.live.look(self._layout(), with_libraries=not serves)
        return chosen, Verdict((*verdict.findings, *self.live.findings))

    def _would_run_on(self, primary: Profile | None) -> Installation:
        if primary is not None:
            return self._version_check.choose_for(primary)
        profile = self._instance.record.profile
        assert profile is not None
        installed = self._instance.host.installations
        return self.installation or choose(installed, profile.major, profile.server_version_num)

    def is_look_due(self) -> bool:
        """Whether the running standby is to be looked into now."""
        standby = self.standby
        return standby is not None and self.live.is_due(standby)

    async def look(self) -> None:
        """Look into the running standby; one that lets nobody in is looked at again."""
        with contextlib.suppress(LogshipError):
            await self.live.look(self._layout())

    def warnings(self) -> tuple[str, ...]:
        """What whoever opens the standby must know of its text order and libraries, in words: as
        it said itself or, if nobody looked into it, by what is known of both hosts."""
        verdict = self.verdict
        known = verdict.concerns if verdict is not None and not self.live.findings else ()
        findings = self.live.findings or [one for one in known if one.rule in TOLD_BEFORE_OPENING]
        return tuple(
            f"{one.rule} ({one.primary} / {one.standby}): {one.remedy}"
            for one in findings
            if one.outcome is not Outcome.PASS
        )

    async def look_for_promotion(self) -> None:
        """See `LiveCheck`."""
        await self.live.look_for_promotion(self._layout())

    async def settings_changed(self) -> None:
        """Run the server as the instance's settings are now.  A promoted one is only let go of,
        or taken up again: what its clients see is its operator's to restart."""
        instance = self._instance
        async with self._turn:
            if instance.record.profile is None or instance.failure is not None:
                return  # the next `open` takes them up
            promoted = instance.record.promotion is not None
            if promoted or instance.settings.run_standby:
                await self._let_go()
            else:
                await self._stop_server()
            if promoted:
                await self._adopt_promoted()
            elif instance.record.fence is None:
                await self._check()
                await self._start()

    async def seeded(self) -> None:
        """A seed was put in place: run the standby on it."""
        async with self._turn:
            directory = self._instance.incarnation_directory
            self.placed = await asyncio.to_thread(read_placement, directory)
            layout = self._layout()
            await asyncio.to_thread(prepare, layout, self._instance.host.run_as)
            await self._check()
            await self._start()
            self._discard_in_background()

    def _discard_in_background(self) -> None:
        if self.placed is not None:
            self._discarding = self._instance.spawn(self._discard_previous())

    async def _discard_previous(self) -> None:
        """Remove what the seed replaced, once what replaced it can be opened.  Where no server
        is to run nobody ever tells; the seed was verified, and its WAL is stored."""
        placed = self.placed
        while self.placed is placed and self._instance.settings.run_standby:
            standby = self.standby
            if standby is not None:
                with contextlib.suppress(LogshipError):
                    await standby.positions()  # it lets nobody in before it is consistent
                    break
            await asyncio.sleep(CONSISTENT_POLL_SECONDS)
        if self.placed is not placed:
            return
        directory = self._instance.incarnation_directory
        self._removal = self._instance.host.removals.submit(discard_previous, directory)
        await asyncio.wrap_future(self._removal)

    async def leave_previous(self) -> None:
        """The next seed is about to be swapped in, which removes the same: from the return on
        nothing does so here."""
        if self._discarding is not None:
            self._discarding.cancel()
            await asyncio.wait({self._discarding})
        if self._removal is not None and not self._removal.done():
            await asyncio.gather(asyncio.wrap_future(self._removal), return_exceptions=True)

    async def stop(self) -> None:
        """Take the server down, as its data directory is about to be replaced."""
        async with self._turn:
            await self._stop_server()

    async def _stop_server(self) -> None:
        await self._stop_watching()
        if self.standby is None and self.placed is not None and self.installation is not None:
            self.standby = self._make_standby()
        if self.standby is not None:
            await self.standby.stop()
            await self.standby.close()
            self.standby = None
        self.serving.applied_lsn = Lsn(0)

    async def judge(self, installation: Installation) -> Verdict:
        """What the version check would say of the standby on `installation`."""
        return await self._version_check.judge(installation, self._layout())

    async def run_on(self, installation: Installation | None) -> None:
        """Start the standby anew on `installation`, for as long as this object lives; None: on
        whichever is chosen.  Raises LogshipError: it did not stop, or did not start."""
        async with self._turn:
            await self._stop_watching()
            if self.standby is not None:
                try:
                    await self.standby.stop()
                except LogshipError:
                    await self._start()  # it is wanted as it was, and watched
                    raise
                await self.standby.close()
                self.standby = None
            self._version_check.trial = installation
            await self._check()
            await self._start()
            if self.standby is None:
                raise LogshipError(
                    Code.STANDBY_FAILED,
                    f"the standby of {self._instance.name} does not run",
                    "shipper status NAME shows why",
                )

    def settle(self) -> None:
        """What it was started on by `run_on` is what the record says now."""
        self._version_check.trial = None

    async def ready_to_promote(self, end_lsn: int) -> Standby:
        """The running standby, its gate open up to `end_lsn`.  Raises RefusedError when there is
        none, and LogshipError (TABLESPACE_PATH): it can't replay all of that."""
        async with self._turn:
            self._refuse_promotion()
            if self.standby is None:
                self.standby = self._make_standby()
            await self.standby.ensure_started()
            await self._take_up_tablespaces()
            self._instance.tablespaces.refuse_unready(end_lsn)
            self.serving.set_gate()
            if self._watcher is None:
                self._watcher = asyncio.create_task(self.standby.watch())
            return self.standby

    async def take_up_tablespaces(self) -> bool:
        """Have the standby able to replay what it is held before.  True: it runs, and still is
        held; look again."""
        async with self._turn:
            await self._take_up_tablespaces()
            self.serving.set_gate()
            return self.standby is not None and bool(self._instance.tablespaces.unready)

    @property
    def was_opened(self) -> bool:
        """Whether PostgreSQL has left recovery: it removed standby.signal."""
        return self.placed is not None and not self._layout().signal_file.exists()

    async def start_opened(self) -> Standby:
        """The server of a promotion that a crash interrupted after PostgreSQL opened it."""
        async with self._turn:
            if self.standby is not None:
                await self.standby.close()
            self.standby = self._make_standby(opened=True)
            await self.standby.ensure_started()
            if self._watcher is None:
                self._watcher = asyncio.create_task(self.standby.watch())
            return self.standby

    def refuse_promotion_unless_ready(self) -> None:
        """Raise RefusedError(PROMOTE_REFUSED) if the version check or the data forbid it."""
        self._refuse_promotion()

    def _refuse_promotion(self) -> None:
        if self.placed is None:
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"{self._instance.name} has no standby: no seed was ever completed",
                self._instance.former.what_can_be_promoted(),
            )
        if self._is_half_in_place():
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"a seed of {self._instance.name} is not completely in place",
                "try again in a moment; if it stays so, start the applier again, which finishes "
                "this before anything else",
            )
        self._version_check.refuse_promotion()

    def _is_half_in_place(self) -> bool:
        """Whether a swap has failed, or is going on: the data may be of two seeds."""
        try:
            return is_unfinished(self._instance.incarnation_directory)
        except LogshipError:
            return False  # `placed` was read from it before: what harmed it since harms no data

    # --- inside -----------------------------------------------------------------------------

    async def _check(self) -> None:
        """Let the version check decide; close the gate at once if it says so.  `_start` opens
        it, once the server that was checked is the one that runs."""
        standby = self.standby
        await self._version_check.look(
            self._layout(),
            seeded=self.placed is not None,
            runs=standby is not None and standby.status().state is LifeState.RUNNING,
        )
        if not self._version_check.passes:
            self.serving.set_gate()

    async def _start(self) -> None:
        """Start or adopt, if there is a seed and nothing forbids it."""
        instance = self._instance
        allowed = self._version_check.passes and instance.settings.run_standby
        if self.placed is None or not allowed:
            return
        if instance.record.promotion is not None:
            return
        if await asyncio.to_thread(is_unfinished, instance.incarnation_directory):
            return  # its data directory is just being replaced
        if self.standby is not None and self._runs_on != self.installation:
            await self._stop_watching()
            await self.standby.close()
            self.standby = None
        if self.standby is None:
            self.standby = self._make_standby()
        try:
            # Restarts a running server that is of another installation than the chosen one.
            await self.standby.ensure_started()
        except LogshipError as error:
            log.error("the standby did not start", instance=instance.name, **error.as_dict())
            if not error.retryable:
                instance.alarms.raise_error(error)
                self.standby = None
                return
        else:
            instance.alarms.clear(Code.STANDBY_FAILED)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self.standby.watch())
        await self._take_up_tablespaces()
        if instance.tablespaces.unready:
            instance.tablespaces.keep_looking()
        self.serving.set_gate()

    async def _take_up_tablespaces(self) -> None:
        tablespaces = self._instance.tablespaces
        before = tablespaces.unready
        if self.standby is None or not before:
            return
        try:
            now = await self.standby.take_up_tablespaces()
        except (LogshipError, OSError) as error:
            self._instance.alarms.standby_files(error)
        else:
            await tablespaces.found_unready(before, now)

    async def _adopt_promoted(self) -> None:
        """It is production now: keep it up, also over a restart of this host.

        An operator who takes it over sets run_standby = false for the instance.
        """
        installation = self._version_check.choose_for_production()
        if installation is None or not self._instance.settings.run_standby:
            return
        self.promoted.share()
        self.standby = self._make_standby(opened=True)
        try:
            await self.standby.ensure_started()
        except LogshipError as error:
            self._instance.alarms.raise_error(error)
        self._watcher = asyncio.create_task(self.standby.watch())
        if self.standby.admits_nobody:
            # A crash came between the promotion and letting clients in.
            self._instance.spawn(self.promoted.admit_in_background())

    async def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    def _layout(self) -> StandbyLayout:
        return layout_of(self._instance)

    def _make_standby(self, *, opened: bool = False) -> Standby:
        assert self.installation is not None
        self._runs_on = self.installation
        self.live.forget()
        return make_standby(self._instance, self.installation, opened=opened)
