"""Who may write an instance's objects: one object, `INSTANCE/epoch`, held by conditional writes.

Each start of a shipper *takes* the epoch: it makes the object, or advances it if the holder is
itself.  It is itself where shipper and machine are the same and the object's nonce, new with
each take, is the one that its state directory remembers.  A clone that was restored from older
state remembers an older nonce; of two copies of one state the second to start does; a copy on
another machine is told apart by the machine (`machine`).  What can't be told apart so, the
image of a disk on the same hardware, is left to who writes: it may `renounce`.

`decide` has no I/O.  `Epoch` is the blocking rest of it, for one process; its methods may be
called from several threads.
"""

from __future__ import annotations

import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from logship import durable
from logship.bucket.epoch_record import (
    EpochRecord,
    decode_epoch,
    describe_holder,
    encode_epoch,
    fenced_error,
    read_epoch,
)
from logship.bucket.keys import Place, epoch_key
from logship.bucket.machine import Machine, this_machine
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.objects import ConditionFailedError, ObjectStore

CONFIRM_SECONDS: Final = 1.0
"""How old what is known of the epoch may be when something is written."""
_TRIES: Final = 5


class Writer(NamedTuple):
    """Who wants to write."""

    shipper_id: str
    boot_id: str
    host: str
    machine: Machine


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What a state directory knows: the nonce that was taken last, and the one that was about
    to be taken when the process may have died."""

    nonce: str = ""
    next_nonce: str = ""
    stands_in_at: str = ""
    """As `Epoch.stand_in` was told."""


Decision = Literal["make", "advance", "held", "fenced"]


def decide(
    record: EpochRecord | None, writer: Writer, remembered: Remembered, *, take_over: bool = False
) -> Decision:
    """What a starting shipper does about the epoch as it stands.

    take_over: the operator says that the holder is gone.  Of no use against a fence.
    """
    if record is None:
        return "make"
    if record.fenced is not None:
        return "fenced"
    known = {remembered.nonce, remembered.next_nonce} - {""}
    machine = Machine(record.machine, record.cards, record.cloud)
    same = record.shipper_id == writer.shipper_id and machine.may_be(writer.machine)
    return "advance" if take_over or (same and record.nonce in known) else "held"


class Epoch:
    """This process's right to write one instance's objects.

    `take` first.  Once `confirm` has found that it is lost, or fenced, it stays so.
    """

    def __init__(
        self,
        store: ObjectStore,
        instance: str,
        writer: Writer,
        memory: Path,
        *,
        confirm_seconds: float = CONFIRM_SECONDS,
    ) -> None:
        """memory: file in the state directory."""
        self._confirm_seconds = confirm_seconds
        self._store = store
        self._instance = instance
        self._key = epoch_key(instance)
        self._writer = writer
        self._memory = memory
        self._record: EpochRecord | None = None
        self._etag = ""
        self._confirmed_at = 0.0
        self._over: LogshipError | None = None
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """0 before it is taken."""
        return self._record.number if self._record is not None else 0

    @property
    def over(self) -> LogshipError | None:
        """Why nothing may be written any more."""
        return self._over

    def take(self, *, take_over: bool = False) -> None:
        """Become the writer; again, it only confirms.

        Raises LogshipError: EPOCH_HELD, FENCED, EPOCH_LOST and what the store raises.
        """
        with self._lock:
            if self._over is not None:
                raise self._over
            if self._record is not None:
                self._confirm()
                return
            for _ in range(_TRIES):
                found, etag = read_epoch(self._store, self._instance)
                remembered = _recall(self._memory)
                match decide(found, self._writer, remembered, take_over=take_over):
                    case "fenced":
                        assert found is not None and found.fenced is not None
                        raise fenced_error(self._instance, found.fenced)
                    case "held":
                        assert found is not None
                        raise self._held(found)
                    case _:
                        if self._advance(found, etag, remembered):
                            return
            raise LogshipError(
                Code.EPOCH_HELD,
                f"{self._store.name}: {self._key} changes all the time",
                "several shippers start for this instance at once: stop all but one",
                retryable=True,
            )

    def look(self) -> EpochRecord | None:
        """Whether `take` would succeed now; changes nothing.  Returns the epoch so far.

        Raises LogshipError: as `take`.
        """
        found, _ = read_epoch(self._store, self._instance)
        match decide(found, self._writer, _recall(self._memory)):
            case "fenced":
                assert found is not None and found.fenced is not None
                raise fenced_error(self._instance, found.fenced)
            case "held":
                assert found is not None
                raise self._held(found)
        return found

    def stand_in(self, end: Place) -> None:
        """Remember that an operator said so: this one writes in place of the one that wrote the
        log, which ends at `end`.  Raises LogshipError."""
        remembered = _recall(self._memory)
        _remember(self._memory, msgspec.structs.replace(remembered, stands_in_at=str(end)))

    def stands_in(self, end: Place) -> bool:
        """Whether that was said, and the log still ends there.  Raises LogshipError."""
        return _recall(self._memory).stands_in_at == str(end)

    def renounce(self) -> None:
        """Forget, for good, that the holder was this state directory: from now on it takes the
        epoch only when told to take over.  Raises LogshipError."""
        _remember(self._memory, Remembered())

    def confirm(self, now: float | None = None) -> None:
        """Before each write.  Asks the store at most once in `confirm_seconds`; now: monotonic.

        Raises LogshipError: EPOCH_LOST, FENCED and what the store raises.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            if self._over is not None:
                raise self._over
            if now - self._confirmed_at >= self._confirm_seconds:
                self._confirm()
                self._confirmed_at = now

    def confirm_now(self) -> None:
        """As `confirm`, but asks the store in any case."""
        with self._lock:
            if self._over is not None:
                raise self._over
            self._confirm()

    # --- inside -----------------------------------------------------------------------------

    def _advance(self, found: EpochRecord | None, etag: str, remembered: Remembered) -> bool:
        """False: somebody else was quicker; look again."""
        made = EpochRecord(
            number=found.number + 1 if found is not None else 1,
            nonce=uuid.uuid4().hex,
            shipper_id=self._writer.shipper_id,
            boot_id=self._writer.boot_id,
            host=self._writer.host,
            machine=self._writer.machine.id,
            cards=self._writer.machine.cards,
            cloud=self._writer.machine.cloud,
            taken_at=time.time(),
        )
        # Durable before it is written: whatever comes between, one of the two is the object's.
        known = remembered.nonce
        if found is not None and found.nonce == remembered.next_nonce:
            known = found.nonce
        about = msgspec.structs.replace(remembered, nonce=known, next_nonce=made.nonce)
        _remember(self._memory, about)
        try:
            self._etag = self._store.put(
                self._key,
                encode_epoch(made),
                only_if_absent=found is None,
                only_if_etag=etag,
            )
        except ConditionFailedError:
            # After a retry inside the store it may be our own first try that is there.
            again, self._etag = read_epoch(self._store, self._instance)
            if again is None or again.nonce != made.nonce:
                _remember(self._memory, remembered)
                return False
        _remember(self._memory, msgspec.structs.replace(about, nonce=made.nonce, next_nonce=""))
        self._record = made
        self._confirmed_at = time.monotonic()
        return True

    def _confirm(self) -> None:
        assert self._record is not None, "take the epoch first"
        fetched = self._store.get(self._key, unless_etag=self._etag)
        if fetched is None:
            # Unchanged, or gone: a store says the same of both, and who removes it by hand
            # gives nobody else the right to write.
            return
        record = decode_epoch(fetched.data, f"{self._store.name}: {self._key}")
        if record.fenced is not None:
            self._over = fenced_error(self._instance, record.fenced)
        elif record.nonce != self._record.nonce:
            self._over = LogshipError(
                Code.EPOCH_LOST,
                f"{describe_holder(record)} took over the objects of {self._instance} in "
                f"{self._store.name}; this shipper writes nothing any more",
                "stop one of the two; restart this one with `--take-over` if it is the right one",
            )
        else:
            self._etag = fetched.etag
        if self._over is not None:
            raise self._over

    def _held(self, record: EpochRecord) -> LogshipError:
        return LogshipError(
            Code.EPOCH_HELD,
            f"the objects of {self._instance} in {self._store.name} are written by "
            f"{describe_holder(record)}",
            "stop that one; if it is gone for good, or this one was moved here or restored, start "
            "this one once with `shipper run --take-over`",
        )


def this_writer(shipper_id: str, boot_id: str) -> Writer:
    """The writer that this process is."""
    return Writer(shipper_id, boot_id, platform.node(), this_machine())


def _recall(memory: Path) -> Remembered:
    try:
        return json_decoder(Remembered).decode(memory.read_bytes())
    except FileNotFoundError:
        return Remembered()
    except (OSError, *UNREADABLE) as error:
        raise LogshipError(
            Code.SETTINGS,
            f"{memory} can't be read: {error}",
            "mend it; or remove it and start once with `shipper run --take-over`",
        ) from error


def _remember(memory: Path, remembered: Remembered) -> None:
    try:
        durable.write_file(memory, msgspec.json.encode(remembered) + b"\n")
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"{memory} can't be written: {error.strerror or error}",
            "look at the disk of the state directory",
            retryable=True,
        ) from error
