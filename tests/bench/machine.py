"""What the machine tells: CPU and memory of processes, how busy it is, what it is."""

from __future__ import annotations

import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def make_ready(touch_bytes: int) -> None:
    """Before each repetition: nothing is left to be written, and memory is the guest's own.

    On virtual machines the host takes free memory back; who touches it first then pays, which
    made whoever ran first look up to twice as slow.  At most half of what is available.
    """
    os.sync()
    time.sleep(0.5)
    size_bytes = min(touch_bytes, _available_bytes() // 2)
    pages = size_bytes // mmap.PAGESIZE
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        memory[:: mmap.PAGESIZE] = bytes(pages)


def _available_bytes() -> int:
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024


def _kilobytes(path: Path, field: str) -> int:
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(f"{path} has no {field}")


class ProcessTimes(NamedTuple):
    """Of /proc/PID/stat (proc(5)); seconds of user and system time together."""

    pid: int
    name: str
    state: str
    parent_pid: int
    own_seconds: float
    reaped_seconds: float
    """Of children that ended and were waited for, and of theirs."""

    @property
    def seconds(self) -> float:
        return self.own_seconds + self.reaped_seconds


def parse_stat(text: str) -> ProcessTimes:
    """One line of /proc/PID/stat.  The name may hold spaces and brackets."""
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    user, system, reaped_user, reaped_system = map(int, fields[11:15])
    return ProcessTimes(
        int(pid),
        name,
        fields[0],
        int(fields[1]),
        (user + system) / TICKS_PER_SECOND,
        (reaped_user + reaped_system) / TICKS_PER_SECOND,
    )


def times_of(pid: int) -> ProcessTimes:
    """Of a process that is there, a zombie too."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))


def all_times() -> Iterator[ProcessTimes]:
    """Of all processes there are."""
    for directory in os.listdir("/proc"):
        if directory.isdigit():
            try:
                yield times_of(int(directory))
            except (FileNotFoundError, ProcessLookupError):
                continue


def run_seconds(pid: int) -> float:
    """CPU time of a process's first thread, in nanoseconds' resolution: for what uses less than a
    tick.  0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(text.split()[0]) / 1e9


def count_of(pid: int, what: str) -> int:
    """How many threads (`task`) or open files (`fd`) a process has."""
    return len(os.listdir(f"/proc/{pid}/{what}"))


def with_children(pid: int) -> list[int]:
    """A process and the processes that it has started."""
    listing = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [pid, *map(int, listing.split())]


class Memory(NamedTuple):
    """MB (10^6 bytes).  pss: shared pages divided among those who share them."""

    rss_mb: float
    peak_rss_mb: float
    pss_mb: float


def memory_of(pid: int) -> Memory:
    status = Path(f"/proc/{pid}/status")
    pss = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    return Memory(
        _kilobytes(status, "VmRSS") * 1024 / 1e6,
        _kilobytes(status, "VmHWM") * 1024 / 1e6,
        pss * 1024 / 1e6,
    )


def forget_peak(pid: int) -> None:
    """Let `peak_rss_mb` count from now on (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


class MachineClock:
    """CPU seconds of the whole machine since this was made."""

    def __init__(self) -> None:
        self._busy, self._all = _machine_ticks()

    def read(self) -> tuple[float, float]:
        """(busy seconds, share of all CPU time that was busy)."""
        busy, everything = _machine_ticks()
        spent = busy - self._busy
        # Time that was waited for a disk may count backwards (proc(5)), and all with it.
        return spent / TICKS_PER_SECOND, spent / max(1, spent, everything - self._all)


def _machine_ticks() -> tuple[int, int]:
    with open("/proc/stat", encoding="ascii") as file:
        # user nice system idle iowait irq softirq steal; guest time is in user already.
        fields = [int(field) for field in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def busy_share(seconds: float = 1.0) -> float:
    """How busy the machine is with other things: looked at for `seconds`."""
    clock = MachineClock()
    time.sleep(seconds)
    return clock.read()[1]


def settle(
    most_share: float, patience_seconds: float, look: Callable[[], float] = busy_share
) -> float:
    """Wait until the machine is at most `most_share` busy, and no longer than `patience_seconds`:
    what went before may have left it work.  Returns how busy it was last."""
    deadline = time.monotonic() + patience_seconds
    while (share := look()) > most_share and time.monotonic() < deadline:
        pass
    return share


def facts(directory: Path) -> dict[str, str]:
    """What a reader of the results should know of this machine."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gb = _kilobytes(Path("/proc/meminfo"), "MemTotal") * 1024 / 1e9
    return {
        "CPU": f"{len(os.sched_getaffinity(0))} × {model}",
        "memory": f"{memory_gb:.0f} GB",
        "kernel": platform.release(),
        "file system": _file_system(directory),
    }


def _file_system(directory: Path) -> str:
    found = ("", "unknown")
    where = str(directory.resolve())
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(found[0]):
            found = (mount, kind)
    return found[1]
