"""One standby of the recovery server: how it is configured, kept alive and opened.

A standby is a PostgreSQL of its own.  It streams from the applier's WAL server with its
native walreceiver, outlives the applier, and is adopted by the next one.

    layout         where its files are
    configuration  (pure) its postgresql.conf: ours, with the primary's parameter floors
    access         (pure) its pg_hba.conf: closed while a standby, the primary's rules after
    placement      from a seed to a standby: the primary's settings aside, standby.signal
    surroundings   what each installation is and finds on this host, asked once
    host_facts     ... by asking it
    packages       whether what standbys run on was changed
    files          writes those two for each start
    tablespaces    paths for those that the primary makes later; what of them is noted
    life           (pure) when to start, stop and restart, and after how long
    acting         ... done: the server started and stopped
    probes         what it says of itself over SQL
    inspection     a look into each of its databases: text order, libraries that load
    server_log     why it failed; the log's size
    liveness       the end of its process as an event
    cgroups        the kernel's own limit on its memory
    status         what operators see of it
    server         `Standby`: the asyncio shell around all of these
    promotion      waiting for the replay, promoting, the first write

Everything below an incarnation's `standby/` is written anew at each start, except
`standby/primary/`, which keeps what the seed brought: docs/standbys.md says what for.
"""

from __future__ import annotations

from applier.standby.configuration import (
    ParameterFloors,
    StandbySettings,
    check_operator_settings,
    render_configuration,
)
from applier.standby.layout import StandbyLayout
from applier.standby.life import LifeState, StandbyLife
from applier.standby.placement import Placement, prepare
from applier.standby.probes import Positions
from applier.standby.promotion import Opened
from applier.standby.server import Standby
from applier.standby.status import StandbyStatus
from applier.standby.tablespaces import StandbyTablespaces, TablespaceNotes

__all__ = [
    "LifeState",
    "Opened",
    "ParameterFloors",
    "Placement",
    "Positions",
    "Standby",
    "StandbyLayout",
    "StandbyLife",
    "StandbySettings",
    "StandbyStatus",
    "StandbyTablespaces",
    "TablespaceNotes",
    "check_operator_settings",
    "prepare",
    "render_configuration",
]
