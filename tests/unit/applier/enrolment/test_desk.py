from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from applier.enrolment.desk import MAX_HOURS, REMEMBER_SECONDS, EnrolmentDesk
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.frames import Joined
from logship.link.keys import KeyPair
from logship.link.token import JoinToken
from tests.support.enrolments import MemoryInstances, join_of
from tests.support.fake_intake import new_keys
from tests.support.link_frames import profile

ADDRESS = "tcp://recovery:7432"
APPLIER, SHIPPER, OTHER = new_keys(), new_keys(), new_keys()


class Recovery:
    """A desk over real files, a clock that stands, and instances that outlive restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 1e9
        self.instances = MemoryInstances()
        self.desk = self._new()

    def _new(self) -> EnrolmentDesk:
        return EnrolmentDesk(
            self.directory,
            self.instances,
            applier_public_key=lambda: APPLIER.public,
            clock=lambda: self.now,
        )

    async def restart(self) -> None:
        self.desk = self._new()
        await self.desk.load()

    async def token(self, name: str = "main", hours: float = 1) -> JoinToken:
        return (await self.desk.issue(name, ADDRESS, hours))[0]

    async def join(self, token: JoinToken, shipper: KeyPair = SHIPPER) -> Joined:
        return await self.desk.join(token.keys.public, join_of(shipper), "192.0.2.1")

    async def refusal(self, token: JoinToken, shipper: KeyPair = SHIPPER) -> LogshipError:
        with pytest.raises(LogshipError) as caught:
            await self.join(token, shipper)
        assert caught.value.hint
        return caught.value


@pytest.fixture
def recovery(tmp_path: Path) -> Recovery:
    return Recovery(tmp_path / "enrolment")


async def test_a_token_registers_its_instance_with_the_shippers_key(recovery: Recovery) -> None:
    token, ends = await recovery.desk.issue("main", ADDRESS, 2)
    assert (token.instance, token.address) == ("main", ADDRESS)
    assert token.applier_public_key == APPLIER.public
    assert ends == recovery.now + 7200
    assert recovery.desk.may_join(token.keys.public)
    assert not recovery.desk.may_join(SHIPPER.public)
    joined = await recovery.join(token)
    assert (joined.instance, joined.standby_port) == ("main", 5433)
    assert joined.notes == ["main is PostgreSQL 17"]
    assert recovery.instances.keys == {"main": SHIPPER.public}


async def test_a_used_token_is_used_also_after_a_restart(recovery: Recovery) -> None:
    token = await recovery.token()
    await recovery.restart()
    await recovery.join(token)
    for _ in range(2):
        assert (await recovery.refusal(token, OTHER)).code is Code.TOKEN_USED
        await recovery.restart()
    assert recovery.instances.registered == ["main"]


async def test_an_answer_that_was_lost_is_given_again(recovery: Recovery) -> None:
    token = await recovery.token()
    first = await recovery.join(token)
    await recovery.restart()
    recovery.now += 86400
    assert await recovery.join(token) == first
    assert recovery.instances.registered == ["main"]


async def test_of_two_at_once_one_joins(recovery: Recovery) -> None:
    token = await recovery.token()
    outcomes = await asyncio.gather(
        *(recovery.join(token, keys) for keys in (SHIPPER, OTHER)), return_exceptions=True
    )
    (refused,) = [each for each in outcomes if isinstance(each, LogshipError)]
    assert refused.code is Code.TOKEN_USED
    assert recovery.instances.registered == ["main"]


async def test_a_token_ends(recovery: Recovery) -> None:
    token = await recovery.token()
    recovery.now += 3600
    await recovery.restart()
    assert (await recovery.refusal(token)).code is Code.TOKEN_EXPIRED
    assert recovery.instances.keys == {}
    recovery.now += REMEMBER_SECONDS
    await recovery.restart()
    assert not recovery.desk.may_join(token.keys.public)
    assert list(recovery.directory.iterdir()) == []
    assert (await recovery.refusal(token)).code is Code.TOKEN_UNKNOWN


@pytest.mark.parametrize("late", [False, True], ids=["before it", "after it"])
async def test_a_registration_that_broke_off_is_finished_by_its_own_shipper_alone(
    recovery: Recovery, late: bool
) -> None:
    token = await recovery.token()
    recovery.instances.late = late
    recovery.instances.fail.append(LogshipError(Code.DISK_FULL, "it broke off", "make room"))
    assert (await recovery.refusal(token)).code is Code.DISK_FULL
    await recovery.restart()
    assert (await recovery.refusal(token, OTHER)).code is Code.TOKEN_USED
    await recovery.join(token)
    assert recovery.instances.keys == {"main": SHIPPER.public}
    assert recovery.instances.registered == ["main"]


async def test_a_token_that_can_not_be_marked_registers_nothing(recovery: Recovery) -> None:
    token = await recovery.token()
    (recovery.directory / ".main.json.tmp").mkdir()  # in the way of what is to be written
    assert (await recovery.refusal(token)).code is Code.STORE_FAILED
    assert recovery.instances.keys == {}


async def test_a_new_token_voids_the_one_before(recovery: Recovery) -> None:
    old, new = await recovery.token(), await recovery.token()
    assert not recovery.desk.may_join(old.keys.public)
    await recovery.restart()
    assert not recovery.desk.may_join(old.keys.public)
    await recovery.join(new)


async def test_a_token_can_be_withdrawn(recovery: Recovery) -> None:
    token, others = await recovery.token(), await recovery.token("other")
    await recovery.desk.withdraw("main")
    await recovery.desk.withdraw("nobody")
    await recovery.restart()
    assert not recovery.desk.may_join(token.keys.public)
    assert recovery.desk.may_join(others.keys.public)


async def test_a_removed_instance_does_not_come_back_by_its_old_token(recovery: Recovery) -> None:
    token = await recovery.token()
    await recovery.join(token)
    recovery.instances.keys.clear()
    assert (await recovery.refusal(token)).code is Code.TOKEN_USED
    assert recovery.instances.keys == {}


async def test_no_token_for_a_name_that_is_taken(recovery: Recovery) -> None:
    recovery.instances.keys["main"] = OTHER.public
    with pytest.raises(RefusedError, match="there is main already"):
        await recovery.token()
    assert not recovery.directory.exists()


async def test_a_name_that_was_taken_meanwhile_is_refused_and_the_token_unused(
    recovery: Recovery,
) -> None:
    token = await recovery.token()
    recovery.instances.keys["main"] = OTHER.public
    assert "there is main already" in (await recovery.refusal(token)).what
    assert recovery.instances.keys == {"main": OTHER.public}
    recovery.instances.keys.clear()
    await recovery.join(token, OTHER)


async def test_a_shipper_must_bring_a_key_of_its_own(recovery: Recovery) -> None:
    token, others = await recovery.token(), await recovery.token("other")
    for key in (token.keys, others.keys, APPLIER):
        assert (await recovery.refusal(token, key)).code is Code.KEY_NOT_ALLOWED
    await recovery.join(token)


async def test_a_cluster_that_can_not_be_stored_costs_no_token(recovery: Recovery) -> None:
    token = await recovery.token()
    old = join_of(SHIPPER, profile=profile(server_version_num=120022))
    with pytest.raises(RefusedError) as caught:
        await recovery.desk.join(token.keys.public, old, "")
    assert caught.value.code is Code.MAJOR_MISMATCH
    await recovery.join(token, OTHER)


@pytest.mark.parametrize(
    ("name", "address", "hours"),
    [
        ("../main", ADDRESS, 1),
        ("main", "recovery:7432", 1),
        ("main", "tcp://*:7432", 1),
        ("main", ADDRESS, 0),
        ("main", ADDRESS, MAX_HOURS + 1),
        ("main", ADDRESS, float("nan")),
    ],
)
async def test_what_can_not_be_a_token_is_refused(
    recovery: Recovery, name: str, address: str, hours: float
) -> None:
    with pytest.raises(UsageError):
        await recovery.desk.issue(name, address, hours)
    assert not recovery.directory.exists()
