"""What becomes of what the WAL server says of an instance's standby."""

from __future__ import annotations

from structlog.testing import capture_logs

from applier.operations.instance import Instance
from applier.walserver.status import Refusal, StandbyState, StandbyStatus
from logship.errors import Code
from logship.lsn import Lsn

CONNECTED = StandbyStatus(
    application_name="orders",
    pid=4711,
    state=StandbyState.CATCHUP,
    timeline=1,
    sent_lsn=Lsn(0x3000000),
    write_lsn=Lsn(0),
    flush_lsn=Lsn(0),
    apply_lsn=Lsn(0),
    connected_at=100.0,
    last_reply_at=None,
)


async def test_a_standby_that_is_refused_each_time_it_comes_is_one_alarm(
    instance: Instance,
) -> None:
    """It is given WAL until its first report shows that it can't follow."""
    serving, alarms = instance.following.serving, instance.alarms
    refusal = Refusal(Code.STANDBY_AHEAD_OF_FORK, "it is ahead", "seed it again", 100.0)
    with capture_logs() as logs:
        for pid in range(4711, 4714):
            came = CONNECTED._replace(pid=pid)
            serving.status_changed(came)
            assert alarms.has(Code.STANDBY_AHEAD_OF_FORK) == (pid > 4711)
            serving.status_changed(
                came._replace(state=StandbyState.REFUSED, timeline=0, refusal=refusal)
            )
            assert alarms.has(Code.STANDBY_AHEAD_OF_FORK)
    assert [entry["event"] for entry in logs] == ["alarm"]
    serving.status_changed(CONNECTED._replace(last_reply_at=101.0))
    assert not alarms.has(Code.STANDBY_AHEAD_OF_FORK)
