"""pg_control, its checksum put right, and what is made of it: a profile and a verdict.

Input: flags (1: the checksum as it comes), bytes of the data in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import crc32c

from applier.compat import RULES, DataDirectoryFacts, StandbyProfile, check
from logship.errors import Code, LogshipError
from logship.frames import ProfileChanged, decode_from_shipper, encode
from logship.identity import Profile
from logship.postgres import control_file
from logship.postgres.control_file import CONTROL_FILE_BYTES, ControlFile, parse_control_file
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input, check_message

RAW = 1
_LAYOUT = (
    (0, control_file._HEAD, (7301234567890123456, 1300, 202406281, 6, 1_700_000_000, 0x2000028)),
    (40, control_file._CHECKPOINT, (0x2000028, 1, 1)),
    (136, control_file._RECOVERY, (0, 0, 0, 0, False)),
    (172, control_file._PARAMETERS, (1, False, 100, 8, 10, 0, 64, False)),
    (204, control_file._BUILD, (8, 1234567.0, 8192, 131072, 8192, 1 << 24, True, 1)),
)


def run(data: bytes) -> bool:
    fields = Input(data)
    flags, content = fields.number(), bytearray(fields.rest().ljust(CONTROL_FILE_BYTES, b"\0"))
    offset = control_file._CRC_OFFSET.get(int.from_bytes(content[8:12], "little"), 0)
    if offset and not flags & RAW:
        content[offset : offset + 4] = struct.pack("<I", crc32c.crc32c(bytes(content[:offset])))
    try:
        found = parse_control_file(bytes(content))
    except LogshipError as error:
        check_refusal(error, Code.CONTROL_FILE)
        return False
    _judge(found)
    return True


def _judge(found: ControlFile) -> None:
    profile = found.profile(server_version_num=170009, architecture="x86_64")
    frame, _ = decode_from_shipper(encode(ProfileChanged(profile=profile)))
    assert frame == ProfileChanged(profile=profile)
    mine = control_profile()
    standby = StandbyProfile.of(mine, DataDirectoryFacts.of(found))
    verdict = check(profile, standby, mine.incarnation)
    assert [each.rule for each in verdict.findings] == [rule.name for rule in RULES]
    for each in verdict.findings:
        check_message(f"{each.rule} {each.primary} {each.standby}")


def control_profile() -> Profile:
    """Of the good control file."""
    made = content().ljust(CONTROL_FILE_BYTES, b"\0")
    made = made[:288] + struct.pack("<I", crc32c.crc32c(made[:288])) + made[292:]
    return parse_control_file(made).profile(server_version_num=170009, architecture="x86_64")


def content(version: int = 1300) -> bytes:
    """A control file's data as a server of 14 to 18 writes it."""
    made = bytearray(296)
    for offset, fields, values in _LAYOUT:
        fields.pack_into(made, offset, *values)
    made[8:12] = version.to_bytes(4, "little")
    return bytes(made)


def seeds() -> Iterator[bytes]:
    for version in (1300, 1700, 1800):
        yield b"\0" + content(version)


MAX_BYTES = 400
