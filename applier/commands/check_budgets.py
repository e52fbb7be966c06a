"""`applier check` and the budgets: whether what is promised is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from applier.budgets.memory import MemoryRule, is_overdrawn, shares
from applier.settings import ApplierSettings
from applier.standby.cgroups import Cgroups
from logship.checks import Check, fail, ok, warn


def check_budgets(settings: ApplierSettings) -> Iterator[Check]:
    """Memory that is shared out, the kernel's limits on it, and disk quotas."""
    if settings.budgets.memory_mb:
        yield _memory(settings, host_memory_mb())
        if settings.budgets.cgroups == "auto":
            yield _cgroups(Cgroups.find())
    quotas_mb = _quotas_mb(settings)
    if quotas_mb:
        yield _disk(settings, quotas_mb)


def host_memory_mb() -> int:
    """What this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def _memory(settings: ApplierSettings, host_mb: int) -> Check:
    budgets = settings.budgets
    rule = MemoryRule(budgets.memory_mb, budgets.standby_floor_mb, budgets.promoted_share)
    count = sum(instance.run_standby for instance in settings.instances.values())
    if is_overdrawn(rule, count):
        return fail(
            "memory-budget",
            f"{count} standbys with {rule.floor_mb} MB each are more than budgets.memory_mb, "
            f"{rule.total_mb}",
            "raise budgets.memory_mb, or lower budgets.standby_floor_mb",
        )
    found = shares(rule, instances=count, promoted=1)
    what = f"{found.standby_mb} MB for each of {count} standbys, {found.promoted_mb} MB promoted"
    if rule.total_mb > host_mb:
        return warn(
            "memory-budget",
            f"budgets.memory_mb is {rule.total_mb}, and this machine has {host_mb} MB",
            "lower it: the kernel ends servers when memory runs out",
        )
    return ok("memory-budget", what)


def _cgroups(cgroups: Cgroups) -> Check:
    if cgroups.parent is not None:
        return ok("cgroups", f"the kernel holds each standby to its share, in {cgroups.parent}")
    return warn(
        "cgroups",
        f"the kernel does not hold standbys to their shares: {cgroups.why}",
        "PostgreSQL's parameters alone do; docs/budgets.md says what is needed, and "
        'budgets.cgroups = "off" ends this warning',
    )


def _quotas_mb(settings: ApplierSettings) -> dict[str, int]:
    """Of the instances that have one."""
    found = {
        name: settings.budgets.instance_disk_mb if instance.disk_mb is None else instance.disk_mb
        for name, instance in settings.instances.items()
    }
    return {name: quota_mb for name, quota_mb in found.items() if quota_mb}


def disks_of(settings: ApplierSettings) -> dict[Path, Path]:
    """Where the WAL and the data of new clusters go, one place of each file system, and what is
    there of it by now.  A volume that is away counts for nothing."""
    directory = settings.directory
    present = next(each for each in (directory, *directory.parents) if each.exists())
    volumes = (settings.store.volumes, settings.standby.volumes)
    places = {volume: volume for each in volumes for volume in each if volume.is_dir()}
    if not all(volumes):
        places = {directory: present} | places
    of_devices: dict[int, tuple[Path, Path]] = {}
    for place, there in places.items():
        of_devices.setdefault(there.stat().st_dev, (place, there))
    return dict(of_devices.values())


def _disk(settings: ApplierSettings, quotas_mb: dict[str, int]) -> Check:
    places = disks_of(settings)
    there_mb = sum(
        max(0, (shutil.disk_usage(present).total >> 20) - settings.store.keep_free_mb)
        for present in places.values()
    )
    together_mb = sum(quotas_mb.values())
    where = ", ".join(str(place) for place in places)
    what = f"{len(quotas_mb)} instances may take {together_mb} MB, of {there_mb} MB in {where}"
    if together_mb > there_mb:
        return warn(
            "disk-quotas", what, "lower them, or one instance can take what others count on"
        )
    return ok("disk-quotas", what)
