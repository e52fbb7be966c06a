"""Looks at everything that happens and compares it with what was promised before.

One `Ledger` per instance holds what the applier has told the outside world.  It is fed from
the wire (acks and welcomes as they are sent), from the disk (every opening of the store), from
the primaries (every status that moves a slot) and from the WAL server (every byte served);
never from what the code under test believes.  Numbers are those of DESIGN.md's invariants.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from applier.operations.record import InstanceRecord
from applier.store.core import open_store
from applier.store.store import Store
from logship.errors import LogshipError
from logship.frames import Ack, Fenced, Welcome, decode_from_applier
from logship.identity import Profile
from logship.lsn import Lsn, Position
from tests.simulation.cluster import SimServer
from tests.simulation.standby import WalReceiver

WHAT_IF_PROBABILITY = 0.06
"""Of looking, after an ack, what a power cut at this very moment would leave."""


class Violation(AssertionError):
    """A promise was broken."""


class Ledger:
    """What was promised of one instance, and the bytes that went with it."""

    def __init__(self) -> None:
        self.servers: list[SimServer] = []
        """Every server that ever wrote this cluster's WAL."""
        self.chain = 0
        self.promised: Position | None = None
        """Of the current chain."""
        self.ever_promised: dict[int, int] = {}
        """By timeline, over all chains: how far a slot may go."""
        self.durable: dict[int, tuple[int, bytearray]] = {}
        """By timeline: bytes of the current chain that were promised, as they were then."""
        self.fenced = False
        """A fence is on the disk."""
        self.fenced_since_start = 0
        """The applier's start during which it came there."""
        self.told_fenced: set[str] = set()
        """The sites whose shippers were sent word of it, in the end since faults stopped."""
        self.opened = False
        self.store: Store | None = None
        self.checked: tuple[int, Position] | None = None

    def begin(self, chain: int) -> None:
        self.chain = chain
        self.promised = None
        self.durable = {}
        self.checked = None


class Checker:
    def __init__(
        self, random: Random, note: Callable[..., None], violations: list[BaseException]
    ) -> None:
        self.violations = violations
        self.ledgers: dict[str, Ledger] = {}
        self.machine: Any = None
        """`world.RecoveryServer`."""
        self.promises = 0
        self.what_ifs = 0
        self._random = random
        self._note = note

    def fail(self, invariant: str, what: str) -> None:
        violation = Violation(f"{invariant}: {what}")
        # Raised where the code under test may catch it, so kept as well.
        self.violations.append(violation)
        raise violation

    def fence_holds(self, name: str) -> bool:
        """From when the fence is on the disk, to the one who asked from when that is known."""
        ledger = self.ledgers[name]
        if not ledger.fenced:
            return False
        instance = self.machine.instances.get(name)
        known = instance is not None and instance.record.fence is not None
        return known or ledger.fenced_since_start != self.machine.starts

    # --- the store --------------------------------------------------------------------------

    def opened(self, name: str, store: Store) -> None:
        """The store was opened and recovered: what is there must be what was promised."""
        ledger = self.ledgers[name]
        ledger.store = store
        self._note("store opened", instance=name, durable=store.durable, chain=len(store.chains))
        if len(store.chains) > ledger.chain:
            # Begun by the very call in which the machine stopped: nothing of it was promised.
            ledger.begin(len(store.chains))
        with self.machine.disk.observed():
            self._compare(ledger, store._core, "after a restart")

    def _compare(self, ledger: Ledger, core: Any, when: str) -> None:
        chain = len(core.chains)
        if chain < ledger.chain:
            self.fail("1", f"{when} chain {ledger.chain} is gone, {chain} is the last")
        if chain > ledger.chain or ledger.promised is None:
            return
        timeline, lsn = ledger.promised
        held = core.positions.end_of(timeline) if core.positions is not None else None
        if held is None or held < lsn or core.positions.durable < ledger.promised:
            self.fail("1", f"{ledger.promised} was acknowledged; {when} there is {held}")
        for number, (start, data) in ledger.durable.items():
            self._compare_bytes(core, number, start, data, when)

    def _compare_bytes(
        self, core: Any, timeline: int, start: int, data: bytearray, when: str
    ) -> None:
        at = start
        while at < start + len(data):
            found = core.read(timeline, at, start + len(data) - at)
            if not found:
                self.fail("1", f"{when} bytes of {timeline} from {Lsn(at)} are gone")
            if found != data[at - start : at - start + len(found)]:
                self.fail("3", f"{when} bytes of {timeline} from {Lsn(at)} on have changed")
            at += len(found)

    def chain_began(self, name: str, store: Store) -> None:
        ledger = self.ledgers[name]
        chain = len(store.chains)
        if chain == ledger.chain:
            return
        self._note("chain begins", instance=name, chain=chain, start=store.start)
        kept = store.durable != store.start
        promised, durable = ledger.promised, ledger.durable
        ledger.begin(chain)
        if kept and promised is not None and store.start is not None:
            ledger.promised = promised
            for timeline, (start, data) in durable.items():
                if timeline == store.start.timeline:
                    cut = max(0, int(store.start.lsn) - start)
                    ledger.durable[timeline] = (start + cut, data[cut:])

    def appending(self, name: str, store: Store) -> tuple[bool, Position | None]:
        return self.fence_holds(name), store.written

    def appended(self, name: str, before: tuple[bool, Any], after: Position | None) -> None:
        fenced, written = before
        if fenced and after != written:
            self.fail("5", f"{name} is fenced and took WAL up to {after}")

    # --- what the applier believes of the primary -------------------------------------------

    def heard(self, name: str, timeline: int, store: Store | None) -> None:
        """The exposure is measured against what a primary on `timeline` just said."""
        written = store.written if store is not None else None
        if written is not None and timeline < written.timeline:
            self.fail("8", f"{name} heard of timeline {timeline}, it holds {written}")

    def checked(self, name: str, profile: Profile, store: Store) -> None:
        """The standby may replay by what `profile` says: it must not be that of a primary from
        before the change that the newest WAL held was written after."""
        if store.written is None:
            return
        line = store.histories().get(store.written.timeline)
        for server in self.ledgers[name].servers:
            for (timeline, lsn), number in server.changes:
                end = store.end_of(timeline)
                fork = line.end_of(timeline) if line is not None else None
                if timeline != store.written.timeline and fork is None:
                    continue
                held = end is not None and min(end, fork or end) > lsn
                if held and profile.max_connections < 100 + number:
                    self.fail(
                        "4",
                        f"{name} is checked by {profile.max_connections}, "
                        f"what it holds from {timeline}:{lsn} on was written with "
                        f"{100 + number}",
                    )

    # --- what the applier says --------------------------------------------------------------

    def said(self, name: str, site: str, parts: Any) -> None:
        """A message to a shipper."""
        frame, _ = decode_from_applier([bytes(part) for part in parts])
        ledger = self.ledgers[name]
        if isinstance(frame, Ack):
            position = Position(frame.timeline, Lsn(frame.durable_lsn))
        elif isinstance(frame, Welcome):
            position = Position(frame.resume_timeline, Lsn(frame.resume_lsn))
            self._note("welcome", instance=name, site=site, resume=position)
        else:
            self._note(type(frame).__name__, instance=name, site=site, frame=frame)
            if isinstance(frame, Fenced):
                ledger.told_fenced.add(site)
            return
        if self.fence_holds(name):
            self.fail("5", f"{name} is fenced and said {type(frame).__name__} {position}")
        if position.lsn:
            self._promise(ledger, name, site, position, rare=isinstance(frame, Welcome))

    def _promise(
        self, ledger: Ledger, name: str, site: str, position: Position, *, rare: bool
    ) -> None:
        store = ledger.store
        assert store is not None
        if ledger.checked == (ledger.chain, position):
            return
        ledger.checked = (ledger.chain, position)
        self._note("promised", instance=name, site=site, position=position)
        timeline, lsn = position
        end = store.end_of(timeline)
        if end is None or end < lsn:
            self.fail("1", f"acknowledged {position}, only {store.written} is written")
        with self.machine.disk.observed():
            self._take_down(ledger, store, position)
        if not any(self._explains(ledger, server, position) for server in ledger.servers):
            self.fail("1", f"acknowledged {position}, but no primary ever flushed these bytes")
        self.promises += 1
        ledger.promised = max(ledger.promised or position, position)
        ledger.ever_promised[timeline] = max(lsn, ledger.ever_promised.get(timeline, 0))
        if rare or self._random.random() < WHAT_IF_PROBABILITY:
            self.what_if_power_fails(name)

    def _take_down(self, ledger: Ledger, store: Store, position: Position) -> None:
        """Keep a copy of what is now promised, on this and on older timelines."""
        chain = store._core.positions
        assert chain is not None
        for timeline, extent in chain.extents.items():
            if timeline > position.timeline:
                continue
            end = int(position.lsn) if timeline == position.timeline else int(extent.end)
            start, data = ledger.durable.setdefault(timeline, (int(extent.start), bytearray()))
            while start + len(data) < end:
                at = start + len(data)
                found = store.read(timeline, at, end - at)
                if not found:
                    self.fail("1", f"{position} was promised, {timeline}:{Lsn(at)} is not there")
                data += found

    def _explains(self, ledger: Ledger, server: SimServer, position: Position) -> bool:
        """Whether the promised bytes are those of this server's line up to `position`."""
        if position.timeline not in server.wal or server.wal[position.timeline].end < position.lsn:
            return False
        line = server.history(position.timeline)
        for timeline, (start, data) in ledger.durable.items():
            if not line.contains(timeline):
                continue
            wal = server.wal.get(timeline)
            end = min(start + len(data), line.end_of(timeline) or position.lsn, position.lsn)
            if wal is None or wal.start > start or wal.end < end:
                return False
            if wal.read(start, end) != data[: end - start]:
                return False
        return True

    def what_if_power_fails(self, name: str) -> None:
        """Recover from a power cut at this moment, on a copy of the disk."""
        ledger = self.ledgers[name]
        if ledger.store is None:
            return
        self.what_ifs += 1
        disk = self.machine.disk.clone(Random(self._random.random()))
        disk.crash()
        store = ledger.store
        try:
            core = open_store(disk, store.directory, store.line, keep_free_bytes=0)
        except LogshipError as error:
            self.fail("1", f"{name} could not be opened after a power cut now: {error}")
        self._compare(ledger, core, "after a power cut now")

    # --- the primaries ----------------------------------------------------------------------

    def slot_moved(self, name: str, server: SimServer, flushed: int) -> None:
        """The shipper reported `flushed` to its primary (invariant 2)."""
        ledger = self.ledgers[name]
        line = server.line
        reached = 0
        for timeline, lsn in ledger.ever_promised.items():
            if line.contains(timeline):
                reached = max(reached, min(lsn, line.end_of(timeline) or lsn))
        if flushed > reached:
            self.fail("2", f"{server.name}'s slot went to {Lsn(flushed)}, acked is {Lsn(reached)}")

    # --- the standbys -----------------------------------------------------------------------

    def served(self, name: str, timeline: int, start: int, data: bytes) -> None:
        """The WAL server sends these bytes to a standby that streams `timeline`."""
        ledger = self.ledgers[name]
        end = start + len(data)
        store = ledger.store
        assert store is not None and store.written is not None
        history = store.histories().get(store.written.timeline)
        fork = history.end_of(timeline) if history is not None else None
        # A standby of a seed before follows its own line until the new one is in place.
        of_this_chain = self.machine.standbys[name].seed_id == store.chains[-1].seed_id
        if of_this_chain and fork is not None and end > fork:
            self.fail("4", f"served {timeline} up to {Lsn(end)}, it ended at {fork}")
        if of_this_chain and history is not None and not history.contains(timeline):
            self.fail("4", f"served {timeline}, the line is {history}")
        for server in ledger.servers:
            wal = server.wal.get(timeline)
            if wal is not None and wal.start <= start and wal.read(start, end) == data:
                break
        else:
            self.fail("1", f"served bytes of {timeline} at {Lsn(start)} that nobody wrote")
        for server in ledger.servers:
            for (changed, lsn), number in server.changes:
                unchecked = 100 + number > self.machine.allowed_connections
                if unchecked and changed == timeline and end > lsn:
                    self.fail("4", f"served {Lsn(end)}; what is from {lsn} on is blocked")

    def received(self, receiver: WalReceiver, timeline: int, start: int, data: bytes) -> None:
        """A standby writes these bytes to its pg_wal."""
        held = receiver.wal.get(timeline)
        if held is not None and start < held.end:
            known = held.read(start, min(held.end, start + len(data)))
            if known != data[: len(known)]:
                self.fail("3", f"{receiver.instance}'s standby got other bytes at {Lsn(start)}")
        history = receiver.history(timeline)
        store = self.ledgers[receiver.instance].store
        assert store is not None
        if history.ancestors and len(store.chains) == 1:
            parent, fork = history.ancestors[-1]
            copy = receiver.wal.get(parent)
            if copy is not None and copy.start <= start < min(fork, copy.end):
                known = copy.read(start, min(fork, copy.end, start + len(data)))
                if known != data[: len(known)]:
                    self.fail("3", f"timeline {timeline}'s copy of {parent} differs")

    def opening(self, receiver: WalReceiver) -> None:
        """The standby is being promoted: it must have all that was promised."""
        ledger = self.ledgers[receiver.instance]
        self._note("opening", instance=receiver.instance, replayed=Lsn(receiver.replayed))
        if not ledger.fenced:
            self.fail("5", f"{receiver.instance} is opened without a fence")
        ledger.opened = True
        if ledger.promised is None:
            return
        timeline, lsn = ledger.promised
        history = receiver.history(receiver.timeline)
        fork = history.end_of(timeline)
        needed = lsn if fork is None else min(lsn, fork)
        if timeline > receiver.timeline or receiver.replayed < needed:
            at = Position(receiver.timeline, Lsn(receiver.replayed))
            self.fail("1", f"opened at {at}, {ledger.promised} was acknowledged")

    def record_saved(self, record: InstanceRecord) -> None:
        ledger = self.ledgers[record.name]
        fenced = record.fence is not None
        if fenced != ledger.fenced:
            self._note("fence", instance=record.name, fenced=fenced)
            ledger.fenced_since_start = self.machine.starts
        if ledger.opened and not fenced:
            self.fail("5", f"{record.name} was opened and its fence is gone")
        ledger.fenced = fenced

    def record_loaded(self, record: InstanceRecord) -> None:
        """At a start: a fence that was durable must be there."""
        self._note("record loaded", instance=record.name, fence=record.fence is not None)
        ledger = self.ledgers[record.name]
        if ledger.fenced and record.fence is None:
            self.fail("5", f"{record.name} was fenced, and after a restart it is not")
        # It may have been written by the very call in which the machine stopped.
        ledger.fenced = record.fence is not None
