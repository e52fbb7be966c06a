"""The applier's durable WAL: plain segment files under PostgreSQL's own names.

Imports run downwards:

    store       asyncio shell: which thread writes, which syncs, who shares which flush
    core        chains, histories, spans in, bytes out, synchronously
    segments    open segments: preallocation, writing, the group flush, completion
    recovery    what a directory holds after any crash, from its files alone
    evidence    offered bytes that differ      readers   files that are open to be read
    refusals    the words for each no
    layout      names, the slot at the end of a partial segment, chains.json
    removal     what is left below certain places, and which files go: pure rules
    runs        what is held in one piece over all chains: pure rules
    positions   where WAL fits: pure rules       pages   page checks over any cut: pure

Beside them `commit_times`, the (LSN, time) index of finished segments, and `commit_indexing`,
which keeps it in the background.

Everything below `store` does its I/O through `logship.durable.Disk` and runs as it is over a
simulated one.  docs/store-format.md describes the files.
"""

from applier.store.store import Store

__all__ = ["Store"]
