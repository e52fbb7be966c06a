"""The standbys below an applier's directory: which there are, and their end.

Takes `directory` (the applier's), `instance` and `stop`.  Answers with `standbys`: for each the
`incarnation`, its `directory` (`data` and `wal` are in it), and whether it `runs` now.  With
`stop` those that ran were stopped in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logship.postgres.postmaster import running_postmaster
from logship.postgres.process import stop_server
from logship.rehearsal.inside.speaking import answer

STOP_SECONDS = 60.0


def look(told: Mapping[str, Any]) -> dict[str, Any]:
    home = Path(told["directory"]) / "instances" / told["instance"]
    standbys = []
    for data in sorted(home.glob("*-*/data")):
        if told["stop"]:
            stop_server(data, "fast", STOP_SECONDS)
        standbys.append(
            {
                "incarnation": data.parent.name,
                "directory": str(data.parent),
                "runs": running_postmaster(data) is not None,
            }
        )
    return {"standbys": standbys}


if __name__ == "__main__":
    raise SystemExit(answer(look))
