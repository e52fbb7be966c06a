"""What an operator must look at, by code: raised once, logged once, cleared when it is over."""

from __future__ import annotations

import structlog

from logship import status
from logship.errors import Code, LogshipError

log = structlog.get_logger(__name__)


class Alarms:
    """One instance's alarms."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._raised: dict[Code, LogshipError] = {}

    def raise_error(self, error: LogshipError) -> None:
        """Raise the alarm of `error.code`, or renew its words.  Logs when it is new."""
        known = self._raised.get(error.code)
        self._raised[error.code] = error
        if known is None or known.what != error.what:
            log.error("alarm", instance=self._instance, **error.as_dict())

    def has(self, code: Code) -> bool:
        return code in self._raised

    def clear(self, code: Code) -> None:
        if not self._raised:
            return
        if self._raised.pop(code, None) is not None:
            log.info("alarm is over", instance=self._instance, code=str(code))

    def clear_all(self) -> None:
        """What they were about is left behind."""
        for code in list(self._raised):
            self.clear(code)

    def slot(self, wal_status: str) -> None:
        """pg_replication_slots.wal_status as heard: warn before WAL is gone, and when it is."""
        if wal_status in ("unreserved", "lost"):
            self.raise_error(
                LogshipError(
                    Code.SLOT_LOST,
                    f"the primary says of our replication slot: {wal_status}",
                    "WAL that was not shipped yet is about to go or gone: "
                    "raise max_slot_wal_keep_size on the primary",
                )
            )
        elif wal_status in ("reserved", "extended"):
            self.clear(Code.SLOT_LOST)

    def standby_files(self, error: LogshipError | OSError) -> None:
        """The standby's files can't be used, or its server says what is wrong."""
        if not isinstance(error, LogshipError):
            error = LogshipError(
                Code.STANDBY_FAILED,
                f"the standby's files can't be used: {error}",
                f"look at the disk; a new seed replaces them: applier seed {self._instance}",
            )
        self.raise_error(error)

    def as_list(self) -> list[status.Alarm]:
        return [
            {"code": str(error.code), "what": error.what, "hint": error.hint}
            for error in self._raised.values()
        ]
