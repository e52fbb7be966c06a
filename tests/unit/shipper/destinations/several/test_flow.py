"""What several members are sent, acknowledge and miss: one story each."""

from __future__ import annotations

import msgspec
import pytest

from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn
from shipper.destinations import Accepted, Acked, Rewind
from shipper.destinations.several.commands import (
    Command,
    Connect,
    GoOnAt,
    Hole,
    SendHistory,
    SkipTo,
    Up,
)
from shipper.destinations.several.flow import Flow
from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from shipper.destinations.several.turns import TURN_SECONDS
from tests.support.link_frames import at, profile
from tests.unit.shipper.destinations.several.world import FarEnd, S, World, lost

RULE = SpillRule(after_bytes=20_000, after_seconds=5.0)


def both(role: Role = Role.REQUIRED) -> World:
    world = World({"link": Role.REQUIRED, "bucket": role})
    assert world.connect()
    return world


def spilling_world() -> World:
    """The link is away for longer than it may, under load, and the primary forgets WAL."""
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.live(3, 2000)
    world.lose("link")
    world.live(30, 4000)
    return world


def said(world: World, event: str) -> list[dict[str, str]]:
    return [dict(each.fields) for each in world.said if event in each.event]


# --- places ---------------------------------------------------------------------------------


def test_reading_starts_at_the_least_place_and_each_gets_what_it_lacks() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.REQUIRED})
    world.far["link"].runs[0][1] = S + 1500
    world.write(5000)
    world.connect()
    assert world.reads_from == S
    # The span that straddles the link's place is cut: each end would refuse what does not fit.
    world.settle()
    assert world.far["link"].durable == world.far["bucket"].durable == S + 5000


def test_a_span_is_cut_for_the_member_that_has_its_beginning() -> None:
    world = both()
    world.write(5000)
    world.tell()
    world.flow.rewound("bucket", at(1, S))
    world.flow.members["link"].next = at(1, S + 300)
    asked = frozenset({"link", "bucket"})
    assert world.flow.resumed(at(1, S)) == []
    pieces = world.flow.pieces(1, S, 1000, S + 1000, asked)
    assert pieces == [("link", 300), ("bucket", 0)]


def test_one_that_comes_back_further_behind_sets_the_whole_back_and_the_others_go_on() -> None:
    world = both()
    world.live(2, 4000)
    world.lose("bucket")
    world.live(5, 4000, checkpoints=False)
    link_had = world.far["link"].durable
    world.far["bucket"].reachable = True
    world.reconnect()
    assert world.reads_from == world.far["bucket"].durable < link_had
    world.settle()
    assert world.is_done


def test_wal_that_nobody_needs_any_more_is_not_read() -> None:
    world = both(Role.OPTIONAL)
    world.lose("bucket")
    world.write(40 << 20)
    far = world.far["link"]
    far.runs[0][1] = far.end = S + (30 << 20)
    world.far["bucket"].reachable = True
    world.restart()
    world.connect()
    assert world.reads_from == S
    world.lose("bucket")
    assert world.reads_from == S + (30 << 20)


def test_two_that_are_far_apart_take_turns() -> None:
    world = both()
    world.lose("bucket")
    world.live(20, 8000, checkpoints=False)
    world.far["bucket"].reachable = True
    world.write(10_000)
    world.reconnect()
    before = world.far["link"].durable
    behind = world.reads_from
    assert behind is not None and behind < before
    world.tell()
    world.flow.tick(world.now)
    world.pass_time(TURN_SECONDS + 0.1)
    assert world.reads_from == before, "the link's turn"
    world.pass_time(TURN_SECONDS + 0.1)
    assert world.reads_from == behind, "and the bucket's"


# --- acknowledgements -----------------------------------------------------------------------


def test_the_slot_follows_the_least_of_the_required() -> None:
    world = both()
    world.write(3000)
    for _ in range(3):
        world.step()
    world.harden("link")
    assert world.slot == S
    world.harden("bucket")
    assert world.slot == S + 3000


def test_an_optional_one_does_not_hold_the_slot() -> None:
    world = both(Role.OPTIONAL)
    world.lose("bucket")
    world.live(5, 2000)
    assert world.slot == world.flush


def test_a_lost_required_one_holds_the_slot_and_the_others_go_on() -> None:
    world = both()
    world.live(2, 2000)
    held = world.slot
    world.lose("link")
    world.live(5, 2000)
    assert world.slot == held
    assert world.far["bucket"].durable == world.flush


def test_the_slot_waits_for_a_required_one_that_was_never_reached() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.REQUIRED})
    world.far["bucket"].reachable = False
    world.live(5, 2000)
    assert world.far["link"].durable == world.flush
    assert world.slot == S


def test_a_seed_that_begins_takes_back_what_its_member_acknowledged() -> None:
    world = both()
    world.live(2, 2000)
    world.flow.seed_began(["link"])
    commands = world.flow.acked("bucket", Acked(at(1, 9 * S), at(1, 9 * S), Lsn(0)))
    assert not [each for each in commands if isinstance(each, Up)]


def test_what_is_received_and_applied_is_the_links_word() -> None:
    world = both()
    world.write(5000)
    for _ in range(3):
        world.step()
    world.flow.acked("bucket", Acked(at(1, S + 1000), at(1, S + 1000), Lsn(0)))
    link = Acked(at(1, S + 3000), at(1, S + 2000), Lsn(S + 500))
    assert world.flow.acked("link", link) == [
        Up(Acked(at(1, S + 3000), at(1, S + 1000), Lsn(S + 500)))
    ]


def test_a_slot_that_nothing_could_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to follow"):
        Flow({"link": Role.OPTIONAL, "bucket": Role.OPTIONAL}, now=0.0)
    with pytest.raises(ValueError, match="nothing to follow"):
        Flow({"link": Role.OPTIONAL, "bucket": Role.SPILL}, spill=RULE, now=0.0)


# --- waiting --------------------------------------------------------------------------------


def test_an_optional_one_that_takes_nothing_is_left_behind_named_and_taken_up_again() -> None:
    world = both(Role.OPTIONAL)
    world.far["bucket"].frozen = True
    world.live(40, 4000, checkpoints=False)
    assert world.far["link"].durable == world.flush, "the link goes on"
    assert said(world, "left behind")[0]["destination"] == "bucket"
    (road,) = world.flow.roads("link")
    assert (road.name, road.state, road.role) == ("bucket", "behind", "optional")
    assert "1 times" in road.what
    world.settle()
    assert world.is_done
    assert said(world, "has caught up") == [{"destination": "bucket"}]
    assert world.flow.roads("link")[0].state == "connected"


def test_a_required_one_that_takes_nothing_is_waited_for() -> None:
    world = both()
    world.far["link"].frozen = True
    world.live(40, 4000)
    assert world.far["bucket"].end < world.flush
    assert said(world, "left behind") == []
    world.settle()
    assert world.is_done


# --- holes ----------------------------------------------------------------------------------


def test_what_one_misses_and_the_primary_has_no_more_does_not_stop_the_others() -> None:
    world = both(Role.OPTIONAL)
    world.live(2, 4000)
    had = world.far["bucket"].durable
    world.lose("bucket")
    world.live(10, 4000)
    world.far["bucket"].reachable = True
    world.live(5, 4000)
    (gap,) = world.far["bucket"].gaps
    assert (gap.from_lsn, gap.code) == (had, "wal-removed")
    assert world.far["link"].gaps == []
    assert world.far["link"].durable == world.flush
    (road,) = world.flow.roads("link")
    assert (road.state, road.since_lsn, road.available_lsn) == ("gap", had, gap.available_lsn)


def test_a_seed_ends_a_hole() -> None:
    world = both(Role.OPTIONAL)
    world.lose("bucket")
    world.live(10, 4000)
    world.far["bucket"].reachable = True
    world.live(3, 4000)
    far = world.far["bucket"]
    assert far.gap is not None
    start = world.flush
    far.runs.append([start, start])
    world._do(world.flow.rewound("bucket", at(1, start)))
    world.live(3, 4000)
    assert far.durable == world.flush


def test_one_that_has_wal_the_primary_never_wrote_is_not_sent_what_it_writes_now() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.REQUIRED})
    world.far["link"].runs[0][1] = S + 9000
    world.write(4000)
    world.connect()
    (gap,) = world.far["link"].gaps
    assert (gap.code, gap.from_lsn) == ("primary-behind", S + 9000)
    world.live(5, 4000)
    assert world.far["link"].durable == S + 9000
    assert world.far["bucket"].durable == world.flush


def test_one_on_a_timeline_that_the_primarys_does_not_descend_from_gets_nothing_of_it() -> None:
    world = both()
    world.flow.members["link"].next = at(2, S + 500)
    content = b"1\t0/9000\tno recovery target specified\n"
    commands = world.flow.history(3, content)
    assert SendHistory("link", 3, content) in commands
    assert SendHistory("bucket", 3, content) in commands
    (hole,) = [each for each in commands if isinstance(each, Hole)]
    assert (hole.name, hole.gap.code) == ("link", "timeline-diverged")


def test_a_later_member_is_given_the_histories_that_it_lacks() -> None:
    world = both()
    world.lose("bucket")
    content = b"1\t0/9000\tno recovery target specified\n"
    world.flow.history(2, content)
    accepted = Accepted(at(1, S), frozenset(), False, 1 << 20, durable=at(1, S))
    commands = world.flow.connected("bucket", accepted, world.facts, world.now)
    assert commands[:2] == [SendHistory("bucket", 2, content), GoOnAt("bucket", at(1, S))]


def test_a_new_timeline_is_opened_where_its_first_segment_begins() -> None:
    world = both()
    world.write(3000)
    world.settle()
    world.flow.history(2, b"1\t0/2BB8\tno recovery target specified\n")
    pieces = world.flow.pieces(2, S, 4000, S + 4000, frozenset({"link", "bucket"}))
    assert pieces == [("link", 0), ("bucket", 0)]
    commands = world.flow.acked("link", Acked(at(2, S + 4000), at(2, S + 4000), Lsn(0)))
    (up,) = commands
    assert isinstance(up, Up) and isinstance(up.event, Acked)
    assert up.event.durable == at(1, S + 3000), "what the bucket has, on timeline 1"


def test_a_gap_at_a_place_that_is_of_no_matter_any_more_is_tried_anew() -> None:
    world = both()
    world.write(5000)
    world.step()
    gap = GapFound(timeline=1, from_lsn=S + 777, available_lsn=0, code="wal-removed", what="")
    assert world.flow.gap(gap) == [Up(Rewind(at(1, S + 1000), "there is a place to go on from"))]


# --- spilling -------------------------------------------------------------------------------


def test_a_link_that_is_down_for_long_is_stood_in_for_and_the_slot_goes_on() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.live(3, 2000)
    world.lose("link")
    world.live(3, 2000)
    assert world.far["bucket"].connects == 0
    held = world.slot
    world.live(10, 2000)
    assert world.slot == world.flush > held
    assert said(world, "spilling to the bucket")
    (road,) = world.flow.roads("link")
    assert (road.state, road.since_lsn, road.durable_lsn) == ("spilling", held, world.flush)


def test_a_link_that_is_down_while_nothing_is_written_needs_no_bucket() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.live(3, 2000)
    world.settle()
    world.lose("link")
    for _ in range(100):
        world.pass_time(1.0)
        world.connect()
    assert world.far["bucket"].connects == 0


def test_a_link_that_owes_too_much_is_stood_in_for() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.far["link"].frozen = True
    world.live(30, 4000)
    assert world.far["bucket"].durable == world.flush
    assert world.slot == world.flush
    world.settle()
    assert world.is_done
    assert world.far["bucket"].connected is False, "it is needed no more"
    assert world.flow.roads("link")[0].state == "idle"


def test_a_link_that_comes_back_is_served_by_the_primary_while_that_has_the_wal() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.live(3, 2000)
    world.lose("link")
    world.live(15, 2000, checkpoints=False)
    world.far["link"].reachable = True
    world.settle()
    assert world.is_done
    assert world.far["link"].gaps == []
    assert said(world, "spilling is over")


def test_a_link_that_comes_back_too_late_is_told_what_lies_in_the_bucket() -> None:
    world = spilling_world()
    link = world.far["link"]
    had = link.durable
    link.reachable = True
    world.live(2, 4000)
    gap = link.gaps[0]
    assert (gap.code, gap.from_lsn) == ("wal-in-bucket", had)
    assert had < gap.available_lsn <= world.far["bucket"].durable
    (road,) = world.flow.roads("bucket")
    assert (road.name, road.state, road.since_lsn) == ("link", "gap", had)
    world.settle()
    assert world.is_done
    assert said(world, "spilling is over")


@pytest.mark.parametrize("link_comes_back", [False, True])
def test_a_shipper_that_starts_anew_in_the_middle_goes_on(link_comes_back: bool) -> None:
    world = spilling_world()
    world.far["link"].reachable = link_comes_back
    before = world.slot
    world.restart()
    world.live(12, 2000)
    if not link_comes_back:
        assert world.slot == world.flush > before
        assert len(world.far["bucket"].runs) == 1, "it goes on where it was"
    world.settle()
    assert world.is_done
    assert [gap.code for gap in world.far["link"].gaps[:1]] == ["wal-in-bucket"]


def test_after_a_restart_nothing_is_acknowledged_across_what_may_be_a_hole() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, SpillRule(100, 0.0))
    flow, bucket = world.flow, world.flow.members["bucket"]
    facts = world.facts._replace(flush_lsn=Lsn(9 * S))
    flow.begin(facts, world.now)
    link_has = Accepted(at(1, 3 * S), frozenset(), False, 1 << 20, at(1, 3 * S))
    flow.connected("link", link_has, facts, world.now)
    flow.accepted()
    flow.told(facts, world.now)
    flow.tick(world.now)
    # Its log has a hole somewhere before that: a former process skipped what was gone.
    spilled = Accepted(at(1, 8 * S), frozenset(), False, 1 << 20, at(1, 8 * S))
    commands = flow.connected("bucket", spilled, facts, world.now)
    commands += flow.acked("bucket", Acked(at(1, 9 * S), at(1, 9 * S), Lsn(0)))
    told = [each.event for each in commands if isinstance(each, Up)]
    assert [each for each in told if isinstance(each, Acked) and each.durable > at(1, 3 * S)] == []
    assert bucket.durable == at(1, 9 * S)
    # What this process has added goes on from what the link has by then.
    caught_up = Acked(at(1, 8 * S), at(1, 8 * S), Lsn(0))
    (up,) = flow.acked("link", caught_up)
    assert isinstance(up, Up) and isinstance(up.event, Acked)
    assert up.event.durable == at(1, 9 * S)


def test_a_link_that_comes_late_and_has_nothing_yet_needs_a_seed_and_no_spill() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.far["link"] = FarEnd(None)
    world.far["link"].reachable = False
    world.slot = 0
    world.now += 10.0
    assert world.connect()
    assert world.far["bucket"].connected
    world.far["link"].reachable = True
    world.reconnect()
    world.tell()
    world.pass_time(1.0)
    assert not world.far["bucket"].connected
    assert world.far["bucket"].runs == []
    assert world.said == []


def test_without_a_slot_a_spill_goes_on_at_its_own_end() -> None:
    world = spilling_world()
    end = world.far["bucket"].durable
    world.restart()
    world.now += 60.0
    assert world.connect()
    world.flow.members["bucket"].next = None
    facts = world.facts._replace(slot_restart_lsn=Lsn(0))
    assert GoOnAt("bucket", at(1, end)) in world.flow.told(facts, world.now)


def test_the_slot_goes_on_though_the_primary_can_not_be_asked_where_it_is() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    assert world.connect()
    world.write(3 * S)
    while world.step():
        world.harden("link")
    unknown = world.facts._replace(slot_restart_lsn=None)
    world.flow.told(unknown, world.now)
    acked = Acked(at(1, 5 * S), at(1, 5 * S), Lsn(0))
    assert world.flow.acked("link", acked) == [Up(acked)]
    # What was acknowledged since counts too: the slot is there by now.
    back = Accepted(at(1, 4 * S), frozenset(), False, 1 << 20, at(1, 4 * S))
    world.flow.lost("link", lost(), world.now)
    commands = world.flow.connected("link", back, unknown, world.now)
    assert not [each for each in commands if isinstance(each, Up) and isinstance(each.event, Acked)]
    # Another cluster has another slot.
    other = unknown._replace(profile=profile(system_identifier=77, wal_segment_size=S))
    world.flow.told(other, world.now)
    assert world.flow.acked("link", Acked(at(1, 6 * S), at(1, 6 * S), Lsn(0))) == []


def test_an_archive_is_spilled_and_acknowledged_while_its_primary_is_away() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    away = world.facts._replace(reachable=False, flush_lsn=Lsn(0), slot_restart_lsn=None)
    world.flow.begin(away, world.now)
    there = Accepted(at(1, S), frozenset(), False, 1 << 20, at(1, S))
    world.flow.connected("link", there, away, world.now)
    assert world.flow.accepted() == there
    world.flow.told(away, world.now)
    acked = Acked(at(1, 2 * S), at(1, 2 * S), Lsn(0))
    assert world.flow.acked("link", acked) == [Up(acked)]
    world.flow.lost("link", lost(), world.now)
    world.now += 60.0
    archived = away._replace(flush_lsn=Lsn(3 * S))
    assert Connect("bucket") in world.flow.begin(archived, world.now)


def test_the_least_that_an_away_primary_wrote_makes_nobody_be_ahead_of_it() -> None:
    world = both(Role.OPTIONAL)
    away = world.facts._replace(reachable=False, flush_lsn=Lsn(2 * S))
    world.flow.begin(away, world.now)
    for name, lsn in (("link", 6 * S), ("bucket", 2 * S)):
        there = Accepted(at(1, lsn), frozenset(), False, 1 << 20, at(1, lsn))
        world.flow.connected(name, there, away, world.now)
    world.flow.accepted()
    assert world.flow.resumed(at(1, 2 * S)) == []


def test_a_second_spill_begins_with_what_the_link_has_by_then() -> None:
    world = spilling_world()
    world.settle()
    link_had = world.far["link"].durable
    world.live(20, 2000)
    assert world.far["link"].durable > link_had
    world.lose("link")
    world.live(20, 2000)
    assert len(world.far["bucket"].runs) == 2
    assert world.slot == world.flush
    world.settle()
    assert world.is_done


def test_a_second_spill_in_the_segment_where_the_first_ended_goes_on_there() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.lose("link")
    world.live(12, 100)
    world.settle()
    had = world.far["bucket"].durable
    world.live(4, 100)
    assert S < had < world.far["link"].durable < 2 * S
    world.lose("link")
    world.live(12, 100)
    assert world.far["bucket"].runs == [[S, world.flush]]
    world.settle()
    assert world.is_done


def test_what_is_nowhere_is_a_hole_that_only_a_seed_ends() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.live(2, 2000)
    had = world.far["link"].durable
    # As after max_slot_wal_keep_size, or with another disk at the applier.
    world.lose("link")
    world.write(50_000)
    world.kept_from = S + 40_960
    world.slot = world.kept_from
    world.far["link"].reachable = True
    world.restart()
    world.check = lambda: None  # type: ignore[method-assign]
    world.connect()
    for _ in range(5):
        world.step()
        world.reconnect()
    (gap,) = world.far["link"].gaps
    assert (gap.code, gap.from_lsn) == ("wal-removed", had)


def test_a_bucket_that_is_away_too_is_tried_on_and_the_slot_holds() -> None:
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, RULE)
    world.connect()
    world.live(3, 2000)
    held = world.slot
    world.far["bucket"].refusal = LogshipError(Code.EPOCH_HELD, "another one writes", "stop it")
    world.lose("link")
    world.live(20, 2000)
    assert world.slot == held
    (road,) = world.flow.roads("link")
    assert (road.state, road.what) == ("refused", "another one writes")
    world.settle()
    assert world.is_done


def on_timeline_two(*, bucket_at: int, slot: int, fork: int = 0) -> World:
    """The link is away, the primary was promoted at `fork`, the bucket is still before that."""
    world = World({"link": Role.REQUIRED, "bucket": Role.SPILL}, SpillRule(100, 0.0))
    facts = world.facts._replace(
        timeline=2, flush_lsn=Lsn(20 * S), slot_restart_lsn=Lsn(slot), reachable=True
    )
    flow = world.flow
    flow.begin(facts, world.now)
    flow.told(facts, world.now)
    if fork:
        flow.history(2, f"1\t{Lsn(fork)}\tno reason\n".encode())
    assert flow.spill is not None
    if not flow.spill.active:
        flow.spill.begin("the link is down")
    end = at(1, bucket_at)
    flow.connected("bucket", Accepted(end, frozenset(), False, 1 << 20, end), facts, world.now)
    flow.accepted()
    return world


def test_a_spill_does_not_skip_what_is_of_another_line() -> None:
    world = on_timeline_two(bucket_at=3 * S, slot=5 * S + 70)
    bucket = world.flow.members["bucket"]
    assert bucket.next == at(1, 3 * S)
    world.flow.resumed(at(1, 3 * S))
    gap = GapFound(
        timeline=1,
        from_lsn=3 * S,
        available_lsn=5 * S + 70,
        code=str(Code.TIMELINE_DIVERGED),
        what="it is on another line",
    )
    commands = world.flow.gap(gap)
    assert Hole("bucket", gap) in commands
    assert not [each for each in commands if isinstance(each, SkipTo)]
    assert bucket.gap == gap


def test_a_spill_skips_once_to_the_segment_that_the_primary_has() -> None:
    world = on_timeline_two(bucket_at=3 * S, slot=3 * S, fork=9 * S)
    flow, bucket = world.flow, world.flow.members["bucket"]
    flow.resumed(at(1, 3 * S))
    gap = GapFound(
        timeline=1,
        from_lsn=3 * S,
        available_lsn=5 * S + 70,
        code=str(Code.WAL_REMOVED),
        what="it is gone",
    )
    assert SkipTo("bucket", at(1, 5 * S), "it is gone") in flow.gap(gap)
    flow.skipped("bucket", at(1, 5 * S))
    flow.resumed(at(1, 5 * S))
    again = msgspec.structs.replace(gap, from_lsn=5 * S)
    assert Hole("bucket", again) in flow.gap(again)
    assert bucket.gap == again


def test_a_slot_before_the_switch_is_on_the_old_timeline() -> None:
    why = "the link has everything up to "

    def places(slot: int, fork: int) -> list[Command]:
        spill = on_timeline_two(bucket_at=2 * S, slot=slot, fork=fork).flow.spill
        assert spill is not None
        return spill.place()

    old, new = at(1, 5 * S + 70), at(2, 9 * S + 70)
    assert places(old.lsn, 9 * S) == [SkipTo("bucket", old, f"{why}{old}")]
    assert places(new.lsn, 9 * S) == [SkipTo("bucket", new, f"{why}{new}")]
    assert places(old.lsn, 0) == [GoOnAt("bucket", at(1, 2 * S))], "its own end"
