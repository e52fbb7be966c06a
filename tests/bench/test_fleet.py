"""The simulated instances of the benchmark are ones that an applier takes for real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench.fleet import FleetPair
from tests.support.link_frames import profile

pytestmark = pytest.mark.integration

NAMES = ["a", "b", "c"]


def test_an_applier_has_simulated_instances_connected_and_streaming(shared_tmp_path: Path) -> None:
    (shared_tmp_path / "no-postgresql").mkdir()
    site: Any = SimpleNamespace(installation=shared_tmp_path / "no-postgresql", server_settings={})
    pair = FleetPair(shared_tmp_path, site)
    try:
        pair.make_stored("a", profile())
        pair.copy_instance("a", ["b", "c"])
        pair.add_simulated(NAMES, more="run_standby = false")
        pair.applier.start()
        pair.wait_all(NAMES, lambda s: s["store"]["durable"], "the stores are open")
        with pair.simulated(NAMES, standbys=True):
            pair.wait_all(
                NAMES,
                lambda s: s["link"]["state"] == "connected" and s["standby"]["flush_lsn"],
                "all are connected and stream",
            )
            (durable,) = {s["store"]["durable"] for s in pair.client.instances()}
            (gap,) = {s["transfer_gap"]["bytes"] for s in pair.client.instances()}
        assert gap == 0
        assert durable == "1:0/31A000"  # with the page that each was sent
    finally:
        pair.destroy()
