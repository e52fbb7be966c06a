"""What came of the demo: the numbers, and whether the promise was kept."""

from __future__ import annotations

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


def show(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print_json({**outcome._asdict(), "verdict": outcome.verdict})
        return
    gap = outcome.transfer_gap_bytes
    rows = [
        ("PostgreSQL", outcome.postgres),
        ("protection", outcome.protection),
        ("acknowledged", f"{outcome.acknowledged} transactions"),
        ("recovered", f"{outcome.recovered}"),
        ("lost", f"{outcome.lost}"),
        ("transfer gap at the failure", "?" if gap is None else f"{gap} bytes"),
        ("promoted after", f"{outcome.promote_seconds:.3f} s"),
        ("first write after", f"{outcome.first_write_seconds:.3f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    print(f"\n  {outcome.verdict}", flush=True)
