"""The steps of a long command, shown as they are made."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Counts seconds from when it was made.  With --json it prints on standard error, as the
    result must be alone."""

    def __init__(self, *, as_json: bool) -> None:
        self._out = sys.stderr if as_json else sys.stdout
        self._started = time.monotonic()

    def step(self, step: str, details: dict[str, Any]) -> None:
        shown = ", ".join(f"{key} {value}" for key, value in details.items())
        seconds = time.monotonic() - self._started
        self._print(f"{seconds:7.1f} s  {step}" + (f" ({shown})" if shown else ""))

    def line(self, line: str) -> None:
        """What belongs to the last step."""
        self._print(f"           {line}")

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)
