"""The frames of a seed in, objects out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final

import crc32c
import structlog

from logship.bucket.keys import Keys, SeedName
from logship.bucket.seed_archive.documents import (
    BEGIN,
    END,
    MANIFEST,
    PART_BYTES,
    PLAIN,
    ArchiveParts,
    BeginDocument,
    EndDocument,
    Part,
    Seals,
    archive_folder,
    encode_document,
    part_key,
    seed_name,
)
from logship.bucket.seed_archive.reading import remove_seed
from logship.bucket.seed_archive.verification import BackupCheck
from logship.bucket.wal_objects import KEEP_FRAME_BYTES, joined
from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_PAYLOAD_BYTES,
    Payload,
    SeedAborted,
    SeedBegin,
    SeedChunk,
    SeedEnd,
)
from logship.identity import Profile
from logship.objects import ObjectStore
from logship.seal import unseal
from logship.threads import DaemonThreads

UPLOADS: Final = 4
"""Parts on their way at a time; as many again as one are held besides."""

_log = structlog.get_logger(__name__)


class _Pieces:
    """A part that is being filled."""

    def __init__(self) -> None:
        self.raw_bytes = 0
        self.crc32c = 0
        self.pieces: list[tuple[Payload, bool]] = []

    def add(self, raw: Payload, frame: SeedChunk, payload: Payload) -> None:
        self.raw_bytes += len(raw)
        self.crc32c = crc32c.crc32c(raw, self.crc32c)
        keep = frame.codec == "zstd" and len(raw) >= KEEP_FRAME_BYTES
        self.pieces.append((payload if keep else raw, keep))


class SeedArchiveWriter:
    """Writes one seed at a time.  `take` its frames in order, and `abort` after any error.

    Calls come one after the other, from any thread.  A call returns when its frame is checked
    and handed over, and waits while too much is handed over already; after the one with
    SeedEnd the seed is complete in the store.  Holds some 40 MiB at most.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: Keys,
        recipients: Seals = PLAIN,
        *,
        profile: Profile | None = None,
        part_bytes: int = PART_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        """profile: what the primary is; kept with the seed.  part_bytes: raw, at which a part is
        full; a chunk is never divided."""
        self.next_sequence = 0
        """The chunk that is expected next."""
        self.raw_bytes = 0
        self.stored_bytes = 0
        """Of the parts that are in the store."""
        self._store = store
        self._keys = keys
        self._recipients = recipients
        self._profile = profile
        self._part_bytes = part_bytes
        self._now = now
        self._name: SeedName | None = None
        self._seed_id = ""
        self._begin_crc32c = 0
        self._is_there = False
        self._failure: Exception | None = None
        self._check: BackupCheck | None = None
        self._archives: list[ArchiveParts] = []
        self._next_number = 0
        self._part = _Pieces()
        self._threads = DaemonThreads(UPLOADS, "seed-parts")
        self._pending: deque[tuple[list[Part], Future[Part]]] = deque()

    @property
    def name(self) -> SeedName | None:
        """The seed that is being written, or the last one; None: none, or it was aborted."""
        return self._name

    @property
    def is_writing(self) -> bool:
        """Whether a seed has begun and neither ended nor been aborted."""
        return self._check is not None

    def take(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: Payload = b""
    ) -> None:
        """The next frame of a seed.

        A chunk that was here already, and a seed that the store has already, are passed over.
        Raises LogshipError: of the store; BAD_FRAME (retryable) for a chunk that does not
        follow, and CHECKSUM_MISMATCH for a payload that is damaged, after both of which the
        right one may be given; BAD_TAR, SEED_MANIFEST_MISMATCH, SYSTEM_IDENTIFIER_MISMATCH
        where the backup is not what its manifest says, after which, as after an error of the
        store, the seed is lost and every call raises until `abort` or the next begin.
        """
        if isinstance(frame, SeedBegin):
            self._begin(frame)
        elif isinstance(frame, SeedAborted):
            if frame.seed_id == self._seed_id:
                self.abort()
        elif isinstance(frame, SeedChunk):
            if frame.sequence >= self.next_sequence or not self.is_writing:
                self._chunk(frame, payload)
        else:
            self._end(frame)

    def abort(self) -> None:
        """Give up a seed that has not ended, and remove what there is of it as far as can be.

        What remains is for retention.  Does nothing when none is being written.
        """
        if not self.is_writing:
            return
        name, self._name = self._name, None
        self._seed_id = ""
        self._check = None
        wait([future for _, future in self._pending if not future.cancel()])
        self._pending.clear()
        if name is None or self._is_there:
            return
        try:
            kept = remove_seed(self._store, self._keys, name)
        except LogshipError as error:
            _log.warning("could not remove an unfinished seed", seed=str(name), **error.as_dict())
            return
        _log.info("removed an unfinished seed", seed=str(name), objects_kept=len(kept))

    # --- frames -------------------------------------------------------------------------------

    def _begin(self, frame: SeedBegin) -> None:
        if self.is_writing and frame.seed_id == self._seed_id and self._failure is None:
            return
        self.abort()
        name = seed_name(frame)
        is_there = self._store.describe(self._keys.seed(name, END)) is not None
        document, checksum = encode_document(
            BeginDocument(
                instance=self._keys.instance,
                incarnation=str(self._keys.incarnation),
                begun_at=self._now(),
                begin=frame,
                profile=self._profile,
            )
        )
        if not is_there:
            self._store.put(self._keys.seed(name, BEGIN), self._recipients.seal(document))
        self.next_sequence = self.raw_bytes = self.stored_bytes = 0
        self._name, self._seed_id = name, frame.seed_id
        self._begin_crc32c = checksum
        self._is_there = is_there
        self._failure = None
        self._check = BackupCheck(frame, self._keys.incarnation.system_identifier)
        self._archives = []
        self._part = _Pieces()

    def _chunk(self, frame: SeedChunk, payload: Payload) -> None:
        check = self._expecting(frame)
        if frame.kind not in ("archive", "manifest", "data"):
            raise LogshipError(Code.BAD_FRAME, f"a seed chunk of unknown kind {frame.kind!r}")
        raw: Payload = b""
        if frame.kind == "data":
            raw = unseal(
                frame.codec,
                frame.crc32c,
                frame.raw_bytes,
                payload,
                max_raw_bytes=MAX_PAYLOAD_BYTES,
            )
        try:
            if frame.kind == "archive":
                check.start_archive(frame.archive)
                self._start(archive_folder(frame.archive))
            elif frame.kind == "manifest":
                check.start_manifest()
                self._start(MANIFEST)
            else:
                check.write(raw)
                self._add(raw, frame, payload)
        except Exception as error:
            self._failure = error
            raise
        self.next_sequence += 1

    def _end(self, frame: SeedEnd) -> None:
        if not self.is_writing and frame.seed_id == self._seed_id:
            return  # said again
        check = self._expecting(frame)
        try:
            self._flush()
            self._settle(0)
            check.finish(frame)
            assert self._name is not None
            if not self._is_there:
                document, _ = encode_document(
                    EndDocument(
                        begin_crc32c=self._begin_crc32c,
                        finished_at=self._now(),
                        end=frame,
                        archives=self._archives,
                    )
                )
                key = self._keys.seed(self._name, END)
                self._store.put(key, self._recipients.seal(document))
        except Exception as error:
            self._failure = error
            raise
        self._check = None
        _log.info(
            "a seed is complete in the store",
            store=self._store.name,
            seed=str(self._name),
            raw_bytes=self.raw_bytes,
            stored_bytes=self.stored_bytes,
        )

    def _expecting(self, frame: SeedChunk | SeedEnd) -> BackupCheck:
        if self._failure is not None and self.is_writing:
            raise self._failure
        if self._check is None or frame.seed_id != self._seed_id:
            raise LogshipError(
                Code.SEED_FAILED,
                f"a frame of seed {frame.seed_id!r} came, but that one did not begin here",
                "a new seed has to be started",
                retryable=True,
            )
        if frame.sequence != self.next_sequence:
            raise LogshipError(
                Code.BAD_FRAME,
                f"the seed's chunk {frame.sequence} came, {self.next_sequence} is the next one",
                "it has to be given again",
                retryable=True,
            )
        return self._check

    # --- parts --------------------------------------------------------------------------------

    def _start(self, folder: str) -> None:
        self._flush()
        self._archives.append(ArchiveParts(name=folder, parts=[]))
        self._next_number = 0

    def _add(self, raw: Payload, frame: SeedChunk, payload: Payload) -> None:
        self.raw_bytes += len(raw)
        if self._is_there:
            return
        if self._part.raw_bytes + len(raw) > self._part_bytes:
            self._flush()
        self._part.add(raw, frame, payload)

    def _flush(self) -> None:
        """Send the part that is being filled on its way."""
        part, self._part = self._part, _Pieces()
        if not part.raw_bytes:
            return
        self._settle(UPLOADS - 1)
        assert self._name is not None
        archive = self._archives[-1]
        key = part_key(self._keys, self._name, archive.name, self._next_number)
        self._next_number += 1
        self._pending.append((archive.parts, self._threads.submit(self._upload, key, part)))

    def _settle(self, at_most: int) -> None:
        """Wait until at most so many parts are on their way."""
        while len(self._pending) > at_most:
            parts, future = self._pending.popleft()
            done = future.result()
            parts.append(done)
            self.stored_bytes += done.stored_bytes

    def _upload(self, key: str, part: _Pieces) -> Part:
        body = self._recipients.seal(joined(part.pieces))
        self._store.put(key, body)
        return Part(raw_bytes=part.raw_bytes, crc32c=part.crc32c, stored_bytes=len(body))
