"""The files of the registered instances: `fleet/NAME.json`, each replaced as a whole.

A file holds what was said of its instance, by the names of the settings file; what was not
said is the default of the day.  `removing` is written before anything of an instance goes, so
that a removal that a crash cut off is finished at the next start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from applier.settings import InstanceSettings
from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError, UsageError
from logship.identity import check_instance_name
from logship.settings import convert_settings

FORMAT = 1
_SUFFIX = ".json"
_WORDS = 500
"""Characters of what a damaged file has us say."""

Said = dict[str, Any]
"""Settings of an instance, as JSON has them, by their names in `InstanceSettings`."""


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """The instance is on its way out."""

    keep_data: bool
    """Only the registration goes; what is on disk stays."""
    keep_server: bool
    """A promoted server is in production: it runs on, with nobody who keeps it up."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    format: int = FORMAT
    name: str
    settings: Said
    removing: Removal | None = None


class Entry(NamedTuple):
    """A registration that can be used, and what its settings come to."""

    registration: Registration
    settings: InstanceSettings


class Registered(NamedTuple):
    """entries: by name.  unreadable: why a file can't be used, by name."""

    entries: dict[str, Entry]
    unreadable: dict[str, LogshipError]

    def copy(self) -> Registered:
        """As it is now, for a thread."""
        return Registered(dict(self.entries), dict(self.unreadable))


def settings_of(name: str, said: Said) -> InstanceSettings:
    """Raises UsageError(SETTINGS) with everything that is wrong."""
    return convert_settings(said, InstanceSettings, path=("instances", name))


class Registry:
    """directory: the applier's.  All of it blocks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "fleet"

    def load(self) -> Registered:
        """Everything that is registered; a file that can't be used stops no other.

        Raises LogshipError(STORE_FAILED): the directory can't be read.
        """
        registered = Registered({}, {})
        try:
            files = sorted(os.listdir(self.directory))
        except (FileNotFoundError, NotADirectoryError):
            return registered
        except OSError as error:
            raise _failed(self.directory, "read", error) from error
        for file in files:
            name = file.removesuffix(_SUFFIX)
            if name == file or file.startswith("."):
                continue  # not ours, or what a crash left of a write
            try:
                registered.entries[name] = self._load(self.path(name), name)
            except LogshipError as error:
                registered.unreadable[name] = error
        return registered

    def _load(self, path: Path, name: str) -> Entry:
        try:
            check_instance_name(name)
            registration = json_decoder(Registration).decode(path.read_bytes())
            if registration.format > FORMAT:
                raise LogshipError(
                    Code.REGISTRATION_DAMAGED,
                    f"{path} was written by a newer Logship (format {registration.format})",
                    "run the newer version",
                )
            if registration.name != name:
                raise UsageError(Code.SETTINGS, f"it is of the instance {registration.name!r}")
            return Entry(registration, settings_of(name, registration.settings))
        except (OSError, UsageError, *UNREADABLE) as error:
            what = error.what if isinstance(error, LogshipError) else str(error)
            raise LogshipError(
                Code.REGISTRATION_DAMAGED,
                f"{path} can't be used: {what[:_WORDS]}",
                f"mend the file, or remove it and add the instance again: applier add {name}; "
                "its WAL and its standby stay where they are",
            ) from error

    def save(self, registration: Registration) -> None:
        """Durable when it returns.  Raises LogshipError (DISK_FULL, STORE_FAILED; both
        retryable): the one before stands."""
        path = self.path(registration.name)
        data = msgspec.json.format(msgspec.json.encode(registration), indent=2)
        try:
            durable.make_directory(self.directory)
            durable.write_file(path, data + b"\n", mode=0o600)
        except OSError as error:
            raise _failed(path, "written", error) from error

    def remove(self, name: str) -> None:
        """Raises LogshipError(STORE_FAILED)."""
        try:
            durable.remove(self.path(name))
        except OSError as error:
            raise _failed(self.path(name), "removed", error) from error

    def path(self, name: str) -> Path:
        return self.directory / f"{name}{_SUFFIX}"


def _failed(path: Path, what: str, error: OSError) -> LogshipError:
    full = error.errno in durable.DISK_FULL_ERRNOS
    return LogshipError(
        Code.DISK_FULL if full else Code.STORE_FAILED,
        f"{path} can't be {what}: {error.strerror}",
        "make room" if full else "look at the disk, and whether the applier's user may do that",
        retryable=True,
    )
