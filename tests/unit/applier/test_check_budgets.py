"""`applier check` and the budgets: what is promised and is not there is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from applier.commands.check_budgets import check_budgets
from applier.settings import ApplierSettings
from logship.settings import parse_settings


def settings_of(directory: Path, budgets: str, *, more: str = "", top: str = "") -> ApplierSettings:
    key = "x" * 40
    return parse_settings(
        f"""
directory = "{directory}"
store.keep_free_mb = 1
{top}
[budgets]
{budgets}
[instances.orders]
port = 5433
public_key = "{key}"
{more}
[instances.stock]
port = 5434
public_key = "y{key[1:]}"
""",
        ApplierSettings,
        file=directory / "applier.toml",
    )


def findings(directory: Path, budgets: str, *, more: str = "") -> dict[str, tuple[str, str, str]]:
    settings = settings_of(directory, budgets, more=more)
    return {each.name: (each.level, each.what, each.hint) for each in check_budgets(settings)}


def test_without_budgets_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert findings(tmp_path, "catch_ups = 1") == {}


def test_shares_are_shown(tmp_path: Path) -> None:
    found = findings(tmp_path, 'memory_mb = 1024\ncgroups = "off"')
    assert found == {"memory-budget": ("ok", "256 MB for each of 2 standbys, 768 MB promoted", "")}


def test_floors_that_do_not_fit_fail(tmp_path: Path) -> None:
    level, what, hint = findings(tmp_path, "memory_mb = 100")["memory-budget"]
    assert level == "fail"
    assert "2 standbys with 64 MB each" in what
    assert "budgets.standby_floor_mb" in hint


def test_more_memory_than_the_machine_has_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("applier.commands.check_budgets.host_memory_mb", lambda: 2000)
    level, what, _ = findings(tmp_path, "memory_mb = 2001")["memory-budget"]
    assert (level, what) == ("warn", "budgets.memory_mb is 2001, and this machine has 2000 MB")


def test_limits_that_the_kernel_does_not_give_are_named(tmp_path: Path) -> None:
    found = findings(tmp_path, "memory_mb = 1024").get("cgroups")
    assert found is not None
    level, what, hint = found
    assert level == "ok" or (what.startswith("the kernel does not hold") and "budgets.md" in hint)


def test_quotas_that_are_more_than_the_disk_are_warned_of(tmp_path: Path) -> None:
    assert findings(tmp_path, "instance_disk_mb = 1")["disk-quotas"][0] == "ok"
    level, what, _ = findings(tmp_path, "", more="disk_mb = 999999999")["disk-quotas"]
    assert level == "warn"
    assert "1 instances may take 999999999 MB" in what


def test_quotas_are_compared_with_all_the_disks_that_new_clusters_go_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal, data, beside = (tmp_path / name for name in ("wal", "data", "beside"))
    for volume in (wal, data, beside):
        volume.mkdir()
    devices = {wal: 1, data: 2, beside: 2, tmp_path: 3}
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        fields = list(real(path, follow_symlinks=follow_symlinks))
        fields[2] = devices.get(path, fields[2])  # st_dev
        return os.stat_result(fields)

    def disk_usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(total=(100 + devices[path]) << 20)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    volumes = f'standby.volumes = ["{data}", "{beside}", "{tmp_path}/away"]'

    def disks(top: str) -> list[str]:
        settings = settings_of(tmp_path / "applier", "instance_disk_mb = 101", top=top)
        (found,) = (each for each in check_budgets(settings) if each.name == "disk-quotas")
        return [found.level, found.what.partition("202 MB, of ")[2]]

    assert disks("") == ["warn", f"102 MB in {tmp_path}/applier"]
    assert disks(volumes) == ["ok", f"203 MB in {tmp_path}/applier, {data}"]
    both = f'{volumes}\nstore.volumes = ["{wal}"]'
    assert disks(both) == ["warn", f"201 MB in {wal}, {data}"]
