"""What tells this machine from a copy of it, as far as any user may read it.

A copy of a machine's disk has its machine id, but other network cards and, in a cloud, another
instance id.  All are digests: machine ids are not for others to see (machine-id(5)).
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Final, NamedTuple

_MACHINE_ID_FILES: Final = ("etc/machine-id", "var/lib/dbus/machine-id")
_CARDS: Final = "sys/class/net"
_CLOUD_FILE: Final = "var/lib/cloud/data/instance-id"
_RANDOM_ADDRESS: Final = "1"
"""NET_ADDR_RANDOM: another one with each start."""
_NO_ADDRESS: Final = "00:00:00:00:00:00"


class Machine(NamedTuple):
    """Not known is what is empty."""

    id: str
    cards: tuple[str, ...] = ()
    """Of the hardware addresses of its network cards, in order."""
    cloud: str = ""
    """Of the id that a cloud gave it."""

    def may_be(self, other: Machine) -> bool:
        """Whether both may be one machine.  One card of several may be exchanged, and what is
        known of one alone does not count: an older version, or a container, says less."""
        if self.id != other.id:
            return False
        if self.cards and other.cards and not set(self.cards) & set(other.cards):
            return False
        return not (self.cloud and other.cloud and self.cloud != other.cloud)


def this_machine(root: Path = Path("/")) -> Machine:
    """Blocking.  What can't be read is not known."""
    for name in _MACHINE_ID_FILES:
        if text := _text(root / name):
            secret = text
            break
    else:
        return Machine(platform.node())
    cards = sorted({_digest(f"{secret} {address}") for address in _addresses(root / _CARDS)})
    cloud = _text(root / _CLOUD_FILE)
    return Machine(_digest(secret), tuple(cards), _digest(f"{secret} {cloud}") if cloud else "")


def _addresses(directory: Path) -> list[str]:
    """Of cards that are hardware, or look like it to this machine; none of bridges, tunnels and
    what containers have, which come and go."""
    try:
        cards = [card for card in directory.iterdir() if (card / "device").exists()]
    except OSError:
        return []
    found = [
        _text(card / "address").lower()
        for card in cards
        if _text(card / "addr_assign_type") != _RANDOM_ADDRESS
    ]
    return [address for address in found if address not in ("", _NO_ADDRESS)]


def _digest(text: str) -> str:
    return hashlib.sha256(f"logship {text}".encode()).hexdigest()[:32]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
