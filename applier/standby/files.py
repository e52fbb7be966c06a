"""Our files of one standby, written for each start, and whether a running server has them."""

from __future__ import annotations

from applier.standby import access, placement
from applier.standby.configuration import (
    ParameterFloors,
    PrimaryTraits,
    StandbySettings,
    check_operator_settings,
    effective_floors,
    render_configuration,
)
from applier.standby.layout import StandbyLayout
from logship.identity import Profile
from logship.postgres.control_file import read_control_file
from logship.postgres.run_as import RunAs


class StandbyFiles:
    """Writes `standby/` and the socket's directory; reads the control file for the floors.

    `profile` may be replaced when the primary changes.  Methods that touch the disk block for
    a few milliseconds, raise OSError, and LogshipError for a control file that can't be read.
    """

    def __init__(
        self, settings: StandbySettings, layout: StandbyLayout, run_as: RunAs, profile: Profile
    ) -> None:
        """Raises UsageError(SETTINGS) for settings that no start could work with."""
        self.profile = profile
        self._layout = layout
        self._run_as = run_as
        self._floors = ParameterFloors()
        self._control_file_mtime_ns = 0
        self.change_settings(settings)

    def change_settings(self, settings: StandbySettings) -> None:
        """What the next `write` writes.  Raises as when this is made."""
        self._settings = settings
        self._operator = check_operator_settings(settings.settings)
        # Settings that can't work are the operator's to mend: said now, not at each start.
        self._render()

    def write(self) -> bool:
        """Write everything.  Whether a server that is running now has another configuration."""
        layout = self._layout
        placement.make_private_directory(layout.standby, self._run_as)
        placement.make_socket_directory(layout.socket_directory, self._run_as)
        self._floors = self._read_floors()
        ident = placement.primary_file(layout, "pg_ident.conf") or ""
        placement.write_ours(layout.ident_file, ident)
        # One that was opened has the primary's rules by now, or will get them.
        if layout.signal_file.exists():
            closed = access.render_closed(self.profile.bootstrap_superuser)
            placement.write_ours(layout.hba_file, closed)
        return placement.write_ours(layout.config_file, self._render()) or self._is_newer()

    def is_closed(self) -> bool:
        """Whether pg_hba.conf is the one that lets nobody in but us."""
        try:
            text = self._layout.hba_file.read_text(encoding="utf-8")
        except OSError:
            return True
        return text == access.render_closed(self.profile.bootstrap_superuser)

    def control_file_changed(self) -> bool:
        """Whether PostgreSQL wrote its control file since it was last read here."""
        return self._layout.control_file.stat().st_mtime_ns != self._control_file_mtime_ns

    def raised_floors(self) -> ParameterFloors | None:
        """What replay needs, if that is more than what was written; else None."""
        needed = self._read_floors()
        return None if self._floors.covers(needed) else needed

    def _read_floors(self) -> ParameterFloors:
        mtime_ns = self._layout.control_file.stat().st_mtime_ns
        control = ParameterFloors.of(read_control_file(self._layout.data))
        # Only now: what could not be read is looked at again.
        self._control_file_mtime_ns = mtime_ns
        return effective_floors(control.merge(ParameterFloors.of(self.profile)), self._operator)

    def _render(self) -> str:
        traits = PrimaryTraits(self.profile.wal_level, self.profile.track_commit_timestamp)
        return render_configuration(self._settings, self._layout, self._floors, traits)

    def _is_newer(self) -> bool:
        """Whether the configuration was written after the server had started.

        An applier that died between writing it and restarting the server leaves it so.  The
        postmaster writes postmaster.opts once, when it starts.
        """
        try:
            started_ns = (self._layout.data / "postmaster.opts").stat().st_mtime_ns
        except FileNotFoundError:
            return True
        return self._layout.config_file.stat().st_mtime_ns > started_ns
