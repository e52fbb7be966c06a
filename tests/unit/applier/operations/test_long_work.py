"""Work on the disk that takes long, when the applier is told to stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from applier.operations import budget as budget_module
from applier.operations import following as following_module
from applier.operations.former import FormerClusters
from applier.operations.instance import Instance
from applier.operations.record import Fence, KeptIncarnation
from applier.receivers.seed.placement import SeedPlaced, swap_in
from applier.service import Service
from applier.settings import ApplierSettings
from tests.support.link_frames import profile
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import change_settings, promotion

PLACED = SeedPlaced(seed_id="s1", timeline=1, start_lsn=1, end_lsn=2, bytes=3, files=4)


async def discard_what_a_seed_replaced(instance: Instance) -> None:
    await instance.remember(incarnation=profile().incarnation, profile=profile())
    instance.following.placed = PLACED
    instance.spawn(instance.following._discard_previous())


async def remove_a_former_cluster(instance: Instance) -> None:
    kept = KeptIncarnation(
        incarnation=profile().incarnation, profile=profile(), at=1.0, is_removed=True
    )
    await instance.remember(previous=(kept,))
    instance.former.go_on_removing()


async def look_what_the_disk_holds(instance: Instance) -> None:
    change_settings(instance, disk_mb=6)
    instance.spawn(instance.budget.check_room(1))


@pytest.mark.parametrize(
    "begin", [discard_what_a_seed_replaced, remove_a_former_cluster, look_what_the_disk_holds]
)
def test_the_applier_ends_without_it(
    settings: ApplierSettings,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Instance], Coroutine[Any, Any, None]],
) -> None:
    begun: list[threading.Thread] = []
    go_on, came_to_its_end = threading.Event(), threading.Event()

    def take_long(*_: object) -> int:
        begun.append(threading.current_thread())
        go_on.wait(30.0)
        came_to_its_end.set()
        return 0

    monkeypatch.setattr(following_module, "discard_previous", take_long)
    monkeypatch.setattr(FormerClusters, "_remove", take_long)
    monkeypatch.setattr(budget_module, "disk_bytes", take_long)

    async def stop_amid() -> None:
        service = Service(settings)
        await service.open(["orders"])
        await begin(service.open_instances["orders"])
        await until(lambda: begun, "it has begun")
        await service.close()

    asyncio.run(stop_amid())
    waited_for_it = came_to_its_end.is_set()
    go_on.set()
    begun[0].join(30.0)
    assert not waited_for_it
    # The interpreter waits for others before it ends.
    assert begun[0].daemon


@pytest.mark.parametrize("promoted", [False, True])
async def test_the_rest_of_what_a_seed_replaced_is_removed_at_the_next_start(
    service: Service, instance: Instance, settings: ApplierSettings, promoted: bool
) -> None:
    await instance.remember(incarnation=profile().incarnation, profile=profile())
    for _ in range(2):
        for name in ("data", "tablespaces"):
            (instance.incarnation_directory / f"{name}.seeding" / "half").mkdir(parents=True)
        swap_in(instance.incarnation_directory, PLACED)
    old = instance.incarnation_directory / "tablespaces.old"
    assert old.exists()
    if promoted:
        await instance.remember(fence=Fence(at=1.0, reason="promotion"), promotion=promotion())
    await service.close()
    again = Service(settings)
    await again.open(["orders"])
    try:
        await until(lambda: not old.exists(), "it is removed")
    finally:
        await again.close()
