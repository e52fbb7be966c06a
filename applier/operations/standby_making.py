"""An instance's standby as an object: with its places, its installation and its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from applier.standby import Standby, StandbyLayout, StandbySettings, StandbyTablespaces
from logship.postgres.installations import Installation
from logship.postgres.process import Server

if TYPE_CHECKING:
    from applier.operations.instance import Instance


def layout_of(instance: Instance) -> StandbyLayout:
    """Where the files of its standby are."""
    return StandbyLayout(
        instance.incarnation_directory, instance.host.standby_socket_directory(instance.name)
    )


def make_standby(instance: Instance, installation: Installation, *, opened: bool) -> Standby:
    """Its standby on `installation`, not started.  opened: it was promoted, or is being."""
    layout = layout_of(instance)
    assert instance.record.profile is not None
    assert instance.tablespaces.notes is not None
    return Standby(
        standby_settings(instance, promoted=opened),
        layout,
        Server(installation, layout.data, instance.host.run_as),
        instance.record.profile,
        StandbyTablespaces(
            layout,
            instance.host.run_as,
            instance.tablespaces.notes,
            instance.host.path_permission.why_not,
        ),
        opened=opened,
        contain=instance.budget.contain,
        release=instance.budget.release,
    )


def standby_settings(instance: Instance, *, promoted: bool) -> StandbySettings:
    """How its server is to run, as a standby or as what it is once promoted."""
    settings = instance.host.settings
    memory = instance.budget.memory(promoted=promoted)
    return StandbySettings(
        instance=instance.name,
        port=instance.settings.port,
        wal_server_directory=settings.wal_server.socket_directory,
        wal_server_port=settings.wal_server.port,
        listen_addresses=settings.listen_addresses_of(instance.name),
        shared_buffers_mb=memory.shared_buffers_mb,
        settings=memory.parameters,
    )
