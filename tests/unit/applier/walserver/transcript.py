"""The client's side of the protocol, so that tests read as transcripts.

Functions make what a client sends; `answers` makes text lines of what a server sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from logship.lsn import Lsn

STANDBY = {"user": "orders", "replication": "true", "application_name": "standby"}


def startup(protocol: int = 3 << 16, /, **parameters: str) -> bytes:
    fields = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items())
    body = struct.pack("!I", protocol) + fields + b"\0"
    return struct.pack("!I", 4 + len(body)) + body


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", 4 + len(body)) + body


def query(text: str) -> bytes:
    return message("Q", text.encode() + b"\0")


def report(write: int, flush: int = 0, apply: int = 0, *, asks: bool = False) -> bytes:
    return message("d", b"r" + struct.pack("!QQQqB", write, flush, apply, 0, asks))


def feedback() -> bytes:
    return message("d", b"h" + struct.pack("!qIIII", 0, 740, 0, 0, 0))


def copy_done() -> bytes:
    return message("c")


def answers(chunks: Iterable[bytes]) -> list[str]:
    """One line a message; a result's rows as `row a, b`; WAL as `wal START..END of END`."""
    data = b"".join(chunks)
    lines: list[str] = []
    while data:
        kind, (length,) = data[:1].decode(), struct.unpack_from("!I", data, 1)
        body, data = data[5 : 1 + length], data[1 + length :]
        lines.append(_line(kind, body))
    return lines


def _line(kind: str, body: bytes) -> str:
    if kind == "E":
        fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
        return f"{fields[b'S']} {fields[b'C']} {fields[b'M']}"
    if kind == "D":
        return "row " + ", ".join(_values(body))
    if kind == "d" and body[:1] == b"w":
        start, end, _ = struct.unpack_from("!QQq", body, 1)
        return f"wal {Lsn(start)}..{Lsn(start + len(body) - 25)} of {Lsn(end)}"
    if kind == "d" and body[:1] == b"k":
        end, _, asks = struct.unpack("!QqB", body[1:])
        return f"keepalive {Lsn(end)}" + (" reply" if asks else "")
    if kind == "C":
        return "complete " + body[:-1].decode()
    if kind == "S":
        return "parameter " + "=".join(part.decode() for part in body.split(b"\0")[:2])
    if kind == "K":
        return f"key of {len(body) - 4} bytes"
    if kind == "v":
        version, count = struct.unpack_from("!II", body)
        names = [part.decode() for part in body[8:].split(b"\0")[:count]]
        return f"negotiate {version >> 16}.{version & 0xFFFF} {names}"
    names_of = {"R": "ok", "Z": "ready", "T": "columns", "W": "copy", "c": "copy done"}
    return {**names_of, "I": "empty"}[kind]


def _values(body: bytes) -> list[str]:
    (count,) = struct.unpack_from("!H", body)
    at, values = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        if length < 0:
            values.append("NULL")
        else:
            values.append(body[at : at + length].decode())
            at += length
    return values
