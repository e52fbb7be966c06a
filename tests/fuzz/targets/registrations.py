"""fleet/NAME.json, an instance that was added: what is damaged leaves it out, and stops no other.

Input: the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec

from applier.fleet.registry import Registration, Registry, Removal
from logship.errors import Code
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import MutateBytes

_MEMORY = Path("/dev/shm")
_SAID = {"port": 5434, "public_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"}
_OTHER = msgspec.json.encode(Registration(name="other", settings=_SAID))
SHORT_RUNS = 1500


def run(data: bytes) -> bool:
    with tempfile.TemporaryDirectory(
        prefix="logship-", dir=_MEMORY if _MEMORY.is_dir() else None
    ) as name:
        registry = Registry(Path(name))
        registry.directory.mkdir()
        registry.path("other").write_bytes(_OTHER)
        registry.path("main").write_bytes(data)
        found = registry.load()
        assert found.entries["other"].settings.port == 5434
        error = found.unreadable.get("main")
        if error is not None:
            check_refusal(error, Code.REGISTRATION_DAMAGED)
            return False
        entry = found.entries["main"]
        registry.path("main").write_bytes(msgspec.json.encode(entry.registration))
        assert registry.load().entries["main"] == entry
        return True


def seeds() -> Iterator[bytes]:
    more = {**_SAID, "seed": "manual", "settings": {"work_mem": "8MB", "jit": False}}
    removal = Removal(keep_data=True, keep_server=False)
    for registration in (
        Registration(name="main", settings=_SAID),
        Registration(name="main", settings=more, removing=removal),
    ):
        yield msgspec.json.encode(registration)
        yield msgspec.json.format(msgspec.json.encode(registration), indent=2)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    try:
        return msgspec.json.encode(mutate_document(msgspec.json.decode(data), random))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return other(data, max_bytes)
