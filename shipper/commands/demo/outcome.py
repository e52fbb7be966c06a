"""What came of the demo: the numbers, and whether the promise was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from logship.commandline import print_json


class Outcome(NamedTuple):
    """acknowledged, recovered, lost: transactions.  Seconds are from the promote command."""

    postgres: str
    protection: str
    acknowledged: int
    recovered: int
    lost: int
    transfer_gap_bytes: int | None
    """WAL known to be flushed on the primary and not durable here at the failure."""
    promote_seconds: float
    first_write_seconds: float

    @property
    def kept_its_promise(self) -> bool:
        """`sync` promises that nothing acknowledged is lost; `async` promises the truth."""
        return self.lost == 0 or self.protection == "async"

    @property
    def verdict(self) -> str:
        if self.lost == 0:
            return "no acknowledged transaction was lost"
        if self.protection == "async":
            return f"{self.lost} acknowledged transactions were lost, as async may"
        return f"PROMISE BROKEN: {self.lost} acknowledged transactions were lost under sync"


def show(outcomes: Mapping[str, Outcome], *, as_json: bool, as_list: bool) -> None:
    """outcomes: by the name of the instance.  as_list: also as JSON they are several, however
    many there are."""
    if as_json:
        documents = [{**each._asdict(), "verdict": each.verdict} for each in outcomes.values()]
        print_json({"instances": documents} if as_list else documents[0])
        return
    several = len(outcomes) > 1
    rows = [("", *outcomes)] if several else []
    facts = [_facts(each) for each in outcomes.values()]
    rows += [(label, *(one[label] for one in facts)) for label in facts[0]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {'  '.join(cells)}".rstrip())
    print()
    for name, outcome in outcomes.items():
        print(f"  {f'{name}: ' if several else ''}{outcome.verdict}", flush=True)


def _facts(outcome: Outcome) -> dict[str, str]:
    gap = outcome.transfer_gap_bytes
    return {
        "PostgreSQL": outcome.postgres,
        "protection": outcome.protection,
        "acknowledged": f"{outcome.acknowledged} transactions",
        "recovered": f"{outcome.recovered}",
        "lost": f"{outcome.lost}",
        "transfer gap at the failure": "?" if gap is None else f"{gap} bytes",
        "promoted after": f"{outcome.promote_seconds:.3f} s",
        "first write after": f"{outcome.first_write_seconds:.3f} s",
    }
