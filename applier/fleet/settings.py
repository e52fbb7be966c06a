"""The settings with every instance that there is, for commands that do without the applier."""

from __future__ import annotations

from pathlib import Path

import structlog

from applier.fleet.registry import Registry
from applier.fleet.rules import effective
from applier.settings import ApplierSettings, load_applier_settings
from logship.errors import LogshipError

log = structlog.get_logger(__name__)


def load_effective_settings(file: Path) -> ApplierSettings:
    """The settings file's, and the registered instances among its own; without those for a user
    who may not read what the applier keeps.  Raises SettingsError.  Blocking."""
    declared = load_applier_settings(file)
    try:
        return effective(declared, Registry(declared.directory).load())
    except LogshipError as error:
        log.warning("the instances that were added are not known here", **error.as_dict())
        return declared
