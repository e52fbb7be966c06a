"""The settings file of a rehearsal's applier.  Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_APPLIER = """
directory = {directory}

[link]
listen = {listen}
secret_key_file = {secret_key_file}
heartbeat_seconds = 0.5

[api]
socket = {api_socket}

[wal_server]
socket_directory = {wal_sockets}

[postgres]
installations = [{installations}]

[store]
keep_free_mb = 64

[standby]
shared_buffers_mb = 32
listen_addresses = ""

[instances.{instance}]
public_key = {public_key}
port = {standby_port}

[instances.{instance}.settings]
{parameters}
"""


@dataclass(frozen=True)
class Places:
    """Where the files of an applier are, below a machine's `home`."""

    home: PurePosixPath

    @property
    def settings(self) -> PurePosixPath:
        return self.home / "applier.toml"

    @property
    def directory(self) -> PurePosixPath:
        return self.home / "applier"

    @property
    def keys(self) -> PurePosixPath:
        return self.home / "keys"

    @property
    def api_socket(self) -> PurePosixPath:
        return self.home / "run" / "applier.sock"

    def standby_sockets(self, instance: str) -> PurePosixPath:
        """Where the standby's server has its unix socket: beside the WAL server's."""
        return self.home / "run" / "standby" / instance


@dataclass(frozen=True)
class Told:
    """What the applier is told.  address: under which its machine is reached.  installations:
    directories of PostgreSQL's programs."""

    instance: str
    public_key: str
    address: str
    link_port: int
    standby_port: int
    installations: Sequence[PurePosixPath]
    parameters: Mapping[str, str] = field(default_factory=dict)


def settings_text(told: Told, places: Places) -> str:
    """The text of applier.toml."""
    return _APPLIER.format(
        directory=_text(places.directory),
        listen=_text(f"tcp://{_listening(told.address)}:{told.link_port}"),
        secret_key_file=_text(places.keys / "applier.key"),
        api_socket=_text(places.api_socket),
        wal_sockets=_text(places.home / "run" / "wal"),
        installations=", ".join(_text(each) for each in told.installations),
        instance=told.instance,
        public_key=_text(told.public_key),
        standby_port=told.standby_port,
        parameters="\n".join(
            f"{_text(name)} = {_text(value)}" for name, value in told.parameters.items()
        ),
    )


def _listening(address: str) -> str:
    """One can listen on an address of the machine, not on a name that others know it by."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "*"
    return f"[{found}]" if found.version == 6 else str(found)


def _text(value: object) -> str:
    """A string of TOML: JSON's are such."""
    return json.dumps(str(value))
