"""What a PostgreSQL server or libpq says went wrong, as our error codes.

Pure functions.  After the connection is made, the SQLSTATE decides (`errcodes.txt`), as texts
depend on the server's `lc_messages`.  libpq gives no SQLSTATE for a failed connection, so
there the text decides, and a text that isn't known counts as "unreachable, try again".
"""

from __future__ import annotations

import re
from enum import Enum

from logship.errors import Code, LogshipError


class Doing(Enum):
    """What was asked of the server when it failed."""

    COMMAND = "a replication command"
    SLOT = "a command on the replication slot"
    HISTORY = "TIMELINE_HISTORY"
    STREAM = "streaming WAL"
    BASE_BACKUP = "the base backup"


_HBA_HINT = (
    "allow the role in the primary's pg_hba.conf, e.g. "
    "`hostssl replication <role> <this address> scram-sha-256`, and reload the primary"
)
_PASSWORD_HINT = (
    "put the password into the passfile; its database field must be `replication` or `*` "
    "for replication connections"
)
_PEER_HINT = (
    "run the shipper as the operating system user that the role is named after, or map the two "
    "in pg_ident.conf"
)
_ROLE_HINT = "ALTER ROLE <role> REPLICATION LOGIN on the primary"

# (part of the message, code, hint, retryable), the first that occurs counts.  Sources:
# src/backend/libpq/{auth,hba}.c, utils/init/postinit.c, tcop/backend_startup.c, libpq's
# fe-auth.c, fe-connect.c and fe-secure-*.c.
_CONNECT_FAILURES: tuple[tuple[str, Code, str, bool], ...] = (
    ("no pg_hba.conf entry", Code.PRIMARY_REFUSED, _HBA_HINT, False),
    ("pg_hba.conf rejects", Code.PRIMARY_REFUSED, _HBA_HINT, False),
    ("no password supplied", Code.PRIMARY_REFUSED, _PASSWORD_HINT, False),
    ("Peer authentication failed", Code.PRIMARY_REFUSED, _PEER_HINT, False),
    ("Ident authentication failed", Code.PRIMARY_REFUSED, _PEER_HINT, False),
    ("authentication failed", Code.PRIMARY_REFUSED, _PASSWORD_HINT, False),
    ("authentication method", Code.PRIMARY_REFUSED, _HBA_HINT, False),
    ("is not permitted to log in", Code.PRIMARY_REFUSED, _ROLE_HINT, False),
    ("must be superuser or replication role", Code.PRIMARY_REFUSED, _ROLE_HINT, False),
    ("permission denied to start WAL sender", Code.PRIMARY_REFUSED, _ROLE_HINT, False),
    ("the database system is", Code.PRIMARY_NOT_READY, "", True),
    ("too many clients", Code.PRIMARY_NOT_READY, "raise max_connections", True),
    ("too many connections", Code.PRIMARY_NOT_READY, "raise the connection limit", True),
    ("remaining connection slots", Code.PRIMARY_NOT_READY, "raise max_connections", True),
    ("exceeds max_wal_senders", Code.PRIMARY_NOT_READY, "raise max_wal_senders", True),
    ('exceeds "max_wal_senders"', Code.PRIMARY_NOT_READY, "raise max_wal_senders", True),
    ("certificate", Code.PRIMARY_REFUSED, "check sslmode, sslrootcert, sslcert, sslkey", False),
    ("does not support SSL", Code.PRIMARY_REFUSED, "enable ssl on the primary", False),
    (
        "session is read-only",
        Code.PRIMARY_NOT_READY,
        "this server is a standby; the string asks for target_session_attrs=read-write",
        True,
    ),
    ("server is in hot standby mode", Code.PRIMARY_NOT_READY, "this server is a standby", True),
    ("definition of service", Code.SETTINGS, "check PGSERVICEFILE and the service's name", False),
    ("service file", Code.SETTINGS, "check PGSERVICEFILE and the service's name", False),
    ("invalid", Code.SETTINGS, "check the connection string", False),
)
_ROLE_MISSING = re.compile(r"role \".*\" does not exist")


def from_connect_failure(
    message: str, target: str, *, needs_password: bool = False, used_password: bool = False
) -> LogshipError:
    """Why a connection wasn't made.  `needs_password`, `used_password`: as libpq tells them."""
    text = one_line(message)
    what = f"can't connect to {target}: {text}"
    if _ROLE_MISSING.search(text):
        return LogshipError(Code.PRIMARY_REFUSED, what, "create the role on the primary")
    for part, code, hint, retryable in _CONNECT_FAILURES:
        if part in text:
            return LogshipError(code, what, hint, retryable=retryable)
    if needs_password:
        return LogshipError(Code.PRIMARY_REFUSED, what, _PASSWORD_HINT)
    hint = "check that the server runs and that the way to it is open"
    if used_password:
        hint = _PASSWORD_HINT
    return LogshipError(Code.PRIMARY_UNREACHABLE, what, hint, retryable=True)


def connection_lost(target: str, message: str) -> LogshipError:
    """An established connection broke."""
    return LogshipError(
        Code.PRIMARY_UNREACHABLE,
        f"the connection to {target} was lost: {one_line(message)}",
        "it is made again by itself; if it stays so, check the server and the network",
        retryable=True,
    )


def from_server(
    sqlstate: str, message: str, detail: str, doing: Doing, target: str
) -> LogshipError:
    """An error response to a command, on an established connection."""
    text = one_line(message) + (f" ({one_line(detail)})" if detail else "")
    what = f"{target} refused {doing.value}: {text}"
    special = _of_state(sqlstate, text, what, doing)
    if special is not None:
        return special
    # 53: out of resources, 57: operator, 58: system, XX: internal; may pass.
    retryable = sqlstate[:2] in ("53", "57", "58", "XX")
    if doing is Doing.BASE_BACKUP:
        hint = "see the primary's log; the seed is taken again from its start"
        return LogshipError(Code.SEED_FAILED, what, hint, retryable=retryable)
    code = Code.PRIMARY_NOT_READY if retryable else Code.PRIMARY_REFUSED
    return LogshipError(code, what, "see the primary's log", retryable=retryable)


def _of_state(sqlstate: str, text: str, what: str, doing: Doing) -> LogshipError | None:
    """The states that mean something of their own."""
    if sqlstate == "58P01":
        return _file_missing(what, doing)
    if sqlstate == "42704" and doing in (Doing.SLOT, Doing.STREAM):
        return LogshipError(
            Code.SLOT_LOST, what, "the slot was dropped: recreate it, and seed if WAL is missing"
        )
    if sqlstate == "42710" and doing is Doing.SLOT:
        return LogshipError(Code.SLOT_EXISTS, what, "use the slot, or drop it first")
    if sqlstate == "55006":
        return LogshipError(
            Code.SLOT_IN_USE,
            what,
            "another process streams from this slot, or an earlier connection of ours has not "
            "ended yet (wal_sender_timeout); pg_stat_replication shows who",
            retryable=True,
        )
    if sqlstate == "55000" and doing is Doing.STREAM:
        return _slot_unusable(text, what)
    if sqlstate.startswith("28"):
        return LogshipError(Code.PRIMARY_REFUSED, what, _HBA_HINT)
    if sqlstate == "42501":
        return LogshipError(Code.PRIMARY_REFUSED, what, _ROLE_HINT)
    if sqlstate in ("57P01", "57P02", "57P05") or sqlstate.startswith("08"):
        return LogshipError(
            Code.PRIMARY_UNREACHABLE,
            what,
            "the server is stopping or an administrator ended the connection; it is made again",
            retryable=True,
        )
    if doing is Doing.STREAM:
        return _wrong_start(text, what)
    return None


def _file_missing(what: str, doing: Doing) -> LogshipError | None:
    if doing is Doing.HISTORY:
        return LogshipError(
            Code.HISTORY_MISSING,
            what,
            "restore the .history file into the primary's pg_wal from its archive",
        )
    if doing is Doing.BASE_BACKUP:
        return None
    return LogshipError(
        Code.WAL_REMOVED,
        what,
        "the primary no longer has this WAL: take a new seed, or fetch it from an archive",
    )


def _slot_unusable(text: str, what: str) -> LogshipError:
    if "logical" in text:
        return LogshipError(
            Code.PRIMARY_REFUSED, what, "choose another slot name: this one is a logical slot"
        )
    return LogshipError(
        Code.SLOT_LOST,
        what,
        "the primary gave up the slot (max_slot_wal_keep_size): drop it, then take a new seed",
    )


def _wrong_start(text: str, what: str) -> LogshipError | None:
    """START_REPLICATION's refusals that have no SQLSTATE of their own (walsender.c)."""
    if "is ahead of the WAL flush position" in text:
        return primary_behind(what)
    if "is not in this server's history" in text:
        return not_in_history(what)
    return None


def primary_behind(what: str) -> LogshipError:
    """We hold WAL that this server never flushed."""
    return LogshipError(
        Code.PRIMARY_BEHIND,
        what,
        "more WAL was received than this server has: it is another server, or was restored "
        "from an older backup; check which server this is, then take a new seed",
    )


def not_in_history(what: str) -> LogshipError:
    """The place to go on from is not on this server's line of descent."""
    return LogshipError(
        Code.NOT_IN_HISTORY,
        what,
        "this server's timeline forked before the WAL already received: take a new seed",
    )


def one_line(message: str) -> str:
    """A libpq message in one line, without the severity."""
    text = " ".join(part.strip() for part in message.strip().splitlines())
    return re.sub(r"^(ERROR|FATAL|PANIC):\s+", "", text) or "no reason given"
