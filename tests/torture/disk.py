"""A small file system of its own under the applier, to be filled and to fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.waiting import wait_until

SIZE_MB = 400
PATIENCE_SECONDS = 30.0
_LEFT_MB = 4


class SmallDisk:
    """An ext4 of `SIZE_MB` on a loop device, mounted at `directory`.

    `mount` raises PermissionError, with the reason, where that is not to be had.  Where it is,
    whatever fails is an error: faults that a machine can bring are not left out.  A `mount` that
    raised left no image and nothing mounted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._image = directory.with_name(f"{directory.name}.img")
        self._ballast = directory / "ballast"
        self._device = ""
        self.is_broken = False

    def mount(self) -> None:
        if why := _not_permitted():
            raise PermissionError(why)
        try:
            with self._image.open("wb") as file:
                file.truncate(SIZE_MB << 20)
            _run("mkfs.ext4", "-q", "-m", "0", self._image)
            self.directory.mkdir(mode=0o711)
            self._attach()
            self.directory.chmod(0o711)
        except BaseException:
            self.unmount()
            raise

    def fill(self) -> None:
        """Take nearly all the room there is."""
        room = os.statvfs(self.directory)
        wanted = room.f_bavail * room.f_frsize - (_LEFT_MB << 20)
        if wanted > 0:
            with contextlib.suppress(OSError), self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, wanted)

    def empty_if_writable(self) -> None:
        if not self.is_broken:
            self._ballast.unlink(missing_ok=True)

    def break_down(self) -> None:
        """Have the kernel find an error: it makes the file system read-only under its users."""
        (Path("/sys/fs/ext4") / self._device / "trigger_fs_error").write_text("torture")
        self.is_broken = True

    def repair(self) -> None:
        """As a reboot does.  Nobody may use it but who is about to end: a server that was just
        being started, and can't write, or what was killed and is not wholly gone."""
        wait_until(self._is_let_go, PATIENCE_SECONDS, f"end of whoever uses {self.directory}")
        # 1: errors were corrected.
        _run("e2fsck", "-p", self._image, accept=(0, 1))
        self._attach()
        self.is_broken = False
        self.empty_if_writable()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.directory], check=False, capture_output=True)
        self._image.unlink(missing_ok=True)

    def _is_let_go(self) -> bool:
        """Whether it could be unmounted."""
        try:
            _run("umount", self.directory)
        except OSError as error:
            if "busy" not in str(error):
                raise
            return False
        return True

    def _attach(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", self._image, self.directory)
        number = os.minor(self.directory.stat().st_dev)
        self._device = f"loop{number}"


def _not_permitted() -> str:
    """Why nobody can mount a file system of their own here, or ""."""
    if os.geteuid() != 0:
        return "only root can mount a file system"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    missing = [program for program in ("mkfs.ext4", "e2fsck") if shutil.which(program) is None]
    return f"{' and '.join(missing)} can't be found" if missing else ""


def _run(*command: str | Path, accept: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in accept:
        raise OSError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}".strip())
