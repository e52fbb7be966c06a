"""Stored bytes for the kernel to copy, without their passing through this process."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class FileSlice:
    """A part of a segment's file, with a handle of its own: close it, or use it as a context.

    The bytes are written and never change; renaming or removing the file changes nothing for
    who holds a slice.
    """

    def __init__(self, fd: int, offset: int, size_bytes: int) -> None:
        """fd: duplicated, the caller keeps its own.  Raises OSError."""
        self.fd = os.dup(fd)
        self.offset = offset
        """In the file; with what is taken from its front it moves on."""
        self.size_bytes = size_bytes
        """What is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, socket_fd: int) -> int:
        """Have the kernel copy what the socket takes; returns how many bytes that were.

        0: the file ends before the slice does.  Raises OSError: BlockingIOError while the
        socket is full, EINVAL where the file system can't do it.
        """
        count = os.sendfile(socket_fd, self.fd, self.offset, self.size_bytes)
        self._advance(count)
        return count

    def read(self) -> bytes:
        """All that is left, or less where the file ends.  Raises OSError."""
        data = os.pread(self.fd, self.size_bytes, self.offset)
        self._advance(len(data))
        return data

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _advance(self, count: int) -> None:
        self.offset += count
        self.size_bytes -= count
