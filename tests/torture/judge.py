"""Compares the server that was promoted with what writers and the primary were told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from logship.lsn import Lsn
from tests.torture.plan import Protection
from tests.torture.writers import Acknowledged

Sql = Callable[..., list[tuple[Any, ...]]]
"""Runs one statement on the promoted server as its superuser."""


class Violation(AssertionError):
    """A promise was broken."""


def judge(
    protection: Protection,
    acknowledged: Sequence[Acknowledged],
    told_durable: Lsn,
    shown: Lsn,
    record: dict[str, Any],
    sql: Sql,
) -> str:
    """Raise Violation, or say in a sentence what was found.

    told_durable: the furthest position that the primary was told to be durable.  shown: the
    furthest that the status showed the primary to have flushed, by the process that promoted.
    record: what the promotion answered.
    """
    durable, opened = Lsn.parse(record["durable_lsn"]), Lsn.parse(record["opened_lsn"])
    if told_durable > durable:
        raise Violation(f"the primary was told {told_durable}, only {durable} was durable")
    check_record(record, durable, shown)
    recovered = _recovered(sql)
    missing = [one for one in acknowledged if one.seq > recovered[one.writer]]
    if protection == "sync" and missing:
        raise Violation(f"acknowledged under sync and not there: {_some(missing)}")
    wrongly = [one for one in missing if one.flushed is not None and one.flushed <= durable]
    if wrongly:
        raise Violation(f"durable here up to {durable} and not there: {_some(wrongly)}")
    _check_whole(sql)
    sql("insert into journal values (-1, 1, '', 'after the promotion')")
    heard = record["heard"]
    return (
        f"{len(acknowledged)} commits acknowledged, {len(missing)} of them lost; durable "
        f"{durable}, opened {opened}, primary last heard "
        f"{Lsn(heard['lsn']) if heard else 'never'}, {record['lost_bytes']} bytes reported lost"
    )


def check_record(record: dict[str, Any], durable: Lsn, shown: Lsn) -> None:
    """Raise Violation if the loss on record is less than what was known by the last contact."""
    heard, lost_bytes = record["heard"], record["lost_bytes"]
    if heard is None:
        raise Violation("the primary was heard, and the record does not know it")
    if shown > max(heard["lsn"], durable):
        raise Violation(f"the status showed {shown}, on record is {Lsn(heard['lsn'])}")
    if lost_bytes != max(0, heard["lsn"] - durable):
        raise Violation(f"heard {Lsn(heard['lsn'])}, durable {durable}: lost is {lost_bytes}?")


def _recovered(sql: Sql) -> defaultdict[int, int]:
    """The last number of each writer; it must have all numbers before it, with their bytes."""
    recovered: defaultdict[int, int] = defaultdict(int)
    for writer, count, last, sound in sql(
        "select writer, count(*), max(seq), bool_and("
        "  digest = md5(writer::text || ':' || seq::text)"
        "  and left(padding, 32) = md5(seq::text) and right(padding, 32) = md5(seq::text))"
        " from journal group by writer"
    ):
        if count != last:
            raise Violation(f"writer {writer} has {count} rows, the last is number {last}")
        if not sound:
            raise Violation(f"rows of writer {writer} have other bytes than were written")
        recovered[writer] = last
    return recovered


def _check_whole(sql: Sql) -> None:
    """Transfers balance, every index agrees with its table, and every page can be read."""
    if sql("select sum(balance) from account") != [(0,)]:
        raise Violation("transfers do not balance: a transaction was recovered in part")
    sql("create extension if not exists amcheck")
    sql(
        "select bt_index_check(index => c.oid, heapallindexed => true)"
        " from pg_class c join pg_index i on i.indexrelid = c.oid"
        " join pg_am a on a.oid = c.relam"
        " where a.amname = 'btree' and c.relpersistence = 'p' and i.indisvalid and i.indisready"
    )


def _some(commits: Sequence[Acknowledged]) -> str:
    shown = ", ".join(
        f"writer {one.writer} number {one.seq} (before {one.flushed})" for one in commits[:5]
    )
    return f"{len(commits)} commits: {shown}"
