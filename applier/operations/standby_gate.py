"""How far a standby may be given WAL.  Reads the store's memory, and has no other I/O."""

from __future__ import annotations

from applier.store import Store
from applier.walserver.gate import OPEN_GATE, Gate
from logship.lsn import Lsn


def gate_of(
    store: Store,
    *,
    passes: bool,
    held_lsn: int | None,
    seed_id: str | None,
    unready_lsn: Lsn | None,
) -> Gate:
    """The gate of the standby that streams from `store`.

    passes: whether the version check lets it replay.  held_lsn: from where on WAL was not checked;
    None: nothing is noted.  seed_id: what it runs on; None: nothing.  unready_lsn: where it would
    come to a tablespace that it can't follow yet; None: nowhere.
    """
    gate = _gate_of_chain(store, seed_id) if passes else _gate_of_check(store, held_lsn)
    return gate if unready_lsn is None else Gate(hold_at_lsn=gate.limit(0.0, unready_lsn))


def _gate_of_check(store: Store, held_lsn: int | None) -> Gate:
    if held_lsn is not None:
        return Gate(hold_at_lsn=Lsn(held_lsn))
    written = store.written
    return Gate(hold_at_lsn=written.lsn if written is not None else Lsn(0))


def _gate_of_chain(store: Store, seed_id: str | None) -> Gate:
    """Open, but for a standby whose chain of WAL ended in a gap: it must not learn of a
    timeline that forked inside the gap, or its own promotion would write a false history."""
    if seed_id is None or seed_id == store.current_seed_id:
        return OPEN_GATE
    end = store.durable_of(seed_id)
    if end is None or end == store.durable:
        return OPEN_GATE
    return Gate(hold_at_lsn=end.lsn)
