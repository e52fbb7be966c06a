"""Which installed PostgreSQL runs the standby, and whether it may replay what its primary wrote."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from applier.compat import OVERRIDABLE_RULES, Verdict, check
from applier.operations.standby_profile import standby_profile
from applier.standby import StandbyLayout
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Profile
from logship.postgres.installations import Installation, choose, newest_of

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)


class VersionCheck:
    """`verdict` is None until there is a primary to compare with and an installation to run.

    Raises the alarms that go with what it finds, and clears them.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.trial: Installation | None = None
        """What an operator has it tried on, in place of what would be chosen."""
        self.installation: Installation | None = None
        self.verdict: Verdict | None = None
        self._compared: Profile | None = None
        """The primary that `verdict` is of."""

    @property
    def passes(self) -> bool:
        """Whether the standby may replay."""
        return self.verdict is not None and not self.verdict.blocked

    async def look(self, layout: StandbyLayout, *, seeded: bool, runs: bool = False) -> None:
        """Choose an installation and compare it with the recorded primary, and with the data
        directory if there is one (`seeded`).  What is blocked is remembered when this returns.

        runs: whether the standby does, on `installation`.
        Raises LogshipError: the record can't be written.
        """
        instance = self._instance
        profile = instance.record.profile
        assert profile is not None
        if runs and profile == self._compared and self._was_removed():
            return
        before, self._compared = self.verdict, profile
        data = layout.data if seeded else None
        try:
            self.installation = self._choose(profile)
            self.verdict = await self.compare(self.installation, data)
        except LogshipError as error:
            self.installation = self._newest_of(profile.major)
            self.verdict = None
            if self.installation is not None:
                # What can't be compared (a damaged data directory) blocks the standby only:
                # WAL is received all the same.
                with contextlib.suppress(LogshipError):
                    self.verdict = await self.compare(self.installation, data)
            if self.verdict is None:
                instance.alarms.raise_error(error)
        else:
            instance.alarms.clear(Code.NO_INSTALLATION)
            instance.alarms.clear(Code.CONTROL_FILE)
            self._tell_of_choice()
        self._tell(before)
        await self._look_for_client_rules(layout, seeded)
        await self._remember_hold()

    def choose_for(self, profile: Profile) -> Installation:
        """What would run the standby of such a primary: one that the check has something against
        where none fits.  Raises LogshipError(NO_INSTALLATION): there is none of its major."""
        try:
            return self._choose(profile)
        except LogshipError:
            newest = self._newest_of(profile.major)
            if newest is None:
                raise
            return newest

    def choose_for_production(self) -> Installation | None:
        """The installation of a server that was promoted: no check holds it back any more."""
        profile = self._instance.record.profile
        assert profile is not None
        self.installation = self._newest_of(profile.major)
        with contextlib.suppress(LogshipError):
            self.installation = self._choose(profile)
        return self.installation

    async def judge(self, installation: Installation, layout: StandbyLayout) -> Verdict:
        """What the check would say of the seeded standby on `installation`.  Changes nothing.

        Raises LogshipError: that can't be told.
        """
        return await self.compare(installation, layout.data)

    def _choose(self, profile: Profile) -> Installation:
        """An operator's choice while it fits, else the nearest to the primary.  Raises
        LogshipError(NO_INSTALLATION)."""
        instance = self._instance
        return choose(
            instance.host.installations,
            profile.major,
            profile.server_version_num,
            preferred=self.trial.version if self.trial else instance.record.installation,
            also_older="minor-order" in instance.settings.overrides,
        )

    def _tell_of_choice(self) -> None:
        """Say it where an operator's choice is not what the standby runs on."""
        instance, wanted = self._instance, self._instance.record.installation
        used = self.installation
        if not wanted or self.trial is not None or used is None or used.version == wanted:
            return
        here = any(one.version == wanted for one in instance.host.installations)
        why = "is older than the primary" if here else "is not on this machine any more"
        instance.alarms.raise_error(
            LogshipError(
                Code.NO_INSTALLATION,
                f"PostgreSQL {wanted}, which was chosen for the standby, {why}: {used.version} "
                "is used",
                f"applier switch-installation {instance.name} --to {used.version} makes that the "
                "choice, --to auto takes whichever is nearest to the primary",
            )
        )

    def refuse_promotion(self) -> None:
        """Raise RefusedError(PROMOTE_REFUSED) unless a standby may be opened."""
        name = self._instance.name
        if self.installation is None or self.verdict is None:
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"no installed PostgreSQL can run the standby of {name}",
                "install its version: applier check lists what is found and what is needed",
            )
        if self.verdict.blocked:
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"the version check blocks {name}: {self.verdict.summary()}",
                self._way_out(self.verdict),
            )

    def _way_out(self, verdict: Verdict) -> str:
        """What mends the first rule that blocks."""
        first = verdict.concerns[0]
        if first.rule not in OVERRIDABLE_RULES:
            return first.remedy
        return f'{first.remedy}; or, at your own risk, override it: overrides = ["{first.rule}"]'

    async def _remember_hold(self) -> None:
        """Note durably from where on WAL was not checked against the standby, or that all is;
        and what the standby lacks, for as long as nobody knows otherwise."""
        record = self._instance.record
        changes: dict[str, object] = {}
        if self.passes == (record.held_lsn is not None):
            changes["held_lsn"] = None if self.passes else self._hold_lsn()
        if self.verdict is not None and self.verdict.lacking != record.lacking:
            changes["lacking"] = self.verdict.lacking
        if changes:
            await self._instance.remember(**changes)

    def _hold_lsn(self) -> int:
        """The end of the WAL that is held, or where a known timeline forks below it: what that
        one holds at the same LSNs was never checked."""
        store = self._instance.store
        written = store.written if store is not None else None
        if store is None or written is None:
            return 0
        forks = [history.end_of(written.timeline) for history in store.histories().values()]
        return int(min([written.lsn, *(fork for fork in forks if fork is not None)]))

    async def timeline_came(self) -> None:
        """A timeline's history is known, and none of its WAL is here yet."""
        held_lsn = self._instance.record.held_lsn
        if held_lsn is not None and self._hold_lsn() < held_lsn:
            await self._instance.remember(held_lsn=self._hold_lsn())

    async def _look_for_client_rules(self, layout: StandbyLayout, seeded: bool) -> None:
        """Say beforehand whom a promoted server would let in."""
        instance = self._instance
        rules = layout.primary_settings / "pg_hba.conf"
        if not seeded or await asyncio.to_thread(rules.exists):
            instance.alarms.clear(Code.NO_CLIENT_RULES)
            return
        instance.alarms.raise_error(
            LogshipError(
                Code.NO_CLIENT_RULES,
                "the seed brought no pg_hba.conf: after a promotion no client would get in",
                f"copy the primary's (Debian keeps it in /etc/postgresql) to {rules}",
            )
        )

    def _tell(self, before: Verdict | None) -> None:
        instance = self._instance
        if self.verdict is None:
            return
        if self.verdict.blocked:
            instance.alarms.raise_error(
                LogshipError(
                    Code.COMPATIBILITY,
                    f"the standby is not allowed to replay: {self.verdict.summary()}",
                    "WAL is received and stored meanwhile; "
                    f"shipper status {instance.name} shows the remedy",
                )
            )
        else:
            instance.alarms.clear(Code.COMPATIBILITY)
        if before != self.verdict:
            log.info("version check", instance=instance.name, verdict=self.verdict.summary())

    def _newest_of(self, major: int) -> Installation | None:
        """The best there is when none is new enough: the check then names what is wrong."""
        return newest_of(self._instance.host.installations, major)

    def _was_removed(self) -> bool:
        """Whether the programs of a server that runs, and passed, are gone: it goes on as it was
        checked, and may be promoted, but can't be started again."""
        installation = self.installation
        if installation is None or not self.passes or (installation.bin_dir / "postgres").exists():
            return False
        self._instance.alarms.raise_error(
            LogshipError(
                Code.NO_INSTALLATION,
                f"PostgreSQL {installation.version}, which the standby runs on, was removed from "
                f"{installation.bin_dir}",
                "install it again: the standby runs, but could not be started",
            )
        )
        return True

    async def compare(
        self,
        installation: Installation,
        data: Path | None,
        primary: Profile | None = None,
        *,
        anew: bool = False,
    ) -> Verdict:
        """Compare a primary with `installation`; nothing is remembered.

        data: the standby's data directory; None: no seed is in place.  primary: None: the
        recorded one.  anew: it is a cluster of which nothing is here yet.
        Raises LogshipError: the installation, or the data directory, can't be read.
        """
        host, name = self._instance.host, self._instance.name
        profile = primary or self._instance.record.profile
        assert profile is not None
        # First: an instance may be removed meanwhile.
        overrides = frozenset(self._instance.settings.overrides)
        parameters = host.settings.parameters_of(name)
        standby = await standby_profile(host, installation, profile.environment, parameters, data)
        record = self._instance.record
        return check(
            profile,
            standby,
            None if anew else record.incarnation,
            overrides,
            lacked=() if anew else record.lacking,
        )
