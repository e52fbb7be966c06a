"""`applier check` and the parameters of standbys: whether what is set will be in force, and
whether a server starts with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from applier.fleet.places import InstancePlaces
from applier.operations import parameters
from applier.operations.record import InstanceRecord, load_record
from applier.settings import ApplierSettings
from applier.standby.configuration import HasFloors, ParameterFloors, SettingValue
from logship.checks import Check, failed, ok, warn
from logship.errors import LogshipError, UsageError
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs


def check_parameters(settings: ApplierSettings) -> Iterator[Check]:
    """Of each instance whose settings have one of those that a standby must not have less of than
    its primary, as the primary was last heard."""
    for name in settings.instances:
        check_name = f"parameters:{name}"
        try:
            record = _record(settings, name)
        except LogshipError as error:
            yield failed(check_name, error)
            continue
        if record.profile is not None and record.promotion is None:
            yield from compare(check_name, settings.parameters_of(name), record.profile)


def compare(
    check_name: str, operator: Mapping[str, SettingValue], primary: HasFloors
) -> Iterator[Check]:
    """operator: parameters as they are set.  Nothing, if none of them matters here.  Pure."""
    floors = ParameterFloors.of(primary)._asdict()
    asked = {name.lower(): int(value) for name, value in operator.items() if name.lower() in floors}
    less = [
        f"{name} = {value} is less than the primary's {floors[name]}"
        for name, value in asked.items()
        if value < floors[name]
    ]
    if less:
        yield warn(
            check_name,
            f"{', '.join(less)}: the standby is given the primary's",
            "replay stops with less: leave it out, or set at least what the primary has",
        )
    elif asked:
        yield ok(check_name, ", ".join(f"{name} = {value}" for name, value in asked.items()))


def check_accepted(
    settings: ApplierSettings, installations: Sequence[Installation], run_as: RunAs
) -> Iterator[Check]:
    """Of each instance whose settings have a parameter that no server takes on which its standby
    may run.

    Servers are asked, some 20 ms a parameter, about the same ones of many instances once.
    """
    answers: dict[tuple[object, ...], UsageError | None] = {}
    for name, instance in settings.instances.items():
        try:
            record = _record(settings, name)
        except LogshipError:
            continue  # `check_parameters` says so
        if not instance.run_standby or record.promotion is not None:
            continue
        may_run_on = [
            each
            for each in installations
            if record.profile is None or each.major == record.profile.major
        ]
        wanted = settings.parameters_of(name)
        key = (*(each.bin_dir for each in may_run_on), *sorted(wanted.items()))
        if key not in answers:
            answers[key] = _complaint(may_run_on, run_as, wanted)
        error = answers[key]
        if error is not None:
            yield failed(f"accepted:{name}", error)


def _complaint(
    installations: Sequence[Installation], run_as: RunAs, wanted: Mapping[str, SettingValue]
) -> UsageError | None:
    try:
        asyncio.run(parameters.check_parameters(installations, run_as, wanted))
    except UsageError as error:
        return error
    return None


def _record(settings: ApplierSettings, name: str) -> InstanceRecord:
    return load_record(InstancePlaces(settings.directory, name).home, name)
