"""Which clusters may come in under an instance's name, and what becomes of the one before."""

from __future__ import annotations

import msgspec
import pytest

from applier.compat import Lack
from applier.fleet.places import Volumes
from applier.operations.admission import Standing, standing_of
from applier.operations.kept_incarnations import (
    expired,
    marked_for_removal,
    removed,
    replaced,
    streams_now,
)
from applier.operations.record import Heard, InstanceRecord, KeptIncarnation
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Incarnation, Profile
from tests.support.link_frames import profile

HERE, THERE = Volumes(store="/here", standby="/fast"), Volumes(store="/there")
NOW = 1_700_000_000.0
OLD = profile(system_identifier=16, server_version_num=160014)
SAME_MAJOR = profile(system_identifier=61, server_version_num=160014)
NEW = profile(system_identifier=17, server_version_num=170010)
AGAIN = profile(system_identifier=71, server_version_num=170010)
NEWEST = profile(system_identifier=18, server_version_num=180004)


def kept(of: Profile, **changes: object) -> KeptIncarnation:
    one = KeptIncarnation(incarnation=of.incarnation, profile=of, at=NOW, durable="1:0/3000060")
    return msgspec.structs.replace(one, **changes)


def record(of: Profile | None, *previous: KeptIncarnation, **changes: object) -> InstanceRecord:
    made = InstanceRecord(
        name="orders",
        incarnation=of.incarnation if of else None,
        profile=of,
        previous=previous,
    )
    return msgspec.structs.replace(made, **changes)


def standing(
    found: Profile, known: InstanceRecord, *, is_empty: bool = False, has_standby: bool = True
) -> Standing:
    return standing_of(found.incarnation, known, is_empty=is_empty, has_standby=has_standby)


@pytest.mark.parametrize("known", [record(None), record(OLD), record(OLD, kept(NEW))])
def test_the_first_one_and_the_one_that_it_is_come_in(known: InstanceRecord) -> None:
    assert standing(OLD, known) is Standing.SAME


def test_a_higher_major_is_what_pg_upgrade_makes() -> None:
    assert standing(NEW, record(OLD)) is Standing.SUCCESSOR
    assert standing(NEWEST, record(OLD)) is Standing.SUCCESSOR
    # One whose first seed was still on its way is worth no more than that.
    assert standing(NEW, record(OLD), has_standby=False) is Standing.SUCCESSOR


@pytest.mark.parametrize("found", [OLD, SAME_MAJOR, AGAIN])
def test_a_clone_and_a_lower_major_come_in_only_once_they_are_accepted(found: Profile) -> None:
    with pytest.raises(RefusedError) as caught:
        standing(found, record(NEW))
    assert caught.value.code is Code.SYSTEM_IDENTIFIER_MISMATCH
    assert caught.value.hint.endswith(f": applier accept orders {found.incarnation}")
    assert standing(found, record(NEW, accepted=found.incarnation)) is Standing.SUCCESSOR
    with pytest.raises(RefusedError):
        standing(found, record(NEW, accepted=NEWEST.incarnation))


def test_what_was_set_aside_for_a_promotion_that_came_to_nothing_comes_back() -> None:
    aside = kept(SAME_MAJOR, for_promotion=True)
    assert standing(SAME_MAJOR, record(OLD, aside)) is Standing.SUCCESSOR
    with pytest.raises(RefusedError):
        standing(AGAIN, record(NEW, aside))


def test_nothing_takes_the_place_of_a_first_seed_that_is_on_its_way() -> None:
    with pytest.raises(RefusedError):
        standing(SAME_MAJOR, record(OLD), has_standby=False)
    first_try = standing(SAME_MAJOR, record(OLD), is_empty=True, has_standby=False)
    assert first_try is Standing.IN_PLACE_OF_NOTHING


def test_the_one_of_before_may_come_back_until_its_successor_has_a_standby() -> None:
    known = record(NEW, kept(OLD))
    assert standing(OLD, known, has_standby=False) is Standing.SUCCESSOR
    assert standing(OLD, known, is_empty=True, has_standby=False) is Standing.SUCCESSOR
    with pytest.raises(RefusedError):
        standing(OLD, known)


def test_an_upgrade_may_be_made_again_until_its_first_try_has_a_standby() -> None:
    known = record(NEW, kept(OLD))
    assert standing(AGAIN, known, has_standby=False) is Standing.SUCCESSOR
    with pytest.raises(RefusedError):
        standing(AGAIN, known)


def test_something_else_does_not_slip_in_while_the_successor_is_on_trial() -> None:
    known = record(NEW, kept(OLD))
    with pytest.raises(RefusedError):
        standing(SAME_MAJOR, known, is_empty=True, has_standby=False)


def test_one_that_is_being_removed_has_to_wait() -> None:
    known = record(OLD, kept(NEW, is_removed=True))
    with pytest.raises(LogshipError) as caught:
        standing(NEW, known)
    assert caught.value.retryable


def test_a_higher_major_of_the_same_identifier_is_no_upgrade() -> None:
    """pg_upgrade's cluster has the identifier that its initdb gave it."""
    with pytest.raises(RefusedError) as refused:
        standing(profile(system_identifier=16, server_version_num=170010), record(OLD))
    assert refused.value.code is Code.MAJOR_MISMATCH


def test_the_same_cluster_in_another_major_is_named_by_its_major() -> None:
    other = profile(system_identifier=17, server_version_num=160014)
    with pytest.raises(RefusedError) as caught:
        standing(other, record(NEW))
    assert caught.value.code is Code.MAJOR_MISMATCH


# --- what becomes of the record -------------------------------------------------------------


def after(known: InstanceRecord, changes: dict[str, object]) -> InstanceRecord:
    return msgspec.structs.replace(known, **changes)


def test_there_and_back_nothing_is_forgotten() -> None:
    heard = Heard(timeline=3, lsn=4096, at=NOW - 1)
    lacking = (Lack("preload-libraries", ("pg_cron",)),)
    known = record(
        OLD,
        protection="sync",
        heard=heard,
        held_lsn=4000,
        lacking=lacking,
        bucket_seed_id="b1",
        installation="16.14",
        volumes=HERE,
        accepted=NEW.incarnation,
    )
    there = after(
        known, replaced(known, NEW, volumes=THERE, now=NOW, durable="3:0/1000", has_standby=True)
    )
    assert there.incarnation == NEW.incarnation and there.profile == NEW
    assert (there.heard, there.held_lsn, there.bucket_seed_id) == (None, None, "")
    assert (there.lacking, there.installation, there.volumes) == ((), "", THERE)
    assert there.accepted is None
    (left,) = there.previous
    assert (left.incarnation, left.at, left.durable) == (OLD.incarnation, NOW, "3:0/1000")
    assert not left.is_removed

    back = after(
        there, replaced(there, OLD, volumes=Volumes(), now=NOW + 9, durable="", has_standby=False)
    )
    assert back.incarnation == OLD.incarnation and back.protection == "sync"
    assert (back.heard, back.held_lsn, back.bucket_seed_id) == (heard, 4000, "b1")
    assert (back.lacking, back.installation, back.volumes) == (lacking, "16.14", HERE)
    (left,) = back.previous
    assert left.incarnation == NEW.incarnation
    assert left.is_removed, "it never had a standby"


def test_it_goes_only_after_its_successor_has_been_streaming_for_the_grace_time() -> None:
    known = record(NEW, kept(OLD), kept(NEWEST, for_promotion=True))
    assert expired(known, NOW + 1e9, 60.0) == []
    assert streams_now(known, OLD.incarnation, NOW) == {}, "that was another's standby"
    known = after(known, streams_now(known, NEW.incarnation, NOW))
    known = after(known, streams_now(known, NEW.incarnation, NOW + 50))
    assert expired(known, NOW + 59, 60.0) == []
    assert expired(known, NOW + 60, 60.0) == [OLD.incarnation]
    known = after(known, marked_for_removal(known, [OLD.incarnation]))
    assert expired(known, NOW + 60, 60.0) == [], "it is going already"
    known = after(known, removed(known, OLD.incarnation))
    assert [each.incarnation for each in known.previous] == [NEWEST.incarnation]


def test_a_record_of_before_is_read() -> None:
    plain = msgspec.json.encode({"format": 1, "name": "orders"})
    read = msgspec.json.decode(plain, type=InstanceRecord)
    assert (read.previous, read.accepted, read.installation) == ((), None, "")
    again = msgspec.json.decode(msgspec.json.encode(record(NEW, kept(OLD))), type=InstanceRecord)
    assert again.previous == (kept(OLD),)
    assert again.previous[0].incarnation == Incarnation(16, 16)
