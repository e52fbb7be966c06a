"""Tokens of a whole applier: real registrations and roads, no PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.operations.record import Fence
from applier.service import Service
from applier.settings import ApplierSettings, load_applier_settings
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.frames import Joined
from logship.link.keys import KeyPair, generate
from logship.link.token import JoinToken
from logship.link.transport import Dealer
from shipper.commands.join_request import redeem
from tests.support.fake_intake import new_keys
from tests.support.installations import cache_directory
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.processes import server_account
from tests.support.waiting import free_port
from tests.unit.applier.operations.conftest import Listener

pytestmark = pytest.mark.integration

SETTINGS = """
directory = "{directory}/applier"
store.keep_free_mb = 1
link.listen = "tcp://127.0.0.1:{link_port}"
link.secret_key_file = "{directory}/keys/applier.key"
wal_server.socket_directory = "{directory}/run/wal"
fleet.ports = "{port}-{port}"
"""


class Recovery:
    """An applier in this process, which can be started again."""

    def __init__(self, directory: Path) -> None:
        (directory / "run").mkdir(mode=0o711)
        generate(directory / "keys", "applier")
        self.file = directory / "applier.toml"
        self.port = free_port()
        text = SETTINGS.format(directory=directory, link_port=free_port(), port=self.port)
        self.file.write_text(text)
        self.service = Service(self.settings)

    @property
    def settings(self) -> ApplierSettings:
        return load_applier_settings(self.file)

    async def start(self) -> None:
        self.service = Service(self.settings)
        await self.service.open()
        self.service.make_roads().start()

    async def stop(self) -> None:
        await self.service.close_roads()
        await self.service.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def token(self, name: str = "main") -> JoinToken:
        return JoinToken.parse((await self.service.enroll(name, "", 1))["token"])


@pytest.fixture
async def recovery(shared_tmp_path: Path) -> AsyncIterator[Recovery]:
    made = Recovery(shared_tmp_path)
    await made.start()
    yield made
    await made.stop()


async def join(token: JoinToken, keys: KeyPair, **changes: int) -> Joined:
    return await redeem(token, keys.public, profile(**changes))


async def refusal(token: JoinToken, keys: KeyPair) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await join(token, keys)
    return caught.value


async def lets_in(token: JoinToken, keys: KeyPair) -> bool:
    """Whether the applier knows these keys."""
    dealer = Dealer(
        token.address,
        server_public_key=token.applier_public_key,
        keys=keys,
        on_message=lambda _parts: None,
        on_closed=lambda _error: None,
    )
    try:
        await dealer.connect(30)
    except LogshipError as error:
        assert error.code is Code.LINK_AUTHENTICATION
        return False
    dealer.close()
    return True


async def test_a_token_outlives_the_applier_and_so_does_what_it_brought(
    recovery: Recovery,
) -> None:
    assert recovery.service.roads is not None and recovery.service.roads.link is None
    token, shipper = await recovery.token(), new_keys()
    assert token.address == recovery.settings.link.listen
    await recovery.restart()
    assert not await lets_in(token, shipper)
    joined = await join(token, shipper)
    assert (joined.instance, joined.standby_port) == ("main", recovery.port)
    assert await lets_in(token, shipper)
    (listed,) = await recovery.service.fleet()
    assert (listed["name"], listed["settings"]["public_key"]) == ("main", shipper.public)
    await recovery.restart()
    assert await lets_in(token, shipper)
    assert await join(token, shipper) == joined
    assert (await refusal(token, new_keys())).code is Code.TOKEN_USED


async def test_a_registration_that_is_refused_leaves_nothing_and_may_be_tried_again(
    recovery: Recovery,
) -> None:
    token, shipper = await recovery.token(), new_keys()
    await recovery.service.add_instance("other", {"public_key": new_keys().public})
    error = await refusal(token, shipper)
    assert error.code is not Code.TOKEN_USED  # the only port is taken
    assert [each["name"] for each in await recovery.service.fleet()] == ["other"]
    await recovery.service.remove_instance("other", keep_data=False, promoted=False)
    await join(token, shipper)


async def test_the_key_of_another_instance_is_not_taken(recovery: Recovery) -> None:
    token, shipper = await recovery.token(), new_keys()
    port = free_port()
    await recovery.service.add_instance("other", {"public_key": shipper.public, "port": port})
    assert isinstance(await refusal(token, shipper), RefusedError)


async def test_a_removed_instance_is_enrolled_anew_by_a_new_token_alone(
    recovery: Recovery,
) -> None:
    old, shipper = await recovery.token(), new_keys()
    await join(old, shipper)
    with pytest.raises(RefusedError) as caught:
        await recovery.token()
    assert caught.value.code is Code.INSTANCE_EXISTS
    await recovery.service.remove_instance("main", keep_data=False, promoted=False)
    assert not await lets_in(old, shipper)
    assert (await refusal(old, shipper)).code is Code.TOKEN_UNKNOWN
    await join(await recovery.token(), shipper)


async def test_who_joins_where_data_were_kept_is_told_what_is_in_its_way(
    recovery: Recovery,
) -> None:
    service = recovery.service
    await join(await recovery.token(), new_keys())
    instance = service.open_instances["main"]
    await instance.hello(hello(instance="main"), Listener())
    await instance.opened_store.begin_chain(1, SEGMENT_BYTES)
    await service.remove_instance("main", keep_data=True, promoted=False)
    assert not told(await join(await recovery.token(), new_keys()))
    await service.remove_instance("main", keep_data=True, promoted=False)
    another = told(await join(await recovery.token(), new_keys(), system_identifier=99))
    assert "the primary is cluster 99" in another and "applier accept main 99-17" in another
    await service.open_instances["main"].remember(fence=Fence(at=1.0, reason="promotion"))
    await service.remove_instance("main", keep_data=True, promoted=False)
    assert "it was promoted" in told(await join(await recovery.token(), new_keys()))


def told(joined: Joined) -> str:
    """What keeps the shipper from shipping."""
    return " ".join(each for each in joined.notes if "refused" in each)


async def test_a_declared_name_and_names_that_can_not_be_are_refused(recovery: Recovery) -> None:
    with recovery.file.open("a") as file:
        file.write(f'[instances.main]\npublic_key = "{new_keys().public}"\nport = {free_port()}\n')
    await recovery.restart()
    with pytest.raises(RefusedError, match="declared in the settings file"):
        await recovery.token()
    with pytest.raises(UsageError):
        await recovery.token("../main")


async def test_what_the_version_check_would_block_is_told(recovery: Recovery) -> None:
    account = server_account()
    with recovery.file.open("a") as file:
        file.write(f'postgres.installations = ["{cache_directory()}"]\n')
        file.write(f'postgres.run_as = "{account.pw_name if account else ""}"\n')
    await recovery.restart()
    joined = await join(await recovery.token(), new_keys(), server_version_num=140999)
    notes = " ".join(joined.notes)
    assert "minor-order blocks (14.999 / 14." in notes
    assert "Remedy: install PostgreSQL 14.999 or a later minor on the recovery server" in notes
