"""What the shipper last knew of its primary: `primary.json` in its directory.

With it a shipper whose primary is down can say so to the applier, also after a restart: a
hello names the cluster.  Only what a primary archived before is shipped by what it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.identity import Profile

log = structlog.get_logger(__name__)


class LastPrimary(NamedTuple):
    """The primary as it was when it was last reached."""

    profile: Profile
    timeline: int


def load_last_primary(directory: Path) -> LastPrimary | None:
    """None if there is none, or none that can be read: then the shipper stays silent until it
    reaches its primary."""
    try:
        return json_decoder(LastPrimary).decode(_path(directory).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        log.warning("what is known of the primary can't be read", error=str(error))
        return None


def save_last_primary(directory: Path, last: LastPrimary) -> None:
    """Blocking.  Says it and goes on when it can't: it is only for a status."""
    try:
        durable.write_file(_path(directory), msgspec.json.encode(last) + b"\n", mode=0o600)
    except OSError as error:
        log.warning("what is known of the primary can't be written", error=str(error))


def _path(directory: Path) -> Path:
    return directory / "primary.json"
