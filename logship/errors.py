"""Every failure that a user can meet: a stable code, what is wrong, what to do.

Library code raises `LogshipError` (or one of the three subclasses that fix an exit code);
only a command's `main()` turns it into an exit status.  The code is what scripts, tests and
alerts match on: never rename one.  docs/errors.md lists them for operators.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What every command exits with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3


class Code(StrEnum):
    """Stable names of failures.  Travel in `refuse` frames and in `--json` output."""

    # Who may talk
    UNKNOWN_INSTANCE = "unknown-instance"
    KEY_NOT_ALLOWED = "key-not-allowed"
    KEY_MISSING = "key-missing"
    BAD_TOKEN = "bad-token"
    TOKEN_UNKNOWN = "token-unknown"
    TOKEN_EXPIRED = "token-expired"
    TOKEN_USED = "token-used"
    INSTANCE_BUSY = "instance-busy"
    SUPERSEDED = "superseded"
    FENCED = "fenced"
    VERSION_MISMATCH = "protocol-version-mismatch"
    # Which instances there are
    INSTANCE_EXISTS = "instance-exists"
    INSTANCE_DECLARED = "instance-declared"
    REGISTRATION_DAMAGED = "registration-damaged"
    PORT_TAKEN = "port-taken"
    REMOVE_REFUSED = "remove-refused"
    # What is shipped
    SYSTEM_IDENTIFIER_MISMATCH = "system-identifier-mismatch"
    MAJOR_MISMATCH = "major-mismatch"
    SEGMENT_SIZE_MISMATCH = "segment-size-mismatch"
    BAD_FRAME = "bad-frame"
    CHECKSUM_MISMATCH = "checksum-mismatch"
    BAD_WAL_PAGE = "bad-wal-page"
    WAL_GAP = "wal-gap"
    WAL_CONFLICT = "wal-conflict"
    TIMELINE_DIVERGED = "timeline-diverged"
    HISTORY_MISSING = "history-missing"
    HISTORY_CONFLICT = "history-conflict"
    BAD_HISTORY = "bad-history"
    # Where it is kept
    DISK_FULL = "disk-full"
    DISK_QUOTA = "disk-quota"
    STORE_FAILED = "store-failed"
    STORE_LOCKED = "store-locked"
    STORE_DAMAGED = "store-damaged"
    # The primary
    PRIMARY_UNREACHABLE = "primary-unreachable"
    PRIMARY_REFUSED = "primary-refused"
    PRIMARY_NOT_READY = "primary-not-ready"
    SLOT_LOST = "slot-lost"
    SLOT_MISSING = "slot-missing"
    SLOT_EXISTS = "slot-exists"
    SLOT_IN_USE = "slot-in-use"
    WAL_REMOVED = "wal-removed"
    PRIMARY_BEHIND = "primary-behind"
    NOT_IN_HISTORY = "not-in-history"
    # Seeds and standbys
    SEED_FAILED = "seed-failed"
    SEED_MANIFEST_MISMATCH = "seed-manifest-mismatch"
    SEED_NOT_KEPT = "seed-not-kept"
    RETENTION_FAILED = "retention-failed"
    BAD_TAR = "bad-tar"
    CONTROL_FILE = "control-file"
    STANDBY_FAILED = "standby-failed"
    STANDBY_AHEAD_OF_FORK = "standby-ahead-of-fork"
    NO_CLIENT_RULES = "no-client-rules"
    TABLESPACE_PATH = "tablespace-path"
    NO_INSTALLATION = "no-installation"
    SWITCH_FAILED = "switch-failed"
    COMPATIBILITY = "compatibility"
    # Buckets
    BUCKET_UNREACHABLE = "bucket-unreachable"
    BUCKET_REFUSED = "bucket-refused"
    OBJECT_EXISTS = "object-exists"
    OBJECT_DAMAGED = "object-damaged"
    EPOCH_HELD = "epoch-held"
    EPOCH_LOST = "epoch-lost"
    IDENTITY_MISSING = "identity-missing"
    WAL_IN_BUCKET = "wal-in-bucket"
    SHIPPER_SILENT = "shipper-silent"
    # Promotion
    PROMOTE_REFUSED = "promote-refused"
    PROMOTE_FAILED = "promote-failed"
    ALREADY_PROMOTED = "already-promoted"
    # Recovery to a point in time
    TARGET_UNREACHABLE = "target-unreachable"
    RESTORE_FAILED = "restore-failed"
    DRILL_FAILED = "drill-failed"
    # Rehearsals
    REHEARSAL_FAILED = "rehearsal-failed"
    NO_CONTAINER_ENGINE = "no-container-engine"
    CONTAINER_FAILED = "container-failed"
    IMAGE_UNUSABLE = "image-unusable"
    # The commands
    SETTINGS = "settings"
    USAGE = "usage"
    APPLIER_UNREACHABLE = "applier-unreachable"
    SHIPPER_UNREACHABLE = "shipper-unreachable"
    SOCKET_IN_USE = "socket-in-use"
    LINK_LOST = "link-lost"
    LINK_AUTHENTICATION = "link-authentication"
    CHECK_FAILED = "check-failed"
    INTERNAL = "internal"


class LogshipError(Exception):
    """Something went wrong that the user should know about.

    code: stable name.  what: one sentence, says what is wrong with the actual values in it.
    hint: what to do now ("" when nothing can be done by hand).  retryable: whether the same
    action may succeed later with no human help.  exit_code: what a command ends with.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, code: Code, what: str, hint: str = "", *, retryable: bool = False) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.hint = hint
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.what} [{self.code}]" + (f" Hint: {self.hint}" if self.hint else "")

    def as_dict(self) -> dict[str, object]:
        """The `--json` and HTTP form: code, what, hint, retryable."""
        return {
            "code": str(self.code),
            "what": self.what,
            "hint": self.hint,
            "retryable": self.retryable,
        }


class UsageError(LogshipError):
    """The command line or a settings file is wrong (exit 2)."""

    exit_code = ExitCode.USAGE


class RefusedError(LogshipError):
    """A check says no: nothing was changed (exit 3)."""

    exit_code = ExitCode.REFUSED
