"""When a standby counts as streaming on the installation that it was moved to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from applier.compat import Finding, Outcome, Verdict
from applier.operations.instance import Instance
from applier.operations.switching import _check, streams, switch_installation
from applier.walserver.status import Refusal, StandbyState, StandbyStatus
from logship.errors import Code, RefusedError
from logship.lsn import Lsn
from logship.postgres.installations import Installation
from tests.support.link_frames import hello
from tests.unit.applier.operations.conftest import Listener

SINCE = 100.0
BEFORE = Lsn(5000)


def status(**changes: Any) -> StandbyStatus:
    here = BEFORE
    made = StandbyStatus(
        "orders", 1, StandbyState.STREAMING, 1, here, here, here, here, SINCE + 1, SINCE + 2
    )
    return made._replace(**changes)


@pytest.mark.parametrize("state", ["streaming", "catchup", "held", "waiting"])
def test_it_streams_when_it_has_connected_and_is_as_far_as_before(state: str) -> None:
    assert streams(status(state=StandbyState(state)), SINCE, BEFORE)


@pytest.mark.parametrize(
    "changes",
    [
        {"connected_at": SINCE - 1},  # the one that was stopped
        {"last_reply_at": None},
        {"apply_lsn": Lsn(4999)},
        {"state": StandbyState.STARTUP},
        {"state": StandbyState.DISCONNECTED},
        {"state": StandbyState.REFUSED},
        {"refusal": Refusal(Code.WAL_REMOVED, "what", "hint", SINCE)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_it_does_not_while_anything_of_that_is_missing(changes: dict[str, Any]) -> None:
    assert not streams(status(**changes), SINCE, BEFORE)
    assert not streams(None, SINCE, BEFORE)


async def test_without_a_standby_nothing_can_be_switched(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    with pytest.raises(RefusedError) as caught:
        await switch_installation(instance, "auto", 1.0)
    assert caught.value.code is Code.SWITCH_FAILED
    await instance.fence("promotion")
    with pytest.raises(RefusedError, match="promoted"):
        await switch_installation(instance, "auto", 1.0)


async def test_a_refusal_has_the_remedy_of_what_blocks(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings may come before it in the rules' order."""
    verdict = Verdict(
        (
            Finding("known-bad-minors", Outcome.WARN, "17.9", "17.10", "why", "a later minor"),
            Finding("locales", Outcome.BLOCK, "de_DE", "without de_DE", "why", "make de_DE"),
        )
    )

    async def judge(_: Installation) -> Verdict:
        return verdict

    monkeypatch.setattr(instance.following, "judge", judge)
    with pytest.raises(RefusedError, match=r"must not run .* blocked: locales") as caught:
        await _check(instance, Installation(Path("/nowhere/bin"), 170010, "configured"))
    assert (caught.value.code, caught.value.hint) == (Code.COMPATIBILITY, "make de_DE")
