"""What is remembered of a token that was given out: `enrolment/NAME.json`, one for an instance.

The token's secret is not in it, and its public key only as a digest: who reads the file can't
join.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec
from zmq.utils import z85

from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE, not_written
from logship.errors import Code, LogshipError, RefusedError

FORMAT: Final = 1


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """A token, and what became of it.  Times are seconds since the epoch by the applier's clock:
    a token must end also while no applier runs."""

    format: int = FORMAT
    instance: str
    key_digest: str
    issued_at: float
    expires_at: float
    redeemed_by: str = ""
    """The shipper's public key; "": not redeemed yet.  Written before anything is registered,
    so that there is never a second one."""
    redeemed_at: float | None = None
    is_registered: bool = False

    def redeem(self, shipper_key: str, now: float) -> Enrolment:
        """What is to be remembered once `shipper_key` has redeemed it.

        The same shipper may come again, as after an answer that was lost.  Raises
        RefusedError: TOKEN_USED, TOKEN_EXPIRED.
        """
        if self.redeemed_by and self.redeemed_by != shipper_key:
            raise RefusedError(
                Code.TOKEN_USED,
                f"the token for {self.instance} was used already, by the shipper with the key "
                f"{self.redeemed_by}",
                f"if that was not you: applier remove {self.instance}, find out who had the token, "
                f"then applier enroll {self.instance}",
            )
        if not self.is_registered and now >= self.expires_at:
            raise RefusedError(
                Code.TOKEN_EXPIRED,
                f"the token for {self.instance} has expired",
                f"make a new one: applier enroll {self.instance}",
            )
        if self.redeemed_by:
            return self
        return msgspec.structs.replace(self, redeemed_by=shipper_key, redeemed_at=now)


def key_digest(public_key: str) -> str:
    """How a token's key is remembered."""
    return hashlib.sha256(z85.decode(public_key)).hexdigest()


def save_enrolment(directory: Path, enrolment: Enrolment) -> None:
    """Write durably.  Blocking.  Raises LogshipError (DISK_FULL, STORE_FAILED; retryable)."""
    path = _path(directory, enrolment.instance)
    data = msgspec.json.format(msgspec.json.encode(enrolment), indent=2)
    try:
        durable.make_directory(directory)
        durable.write_file(path, data + b"\n")
    except OSError as error:
        raise not_written(path, error) from error


def load_enrolments(directory: Path) -> tuple[list[Enrolment], list[LogshipError]]:
    """All that is remembered, and what could not be read: its tokens are not known any more.
    Blocking."""
    found: list[Enrolment] = []
    unreadable: list[LogshipError] = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(_read(path))
        except LogshipError as error:
            unreadable.append(error)
    return found, unreadable


def forget_enrolment(directory: Path, instance: str) -> None:
    """Remove what is remembered; nothing there is fine.  Blocking.  Raises OSError."""
    if directory.is_dir():
        durable.remove(_path(directory, instance))


def _path(directory: Path, instance: str) -> Path:
    return directory / f"{instance}.json"


def _read(path: Path) -> Enrolment:
    try:
        enrolment = json_decoder(Enrolment).decode(path.read_bytes())
    except (*UNREADABLE, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if enrolment.format > FORMAT:
        raise _unreadable(path, f"a newer Logship wrote it (format {enrolment.format})")
    if enrolment.instance != path.stem:
        raise _unreadable(path, f"it is of {enrolment.instance}")
    return enrolment


def _unreadable(path: Path, why: str) -> LogshipError:
    return LogshipError(
        Code.STORE_DAMAGED,
        f"{path} can't be read: {why}",
        f"its token is void; make a new one: applier enroll {path.stem}",
    )
