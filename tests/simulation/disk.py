"""The recovery server's disk: `FakeDisk`, plus being slow, and stopping a machine in mid-call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from random import Random
from typing import Any

from logship.durable import DISK_FULL_ERRNOS
from tests.simulation.loop import PROCESS
from tests.support.fake_disk import Crashed, FakeDisk, _Inode


class SimDisk(FakeDisk):
    """One machine's disk.  `stopped` is called when an operation at which to crash is reached;
    from then on nothing works until `crash` or `kill`."""

    def __init__(self, random: Random, stopped: Callable[[], None]) -> None:
        super().__init__()
        self.random = random
        self.slow_factor = 1.0
        self._stopped = stopped
        self._halted = False
        self._observed = False

    def crash_after(self, operations: int) -> None:
        """Stop the machine at the operation after so many more."""
        self.crash_at = len(self.operations) + operations

    @contextlib.contextmanager
    def observed(self) -> Iterator[None]:
        """What is read in here is read by the checker: it is no operation of the machine."""
        before, self._observed = self._observed, True
        try:
            yield
        finally:
            self._observed = before

    def _step(self, operation: str, path: Any) -> None:
        if self._observed:
            return
        if self._halted:
            raise Crashed("halted")
        try:
            super()._step(operation, path)
        except Crashed:
            self._halted = True
            self._stopped()
            raise

    def halt(self) -> None:
        """The process died: what still runs of it in this call stack does nothing more."""
        self._halted = True

    def _stop(self) -> None:
        super()._stop()
        self._halted = False

    def close(self, fd: int) -> None:
        if not self._halted:
            super().close(fd)

    def clone(self, random: Random) -> SimDisk:
        """A disk in the same state, with a fate of its own."""
        other = SimDisk(random, lambda: None)
        inodes: dict[int, _Inode] = {}
        for files in (self._files, self._durable_files):
            for inode in files.values():
                if id(inode) not in inodes:
                    inodes[id(inode)] = copied = _Inode.__new__(_Inode)
                    copied.cache = bytearray(inode.cache)
                    copied.disk = bytearray(inode.disk)
                    copied.pending = list(inode.pending)
        other._files = {path: inodes[id(inode)] for path, inode in self._files.items()}
        other._durable_files = {p: inodes[id(i)] for p, i in self._durable_files.items()}
        return other


class SimPath(PurePosixPath):
    """A path on the disk of the machine that the calling process runs on.

    Compares as text and remembers its parent: it is the key of all that `FakeDisk` does.
    """

    _parent: SimPath | None = None

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimPath) and str(self) == str(other)

    @property
    def parent(self) -> SimPath:
        if self._parent is None:
            self._parent = super().parent
        return self._parent

    def read_bytes(self) -> bytes:
        process = PROCESS.get()
        assert process is not None
        content = process.machine.disk.read_file(self)
        if content is None:
            raise FileNotFoundError(2, "no such file", str(self))
        return bytes(content)


class SimDurable:
    """`logship.durable`, on the disk of the calling process."""

    DISK_FULL_ERRNOS = DISK_FULL_ERRNOS

    @staticmethod
    def write_file(path: SimPath, data: bytes, mode: int = 0o600) -> None:
        process = PROCESS.get()
        assert process is not None
        process.machine.disk.write_file(path, data)

    @staticmethod
    def make_directory(path: SimPath, mode: int = 0o700) -> None:
        process = PROCESS.get()
        assert process is not None
        process.machine.disk.make_directory(path)
