"""`applier check` and the parameters of standbys: whether what is set will be in force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from applier.fleet.places import InstancePlaces
from applier.operations.record import load_record
from applier.settings import ApplierSettings
from applier.standby.configuration import HasFloors, ParameterFloors, SettingValue
from logship.checks import Check, failed, ok, warn
from logship.errors import LogshipError


def check_parameters(settings: ApplierSettings) -> Iterator[Check]:
    """Of each instance whose settings have one of those that a standby must not have less of than
    its primary, as the primary was last heard."""
    for name in settings.instances:
        check_name = f"parameters:{name}"
        try:
            record = load_record(InstancePlaces(settings.directory, name).home, name)
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
