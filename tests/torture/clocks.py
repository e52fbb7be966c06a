"""A process whose wall clock jumps: `python clocks.py FILE PROGRAM ARGUMENTS…`.

Runs `PROGRAM.commands.main` with `time.time` replaced before anything of it is imported: FILE
holds a double, the seconds that it is ahead, and may change at any time.  The monotonic clock is
the real one, as when an operator or a time server steps the clock.  All of Logship reads the wall
clock that way (`test_no_other_wall_clock_is_read` watches over that), but for the time stamps of
its logs; PostgreSQL's own is not touched.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from importlib import import_module
from pathlib import Path

from tests.support.as_installed import AS_INSTALLED

_DOUBLE = struct.Struct("d")


def write_offset(path: Path, seconds: float) -> None:
    """Step the clock of the process that was given `path`, now or at its start."""
    if path.exists():
        with path.open("r+b") as file:
            file.write(_DOUBLE.pack(seconds))
    else:
        path.write_bytes(_DOUBLE.pack(seconds))


def main() -> int:
    path, program, *arguments = sys.argv[1:]
    with open(path, "rb") as file:
        offset = mmap.mmap(file.fileno(), _DOUBLE.size, access=mmap.ACCESS_READ)
    real_time = time.time

    def stepped_time() -> float:
        return real_time() + float(_DOUBLE.unpack_from(offset)[0])

    time.time = stepped_time
    exec(AS_INSTALLED)
    sys.argv[1:] = arguments
    status: int = import_module(f"{program}.commands").main()
    return status


if __name__ == "__main__":
    raise SystemExit(main())
