"""Members that are lost, lag, freeze and come back, and shippers that are started anew, in any
order: the slot never passes what is required, and once the faults stop everything arrives."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from tests.unit.shipper.destinations.several.world import World

MODES: dict[str, tuple[Role, SpillRule | None]] = {
    "both": (Role.REQUIRED, None),
    "optional": (Role.OPTIONAL, None),
    "spill": (Role.SPILL, SpillRule(after_bytes=5000, after_seconds=3.0)),
}
NAMES = st.sampled_from(["link", "bucket"])


class SeveralMachine(RuleBasedStateMachine):
    world: World

    @initialize(mode=st.sampled_from(sorted(MODES)))
    def begin(self, mode: str) -> None:
        role, spill = MODES[mode]
        self.world = World({"link": Role.REQUIRED, "bucket": role}, spill)
        self.world.connect()

    @rule(
        seconds=st.sampled_from([1, 4, 10]),
        rate=st.sampled_from([0, 1000, 6000]),
        slow=st.sampled_from(["", "link", "bucket"]),
        checkpoints=st.booleans(),
    )
    def live(self, seconds: int, rate: int, slow: str, checkpoints: bool) -> None:
        self.world.live(seconds, rate, slow=slow, checkpoints=checkpoints)

    @rule(size=st.sampled_from([1, 700, 4000, 20_000]))
    def write(self, size: int) -> None:
        self.world.write(size)

    @rule(times=st.integers(1, 12), hardens=st.none() | NAMES)
    def ship(self, times: int, hardens: str | None) -> None:
        for _ in range(times):
            self.world.step()
            for name in self.world.far:
                self.world.receive(name)
                if name == hardens:
                    self.world.harden(name)

    @rule(seconds=st.integers(4, 12), rate=st.sampled_from([1000, 6000]))
    def cut_the_link_for_long(self, seconds: int, rate: int) -> None:
        self.world.lose("link")
        self.world.live(seconds, rate)
        self.world.far["link"].reachable = True

    @rule(name=NAMES, stays_away=st.booleans())
    def lose(self, name: str, stays_away: bool) -> None:
        self.world.lose(name, reachable=not stays_away)

    @rule(name=NAMES)
    def come_back(self, name: str) -> None:
        self.world.far[name].reachable = True

    @rule(name=NAMES, frozen=st.booleans())
    def freeze(self, name: str, frozen: bool) -> None:
        self.world.far[name].frozen = frozen

    @rule(seconds=st.sampled_from([0.5, 2.5, 6.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def try_again(self) -> None:
        if self.world.running:
            self.world.reconnect()
            self.world.tell()
        else:
            self.world.connect()

    @rule()
    def checkpoint(self) -> None:
        self.world.checkpoint()

    @rule()
    def fill_from_bucket(self) -> None:
        self.world.fill_from_bucket()

    @rule()
    def restart_shipper(self) -> None:
        self.world.restart()

    @invariant()
    def nothing_required_is_lost(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check()
            assert self.world.is_done, self.world.describe()
            link = self.world.far["link"]
            assert link.gap is None, "the link can always be served, or filled from the bucket"


TestSeveral: Any = SeveralMachine.TestCase
TestSeveral.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
