"""What a standby tells operators of itself."""

from __future__ import annotations

from typing import NamedTuple

from applier.standby.life import LifeState


class StandbyStatus(NamedTuple):
    """For operators.  state_seconds: how long it has been in `state`.  start_in_seconds: until
    the next start after a failure (None unless waiting for it).  opened: it is no standby any
    more.  complaints: rules of the primary's pg_hba.conf that had to be left out."""

    state: LifeState
    pid: int | None
    state_seconds: float
    restarts: int
    last_failure: str
    start_in_seconds: float | None
    opened: bool
    complaints: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """The `--json` and HTTP form."""
        return {**self._asdict(), "complaints": list(self.complaints)}
