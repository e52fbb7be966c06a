"""CREATE TABLESPACE in what receivers bring: noted before it is stored, and held."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from unittest import mock

import pytest

from applier.operations.instance import Instance
from applier.operations.tablespaces import ASK_AGAIN_SECONDS, PathPermission
from applier.service import Service
from applier.settings import ApplierSettings
from applier.standby.tablespaces import NOTES_NAME, TablespaceNotes
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin
from logship.postgres.run_as import RunAs
from logship.wal_tablespaces import TablespaceCreated
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.record_factory import RecordFactory
from tests.support.waiting import until
from tests.support.wal_factory import wal_line
from tests.unit.applier.operations.conftest import Listener

START = 4 * SEGMENT_BYTES
SEED = SeedBegin(seed_id="s1", timeline=1, start_lsn=START + 40, estimated_bytes=0)


class Primary:
    """WAL with one such record, from where a seed began."""

    def __init__(self) -> None:
        self.factory = RecordFactory(wal_line(17, SEGMENT_BYTES), START)
        self.factory.filler(100_000)
        self.created = self.factory.create_tablespace(16385, b"/mnt/fast")
        self.end = self.factory.end
        self.factory.filler(100)

    def wal(self, start: int, end: int) -> bytes:
        return bytes(self.factory.data[start - START : end - START])


@pytest.fixture
def primary() -> Primary:
    return Primary()


async def begin(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(flush_lsn=9 * SEGMENT_BYTES), listener)
    await instance.seed_begin(SEED)


def noted(instance: Instance) -> list[TablespaceCreated]:
    return [
        TablespaceCreated(note.start_lsn, note.oid, note.location)
        for note in TablespaceNotes(instance.incarnation_directory).all()
    ]


async def test_a_record_is_noted_before_it_is_stored_and_the_standby_held_before_it(
    instance: Instance, listener: Listener, primary: Primary
) -> None:
    await begin(instance, listener)
    assert instance.store is not None
    half = primary.created.start_lsn + 20
    # Small enough to be written at once, if nothing were in it.
    await instance.wal(1, START, primary.wal(START, half - 100))
    assert instance.wal_at_once(1, half - 100, primary.wal(half - 100, half))
    assert noted(instance) == []
    rest = primary.wal(half, primary.end)
    assert not instance.wal_at_once(1, half, rest)
    assert instance.store.written == (1, half)
    in_the_way = instance.incarnation_directory / NOTES_NAME
    in_the_way.mkdir()
    with pytest.raises(LogshipError) as failed:
        await instance.wal(1, half, rest)
    assert (failed.value.code, failed.value.retryable) == (Code.STANDBY_FAILED, True)
    assert instance.store.written == (1, half), "not noted, so not stored"

    in_the_way.rmdir()
    await instance.wal(1, half, rest)
    assert noted(instance) == [primary.created]
    assert instance.store.written == (1, primary.end)
    assert instance.tablespaces.hold_lsn == primary.created.start_lsn
    with pytest.raises(LogshipError) as refused:
        instance.tablespaces.refuse_unready(primary.end)
    assert refused.value.code == Code.TABLESPACE_PATH
    # A crash may come between the note and the WAL: what never came holds up no promotion.
    instance.tablespaces.refuse_unready(primary.created.start_lsn)


async def test_what_the_next_connection_brings_while_a_note_is_written_is_noted_too(
    instance: Instance, listener: Listener, primary: Primary
) -> None:
    await begin(instance, listener)
    assert instance.tablespaces.notes is not None
    later = primary.factory.create_tablespace(16386, b"/mnt/slow")
    at_disk, may_go_on = threading.Event(), threading.Event()
    real = instance.tablespaces.notes.add

    def slow(*args: Any) -> object:
        at_disk.set()
        may_go_on.wait(60)
        return real(*args)

    with mock.patch.object(instance.tablespaces.notes, "add", slow):
        lost = asyncio.create_task(instance.wal(1, START, primary.wal(START, primary.end)))
        await until(at_disk.is_set, "the first is being noted")
        lost.cancel()
        await asyncio.wait([lost])
        end = primary.factory.end
        again = asyncio.create_task(instance.wal(1, START, primary.wal(START, end)))
        await until(lambda: len(instance.host._to_the_end) == 2, "both are to be noted")
        may_go_on.set()
        await again
    assert noted(instance) == [primary.created, later]
    assert instance.store is not None and instance.store.written == (1, end)
    assert instance.tablespaces.hold_lsn == primary.created.start_lsn


async def test_a_record_of_one_road_is_noted_while_another_brings_wal_without_any(
    instance: Instance, listener: Listener, primary: Primary
) -> None:
    await begin(instance, listener)
    before = primary.created.start_lsn - 100
    await instance.wal(1, START, primary.wal(START, before))
    await asyncio.gather(
        instance.wal(1, before, primary.wal(before, primary.end)),
        instance.wal(1, START, primary.wal(START, before)),
    )
    assert noted(instance) == [primary.created]
    assert instance.store is not None and instance.store.written == (1, primary.end)


@pytest.mark.parametrize("back_bytes", (0, 7, 30))
async def test_a_record_that_a_restart_cuts_in_two_is_found(
    settings: ApplierSettings, listener: Listener, primary: Primary, back_bytes: int
) -> None:
    half = primary.created.start_lsn + 30
    for start, end in ((START, half), (half - back_bytes, primary.end)):
        service = Service(settings)
        await service.open(["orders"])
        instance = service.open_instances["orders"]
        if start == START:
            await begin(instance, listener)
        else:
            await instance.hello(hello(flush_lsn=9 * SEGMENT_BYTES), listener)
        await instance.wal(1, start, primary.wal(start, end))
        await service.close()
    assert noted(instance) == [primary.created]


async def test_after_a_restart_the_standby_is_held_until_it_was_looked_at(
    service: Service,
    instance: Instance,
    listener: Listener,
    primary: Primary,
    settings: ApplierSettings,
) -> None:
    await begin(instance, listener)
    await instance.wal(1, START, primary.wal(START, primary.factory.end))
    await service.close()
    again = Service(settings)
    await again.open(["orders"])
    assert again.open_instances["orders"].tablespaces.hold_lsn == primary.created.start_lsn
    await again.close()


async def test_notes_that_can_not_be_read_stop_the_instance_and_say_so(
    service: Service, instance: Instance, listener: Listener, settings: ApplierSettings
) -> None:
    await begin(instance, listener)
    await service.close()
    (instance.incarnation_directory / NOTES_NAME).write_text("[")
    again = Service(settings)
    await again.open(["orders"])
    failure = again.open_instances["orders"].failure
    assert failure is not None
    assert NOTES_NAME in failure.what
    await again.close()


def test_a_no_is_asked_for_again_and_a_yes_stays() -> None:
    now = 0.0
    answers = ["no", "no", ""]
    permission = PathPermission(
        RunAs("us", 1, 1, (), changes=False), ask=lambda _: answers.pop(0), clock=lambda: now
    )
    assert permission.why_not() == permission.why_not() == "no"
    assert len(answers) == 2
    now = ASK_AGAIN_SECONDS
    assert permission.why_not() == "no"
    now = 2 * ASK_AGAIN_SECONDS
    assert permission.why_not() == ""
    now = 10 * ASK_AGAIN_SECONDS
    assert permission.why_not() == ""


def test_who_does_not_want_private_paths_is_not_asked_for_them() -> None:
    def asked(_: RunAs) -> str:
        raise AssertionError("nobody is to ask")

    permission = PathPermission(RunAs("us", 1, 1, (), changes=False), wanted=False, ask=asked)
    assert permission.why_not() == 'standby.private_paths is "never"'
