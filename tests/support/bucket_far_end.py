"""What lies in a bucket, as one who follows its log sees it; and a rig for the contract."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from logship.bucket.documents import decode_profile, unpack_document
from logship.bucket.epoch_record import Fence, fence_epoch
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import PLAIN, Opens, SeedArchiveWriter, list_seeds, read_seed
from logship.bucket.wal_objects import Head, Marker, metadata_of, pack, read_head, unpack
from logship.errors import LogshipError
from logship.frames import GapFound, Payload, SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.wal import segment_end
from shipper.destinations.bucket.destination import BucketDestination
from shipper.destinations.bucket.objects import Seal
from shipper.destinations.bucket.options import BucketOptions
from tests.support.link_frames import SEGMENT_BYTES, at, profile, sealed_wal
from tests.support.rigged_store import RiggedStore, unreachable

S = SEGMENT_BYTES
KEYS = Keys("orders", profile().incarnation)


class BucketFarEnd:
    """See `tests.integration.destination_contract.FarEnd`."""

    keys = KEYS
    window_bytes = 400_000
    answers = False

    def __init__(self, directory: Path, store: ObjectStore | None = None) -> None:
        """store: the bucket itself; by default a directory."""
        self.store = RiggedStore(store or DirectoryStore(directory / "bucket"))
        self.state = directory / "state"
        self.state.mkdir()
        self.taken: list[tuple[str, Any]] = []
        """What the writer of seeds was given."""
        self.spoiled: dict[type, LogshipError] = {}
        self.options: dict[str, Any] = {}
        self.seal: Seal = bytes
        self.opens: Opens = PLAIN
        self.put_wal(at(1, 0), S)

    def put_wal(self, position: Position, size_bytes: int, *, of_timeline: int = 0) -> None:
        """As an earlier process did.  of_timeline: other bytes, by which they would be right."""
        timeline, lsn = position
        body, raw_bytes, checksum = _packed(of_timeline or timeline, lsn, size_bytes)
        head = Head(timeline=timeline, start_lsn=lsn, raw_bytes=raw_bytes, crc32c=checksum)
        place = Place(timeline, lsn)
        data = self.seal(body)
        self.store.real.put(KEYS.wal(place), data, metadata_of(head), only_if_absent=True)

    def put_marker(self, place: Place, marker: Marker) -> None:
        """As an earlier process did."""
        head = Head(timeline=place.timeline, start_lsn=place.lsn, marker=marker)
        self.store.real.put(KEYS.wal(place), b"", metadata_of(head), only_if_absent=True)

    def make_destination(
        self, *, store: ObjectStore | None = None, **changes: Any
    ) -> BucketDestination:
        options: dict[str, Any] = {
            "instance": "orders",
            "shipper_id": "shipper-a",
            "boot_id": "boot-1",
            "protection": "async",
            "state_directory": self.state,
            "max_delay_seconds": 0.02,
            "window_bytes": self.window_bytes,
            "patience_seconds": 0.0,
            "confirm_seconds": 0.0,
        }
        return BucketDestination(
            store or self.store,
            BucketOptions(**(options | self.options | changes)),
            seal=self.seal,
            make_seed_taker=self._seed_taker,
        )

    def _seed_taker(self, store: ObjectStore, keys: Keys, profile: Profile) -> SeedArchiveWriter:
        return _RecordingWriter(self, store, keys, profile=profile)

    def without_wal(self) -> None:
        keys = [each.key for each in self.store.real.listing("")]
        assert self.store.real.delete(keys) == []

    # --- what there is --------------------------------------------------------------------

    def objects(self, start: Place | None = None) -> Iterator[tuple[Place, Head, bytes]]:
        """Follow the log."""
        place = start or self._start()
        while (found := self._get(place)) is not None:
            head, data = found
            yield place, head, data
            place = head.following(place, S)

    def _start(self) -> Place:
        if self.store.real.describe(KEYS.wal(Place(1, Lsn(0)))) is not None:
            return Place(1, Lsn(S))
        for each in self.store.real.listing(KEYS.all_wal):
            return Place.parse(each.key.removeprefix(KEYS.all_wal))
        return Place(1, Lsn(S))

    def _get(self, place: Place) -> tuple[Head, bytes] | None:
        key = KEYS.wal(place)
        held = self.store.arrived.get(key)
        if held is not None:
            data, metadata = held
        else:
            fetched = self.store.real.get(key)
            if fetched is None:
                return self._get_segment(place)
            data, metadata = fetched.data, fetched.metadata
        head = read_head(metadata, place, key)
        if head.marker is not None:
            return head, b""
        return head, unpack(self.opens.open(data, key), head, S, key)

    def _get_segment(self, place: Place) -> tuple[Head, bytes] | None:
        key = KEYS.segment(place.timeline, place.lsn, S)
        fetched = self.store.real.get(key)
        if fetched is None:
            return None
        start = Place(place.timeline, Lsn(place.lsn - place.lsn % S))
        head = read_head(fetched.metadata, start, key)
        assert head.end_lsn == segment_end(place.lsn, S)
        data = unpack(self.opens.open(fetched.data, key), head, S, key)[place.lsn - start.lsn :]
        return Head(timeline=place.timeline, start_lsn=place.lsn, raw_bytes=len(data)), data

    @property
    def log(self) -> list[tuple[str, Any]]:
        log: list[tuple[str, Any]] = []
        digest = ""
        histories = self._histories()
        for place, head, data in self.objects():
            if digest and head.profile and head.profile != digest:
                log.append(("profile", self._profile(head.profile)))
            digest = head.profile or digest
            marker = head.marker
            if marker is None:
                log.append(("wal", (place.timeline, int(place.lsn), data)))
            elif marker.kind == "timeline":
                log.append(("history", (marker.timeline, histories.pop(marker.timeline))))
            elif marker.kind == "gap":
                log.append(("gap", _gap_of(place, head)))
        log += [("history", each) for each in histories.items()]
        return log + self.taken

    def wal_of(self, timeline: int) -> bytes:
        return b"".join(data for place, _, data in self.objects() if place.timeline == timeline)

    def seed_content(self) -> bytes:
        frames = read_seed(self.store.real, KEYS, list_seeds(self.store.real, KEYS)[-1])
        return b"".join(payload for frame, payload in frames if isinstance(frame, SeedChunk))

    def _histories(self) -> dict[int, bytes]:
        found = {}
        for each in self.store.real.listing(KEYS.all_histories):
            timeline = int(each.key.removeprefix(KEYS.all_histories), 16)
            found[timeline] = self._document(each.key)
        return found

    def _profile(self, digest: str) -> Profile:
        return decode_profile(self._document(KEYS.profile(digest)), digest)

    def _document(self, key: str) -> bytes:
        fetched = self.store.real.get(key)
        assert fetched is not None
        return unpack_document(self.opens.open(fetched.data, key), fetched.metadata, key)

    # --- what it is told to do ------------------------------------------------------------

    def hold_durability(self) -> None:
        self.options |= {"max_object_bytes": 1000, "uploads_at_once": 16}
        self.store.hold()

    def harden(self, position: Position) -> None:
        ends = {KEYS.wal(place): head.end_lsn for place, head, _ in self.objects()}
        self.store.release(lambda key: ends.get(key, position.lsn + 1) <= position.lsn)

    def can_harden(self, position: Position) -> Position:
        ends = [head.end_lsn for _, head, _ in self.objects() if head.end_lsn <= position.lsn]
        return position._replace(lsn=max(ends))

    def stop_taking(self) -> None:
        self.store.take(False)

    def go_on_taking(self) -> None:
        self.store.take(True)

    def ask_again_from(self, position: Position) -> None:
        raise NotImplementedError("nobody answers")

    def refuse(self, error: LogshipError) -> None:
        self.store.refusals.append(error)

    def refuse_seed(self, error: LogshipError) -> None:
        self.spoiled[SeedBegin] = error

    def spoil_seed_chunk(self, error: LogshipError) -> None:
        self.spoiled[SeedChunk] = error

    def spoil_seed_end(self, error: LogshipError) -> None:
        self.spoiled[SeedEnd] = error

    def forget_seed(self) -> None:
        raise NotImplementedError("nobody answers")

    def want_seed(self, why: str) -> None:
        raise NotImplementedError("nobody answers")

    def fence(self) -> None:
        fence_epoch(self.store.real, "orders", Fence(at=1700000000.0, timeline=2, lsn=0x3000028))

    def cut(self) -> None:
        self.store.cut()

    def cut_when_seed_ends(self) -> None:
        def lose() -> None:
            raise unreachable()

        self.store.after_put.append(("/end", lose))

    def vanish(self) -> None:
        self.store.vanish()

    def come_back(self) -> None:
        self.store.come_back()


class _RecordingWriter(SeedArchiveWriter):
    """Says what it was given, and fails as it is told."""

    def __init__(self, rig: BucketFarEnd, store: ObjectStore, keys: Keys, **options: Any) -> None:
        super().__init__(store, keys, **options)
        self._rig = rig

    def take(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: Payload = b""
    ) -> None:
        error = self._rig.spoiled.pop(type(frame), None)
        if error is not None:
            raise error
        super().take(frame, payload)
        match frame:
            case SeedBegin():
                self._rig.taken.append(("seed_begin", frame))
            case SeedChunk():
                self._rig.taken.append(("seed_chunk", frame.sequence))
            case SeedEnd():
                self._rig.taken.append(("seed_end", frame))
            case SeedAborted():
                what = (frame.seed_id, frame.code, frame.what)
                self._rig.taken.append(("seed_stopped", what))


@cache
def _packed(timeline: int, lsn: int, size_bytes: int) -> tuple[bytes, int, int]:
    return pack([sealed_wal(timeline, lsn, size_bytes)])


def _gap_of(place: Place, head: Head) -> GapFound:
    assert head.marker is not None
    return GapFound(
        timeline=place.timeline,
        from_lsn=int(place.lsn),
        available_lsn=head.marker.lsn,
        code=head.marker.code,
        what=head.marker.what,
    )
