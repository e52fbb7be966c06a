"""Instances added, changed and removed while an applier runs: real files, link and crashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.service import Service
from applier.settings import ApplierSettings
from logship.link.keys import generate
from tests.support.fake_intake import new_keys
from tests.support.link_frames import hello
from tests.unit.applier.operations.conftest import Listener


@pytest.fixture
def more_settings(shared_tmp_path: Path) -> str:
    generate(shared_tmp_path / "keys", "applier")
    volumes = [shared_tmp_path / "wal", shared_tmp_path / "data"]
    for volume in volumes:
        volume.mkdir()
    return f"""
link.secret_key_file = "{shared_tmp_path}/keys/applier.key"
link.listen = "tcp://127.0.0.1:1"
store.volumes = ["{volumes[0]}"]
standby.volumes = ["{volumes[1]}"]
"""


async def add(service: Service, name: str = "billing") -> dict[str, object]:
    key = new_keys().public
    return await service.add_instance(name, {"public_key": key, "run_standby": False})


async def test_what_is_added_is_there_after_a_restart(
    settings: ApplierSettings, service: Service, listener: Listener
) -> None:
    added = await add(service)
    assert added["origin"] == "registered" and added["error"] is None
    assert added["port"] in range(5433, 5500) and added["store"] is None
    billing = service.open_instances["billing"]
    await billing.hello(hello(instance="billing"), listener)
    (where,) = [each for each in await service.fleet() if each["name"] == "billing"]
    assert str(where["store"]).startswith(str(settings.store.volumes[0]))
    assert str(where["standby"]).startswith(str(settings.standby.volumes[0]))
    await service.close()
    again = Service(settings)
    await again.open()
    assert sorted(again.open_instances) == ["billing", "orders"]
    assert again.open_instances["billing"].record.incarnation == billing.record.incarnation
    assert str(again.open_instances["billing"].places.wal) == where["store"]
    await again.close()
