"""One writer: who may take the epoch, and who must stop."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from logship.bucket.epoch import CONFIRM_SECONDS, Epoch, Remembered, Writer, decide, this_writer
from logship.bucket.epoch_record import (
    EpochRecord,
    Fence,
    encode_epoch,
    fence_epoch,
    read_epoch,
)
from logship.bucket.keys import Place, epoch_key
from logship.bucket.machine import Machine, this_machine
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore

HOUR = 3600.0


class CountingStore(DirectoryStore):
    """Counts what is asked of it; `before_put` and `after_put` may break it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gets = 0
        self.before_put: list[Callable[[], None]] = []
        self.after_put: list[Callable[[], None]] = []

    def get(self, key: str, **options: Any) -> Any:
        self.gets += 1
        return super().get(key, **options)

    def put(self, key: str, *arguments: Any, **options: Any) -> str:
        if self.before_put:
            self.before_put.pop(0)()
        etag = super().put(key, *arguments, **options)
        if self.after_put:
            self.after_put.pop(0)()
        return etag


class Site:
    """A bucket, and shippers with state directories of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = CountingStore(directory / "bucket")

    def shipper(
        self,
        state: str = "a",
        *,
        shipper_id: str = "ship-a",
        machine: str = "m1",
        host: str = "p1",
        cards: tuple[str, ...] = (),
        cloud: str = "",
    ) -> Epoch:
        """A new process with that state directory."""
        (self.directory / state).mkdir(exist_ok=True)
        writer = Writer(shipper_id, "boot", host, Machine(machine, cards, cloud))
        return Epoch(self.store, "orders", writer, self.directory / state / "epoch.json")

    def clone(self, state: str, copy: str) -> None:
        shutil.copytree(self.directory / state, self.directory / copy)

    @property
    def record(self) -> EpochRecord:
        record, _ = read_epoch(self.store, "orders")
        assert record is not None
        return record


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def refusal(action: Callable[[], None]) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        action()
    assert not caught.value.retryable
    return caught.value


def dies() -> None:
    raise KeyboardInterrupt


def test_the_first_makes_it_and_each_start_advances_it(site: Site) -> None:
    for number in (1, 2, 3):
        epoch = site.shipper()
        epoch.take()
        epoch.confirm_now()
        assert epoch.number == site.record.number == number


def test_taking_it_again_in_one_process_changes_nothing(site: Site) -> None:
    epoch = site.shipper()
    epoch.take()
    before = site.record
    epoch.take()
    assert site.record == before


def test_a_second_shipper_is_refused_and_told_who_holds_it(site: Site) -> None:
    site.shipper().take()
    error = refusal(site.shipper("b", shipper_id="ship-b", host="pg2").take)
    assert error.code is Code.EPOCH_HELD
    assert "ship-a" in error.what
    assert "p1" in error.what
    assert "since 20" in error.what
    assert "--take-over" in error.hint
    assert site.record.number == 1


def test_one_that_lost_it_stops_at_once_says_who_has_it_and_stays_stopped(site: Site) -> None:
    old, new = site.shipper(), site.shipper("b", shipper_id="ship-b", host="pg2")
    old.take()
    new.take(take_over=True)
    new.confirm_now()
    error = refusal(old.confirm_now)
    assert error.code is Code.EPOCH_LOST
    assert "ship-b on pg2" in error.what
    before = site.store.gets
    assert refusal(old.confirm) is error
    assert refusal(old.take) is error
    assert site.store.gets == before, "it asks no more"
    assert refusal(site.shipper().take).code is Code.EPOCH_HELD


def test_it_is_confirmed_at_most_once_a_second(site: Site) -> None:
    epoch = site.shipper()
    epoch.take()
    epoch.confirm(HOUR * 1e6)
    before = site.store.gets
    for step in range(5):
        epoch.confirm(HOUR * 1e6 + step * CONFIRM_SECONDS / 5)
    assert site.store.gets == before
    epoch.confirm(HOUR * 1e6 + CONFIRM_SECONDS)
    assert site.store.gets == before + 1


def test_a_crash_before_the_object_was_written_loses_nothing(site: Site) -> None:
    site.shipper().take()
    site.store.before_put.append(dies)
    with pytest.raises(KeyboardInterrupt):
        site.shipper().take()
    assert site.record.number == 1
    site.shipper().take()
    assert site.record.number == 2


def test_a_crash_after_the_object_was_written_loses_nothing(site: Site) -> None:
    site.shipper().take()
    site.store.after_put.append(dies)
    with pytest.raises(KeyboardInterrupt):
        site.shipper().take()
    assert site.record.number == 2
    site.shipper().take()
    assert site.record.number == 3


def test_crashes_in_a_row_at_both_places_lose_nothing(site: Site) -> None:
    site.shipper().take()
    for places in (site.store.after_put, site.store.before_put, site.store.after_put) * 2:
        places.append(dies)
        with pytest.raises(KeyboardInterrupt):
            site.shipper().take()
    site.shipper().take()


def test_a_first_take_whose_answer_was_lost_is_known_as_ones_own(site: Site) -> None:
    def lost() -> None:
        raise LogshipError(Code.BUCKET_UNREACHABLE, "no answer", retryable=True)

    site.store.after_put.append(lost)
    epoch = site.shipper()
    with pytest.raises(LogshipError, match="no answer"):
        epoch.take()
    epoch.take()
    epoch.confirm_now()


def test_a_put_that_its_own_retry_ran_into_is_ones_own(site: Site) -> None:
    """The store tries a second time because the first answer was lost: the key has changed."""
    epoch = site.shipper()
    epoch.take()
    again = site.shipper()

    def first_try() -> None:
        pending = msgspec.json.decode(
            (site.directory / "a" / "epoch.json").read_bytes(), type=Remembered
        )
        record = EpochRecord(
            number=2, nonce=pending.next_nonce, shipper_id="ship-a", machine="m1", host="p1"
        )
        DirectoryStore(site.directory / "bucket").put(epoch_key("orders"), encode_epoch(record))

    site.store.before_put.append(first_try)
    again.take()
    again.confirm_now()


def test_a_clone_with_older_state_is_refused(site: Site) -> None:
    site.shipper().take()
    site.clone("a", "backup")
    site.shipper().take()
    assert refusal(site.shipper("backup").take).code is Code.EPOCH_HELD


def test_a_clone_on_another_machine_is_refused(site: Site) -> None:
    site.shipper().take()
    site.clone("a", "copy")
    assert refusal(site.shipper("copy", machine="m2").take).code is Code.EPOCH_HELD


@pytest.mark.parametrize(
    ("copied", "taken"),
    [
        ({"cards": ("c1", "c2"), "cloud": "i1"}, True),
        ({"cards": ("c2", "c3"), "cloud": "i1"}, True),
        ({}, True),
        ({"cards": ("c3",), "cloud": "i1"}, False),
        ({"cards": ("c1", "c2"), "cloud": "i2"}, False),
        ({"cards": ("c1", "c2"), "cloud": "i1", "machine": "m2"}, False),
    ],
)
def test_the_image_of_a_disk_on_other_hardware_is_refused(
    site: Site, copied: dict[str, Any], taken: bool
) -> None:
    origin = site.shipper(cards=("c1", "c2"), cloud="i1")
    origin.take()
    site.clone("a", "image")
    copy = site.shipper("image", **copied)
    if taken:
        copy.take()
        return
    assert refusal(copy.take).code is Code.EPOCH_HELD
    origin.confirm_now()
    site.shipper(cards=("c1", "c2"), cloud="i1").take()


def test_who_took_it_before_hardware_was_looked_at_goes_on(site: Site) -> None:
    site.shipper().take()
    site.shipper(cards=("c1",), cloud="i1").take()
    assert (site.record.cards, site.record.cloud) == (("c1",), "i1")


def test_one_that_renounced_it_needs_a_take_over(site: Site) -> None:
    site.shipper().take()
    site.clone("a", "image")
    copy = site.shipper("image")
    copy.look()
    copy.renounce()
    assert refusal(copy.take).code is Code.EPOCH_HELD
    assert refusal(site.shipper("image").take).code is Code.EPOCH_HELD
    site.shipper().take()
    site.shipper("image").take(take_over=True)
    site.shipper("image").take()


def test_that_it_stands_in_is_known_until_the_log_goes_on_or_it_is_renounced(site: Site) -> None:
    end = Place(1, Lsn(0x3000028))
    told = site.shipper()
    assert not told.stands_in(end)
    told.take(take_over=True)
    told.stand_in(end)
    for _ in range(2):
        epoch = site.shipper()
        assert epoch.stands_in(end)
        assert not epoch.stands_in(Place(1, Lsn(0x3000030)))
        epoch.take()
    site.shipper().renounce()
    assert not site.shipper().stands_in(end)


def test_of_two_copies_of_one_state_on_one_machine_only_one_goes_on(site: Site) -> None:
    site.shipper().take()
    site.clone("a", "copy")
    first, second = site.shipper(), site.shipper("copy")
    second.take()
    assert refusal(first.take).code is Code.EPOCH_HELD
    second.confirm_now()


def test_of_copies_that_start_at_the_same_time_exactly_one_goes_on(site: Site) -> None:
    site.shipper().take()
    names = [f"copy{number}" for number in range(6)]
    for name in names:
        site.clone("a", name)

    def take(name: str) -> str:
        try:
            site.shipper(name).take()
        except LogshipError as error:
            return str(error.code)
        return "taken"

    with ThreadPoolExecutor(len(names)) as threads:
        outcomes = sorted(threads.map(take, names))
    assert outcomes == ["epoch-held"] * 5 + ["taken"]
    assert site.record.number == 2


def test_one_that_is_taken_over_while_it_starts_is_refused(site: Site) -> None:
    site.shipper().take()
    site.store.before_put.append(
        lambda: site.shipper("b", shipper_id="ship-b").take(take_over=True)
    )
    assert refusal(site.shipper().take).code is Code.EPOCH_HELD


def test_a_take_over_needs_to_be_told_only_once(site: Site) -> None:
    site.shipper().take()
    site.shipper("b", shipper_id="ship-b").take(take_over=True)
    site.shipper("b", shipper_id="ship-b").take()
    assert site.record.number == 3


def test_a_fence_stops_the_writer_and_no_take_over_helps(site: Site) -> None:
    epoch = site.shipper()
    epoch.take()
    fence_epoch(site.store, "orders", Fence(at=1700000000.0, timeline=2, lsn=0x3000028))
    error = refusal(epoch.confirm_now)
    assert error.code is Code.FENCED
    assert "promoted" in error.what
    assert "0/3000028" in error.what
    assert refusal(epoch.take) is error
    restarted = site.shipper()
    assert refusal(lambda: restarted.take(take_over=True)).code is Code.FENCED
    assert site.record.nonce, "the fence keeps who it was"


def test_a_bucket_without_a_writer_can_be_fenced(site: Site) -> None:
    fence_epoch(site.store, "orders", Fence(at=1.0))
    assert refusal(site.shipper().take).code is Code.FENCED


def test_a_fence_wins_against_a_writer_that_starts(site: Site) -> None:
    site.shipper().take()
    site.store.before_put.append(site.shipper().take)
    fence_epoch(site.store, "orders", Fence(at=1.0))
    assert site.record.fenced == Fence(at=1.0)
    assert site.record.number == 2


def test_an_epoch_object_that_was_removed_gives_nobody_else_the_right(site: Site) -> None:
    epoch = site.shipper()
    epoch.take()
    site.store.delete([epoch_key("orders")])
    epoch.confirm_now()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"number": 1, "format": 2}'])
def test_an_unreadable_epoch_is_nobodys(site: Site, data: bytes) -> None:
    site.store.put(epoch_key("orders"), data)
    assert refusal(site.shipper().take).code is Code.OBJECT_DAMAGED


def test_unreadable_state_is_named(site: Site) -> None:
    site.shipper().take()
    (site.directory / "a" / "epoch.json").write_text("nonsense")
    error = refusal(site.shipper().take)
    assert error.code is Code.SETTINGS
    assert "epoch.json" in error.what


def test_an_empty_nonce_is_never_ones_own() -> None:
    writer = this_writer("s", "b")
    record = EpochRecord(number=1, shipper_id="s", machine=writer.machine.id)
    assert decide(record, writer, Remembered()) == "held"
    assert writer.machine.id
    assert writer.host


# --- the machine --------------------------------------------------------------------------------


def card(root: Path, name: str, address: str, *, kind: str = "0", hardware: bool = True) -> None:
    directory = root / "sys/class/net" / name
    directory.mkdir(parents=True)
    (directory / "address").write_text(f"{address}\n")
    (directory / "addr_assign_type").write_text(f"{kind}\n")
    if hardware:
        (directory / "device").mkdir()


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_machine_is_known_by_its_id_its_cards_and_its_cloud(tmp_path: Path) -> None:
    write(tmp_path, "etc/machine-id", "0123\n")
    card(tmp_path, "eth0", "52:54:00:00:00:01")
    card(tmp_path, "eth1", "52:54:00:00:00:02", kind="1")
    card(tmp_path, "docker0", "02:42:00:00:00:03", hardware=False)
    card(tmp_path, "lo", "00:00:00:00:00:00")
    found = this_machine(tmp_path)
    assert len(found.cards) == 1
    assert not found.cloud
    write(tmp_path, "var/lib/cloud/data/instance-id", "i-1\n")
    at_a_cloud = this_machine(tmp_path)
    assert found.may_be(at_a_cloud)
    assert at_a_cloud.may_be(found)
    write(tmp_path, "sys/class/net/eth0/address", "52:54:00:00:00:09\n")
    assert not this_machine(tmp_path).may_be(at_a_cloud)
    assert "52:54" not in str(at_a_cloud)


def test_a_machine_that_says_nothing_goes_by_its_name(tmp_path: Path) -> None:
    assert this_machine(tmp_path) == Machine(platform.node())
