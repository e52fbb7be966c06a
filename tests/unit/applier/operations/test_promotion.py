"""A promotion says what is lost, is never beside another, and waits for nobody who is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.compat import Finding, Outcome, Verdict
from applier.operations.instance import Instance
from applier.operations.promotion import describe_loss, promote
from logship.errors import Code, RefusedError
from logship.frames import SeedBegin
from logship.postgres.installations import Installation
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import Listener, promotion

S = SEGMENT_BYTES


# --- what is said of the loss ---------------------------------------------------------------


def test_no_known_loss_is_not_called_no_loss() -> None:
    said = describe_loss(promotion())
    assert said.startswith("nothing that was known")
    assert "2023-11-14 22:13:20Z" in said and "0/3000060" in said
    assert said.endswith("what it wrote after that is not known")


def test_a_loss_is_counted_and_says_from_where_to_where() -> None:
    said = describe_loss(promotion(lost_bytes=56, durable_lsn=0x3000028))
    assert said.startswith("56 bytes of WAL")
    assert "0/3000060" in said and "0/3000028" in said


def test_a_primary_that_was_never_heard_leaves_the_loss_unknown() -> None:
    said = describe_loss(promotion(heard=None, lost_bytes=None))
    assert said.startswith("not known")
    assert "never heard" in said


def test_timelines_that_can_t_be_compared_leave_the_loss_unknown_too() -> None:
    said = describe_loss(promotion(lost_bytes=None))
    assert said.startswith("not known")
    assert "0/3000060" in said, "what is known is said"


def test_a_record_cut_in_two_is_named() -> None:
    assert "17 bytes are no complete record" in describe_loss(promotion(unreplayed_bytes=17))


def test_what_a_bucket_may_still_have_is_said() -> None:
    said = describe_loss(promotion(bucket="the bucket may have more: why"))
    assert said.startswith("nothing that was known")
    assert said.endswith("; the bucket may have more: why")


# --- whether it may begin -------------------------------------------------------------------


async def test_nothing_is_fenced_when_nothing_can_be_opened(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    with pytest.raises(RefusedError) as caught:
        await promote(instance, lambda step, facts: None)
    assert caught.value.code is Code.PROMOTE_REFUSED
    assert instance.record.fence is None
    assert not [name for name, _ in listener.told if name == "fenced"]


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("minor-order", 'mend it; or, at your own risk, override it: overrides = ["minor-order"]'),
        ("system-identifier", "mend it"),
    ],
)
async def test_what_the_version_check_blocks_is_refused_with_what_mends_it(
    instance: Instance, listener: Listener, rule: str, hint: str
) -> None:
    await instance.hello(hello(), listener)
    version_check = instance.following._version_check
    version_check.installation = Installation(Path("/x"), 170009, "configured")
    version_check.verdict = Verdict((Finding(rule, Outcome.BLOCK, "17.9", "", "why", "mend it"),))
    with pytest.raises(RefusedError) as caught:
        version_check.refuse_promotion()
    assert caught.value.what.endswith(f"blocked: {rule} (17.9 / -)")
    assert caught.value.hint == hint


async def test_a_second_promotion_beside_the_first_is_refused_and_harms_nothing(
    instance: Instance, listener: Listener
) -> None:
    """It would take the fence of the first one back when it fails."""
    await instance.hello(hello(), listener)
    async with instance.promotion_turn:
        await instance.fence("promotion")
        with pytest.raises(RefusedError) as caught:
            await promote(instance, lambda step, facts: None)
        assert caught.value.code is Code.PROMOTE_REFUSED
        assert "running" in caught.value.what
        assert instance.record.fence is not None


async def test_a_seed_stands_in_the_way_only_while_its_sender_is_there(
    instance: Instance, listener: Listener
) -> None:
    """The day the primary dies in the middle of a seed is the day to promote the old standby."""
    await instance.hello(hello(), listener)
    await instance.seed_begin(
        SeedBegin(seed_id="s1", timeline=1, start_lsn=4 * S + 40, estimated_bytes=0)
    )
    assert not instance.arrival.give_up_abandoned(connected=instance.is_connected)
    assert instance.arrival.seeder is not None
    instance.lost(listener, "the primary's host is gone")
    assert instance.arrival.give_up_abandoned(connected=instance.is_connected)
    await until(lambda: instance.arrival.seeder is None, "it is given up")
