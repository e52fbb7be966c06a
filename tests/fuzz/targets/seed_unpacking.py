"""Whole seeds unpacked into a real directory: nothing outside of it may be touched.

Input: flags (1: links lie in wait; 2: an archive out of turn), then chunks: the data directory's
archive, a tablespace's, one in place, the manifest.  Header checksums are put right.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from applier.receivers.seed.unpacking import Unpacker
from logship.errors import Code, LogshipError
from logship.postgres.run_as import RunAs
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input, MutateBytes, chunk
from tests.fuzz.targets import tar_archives
from tests.fuzz.targets.tar_archives import END, mended
from tests.unit.applier.receivers.seed.archives import entry, link_entry, manifest

LINKS_WAIT, OUT_OF_TURN = 1, 2
OUTSIDE, INSIDE = 16384, 16385
TABLESPACES = [(OUTSIDE, "/srv/space"), (INSIDE, f"pg_tblspc/{INSIDE}")]
MAX_BYTES = 24 * 1024
SHORT_RUNS = 1500
CODES = (Code.BAD_TAR, Code.SEED_FAILED, Code.DISK_FULL)

Tree = dict[str, bytes | str]
OURSELVES = RunAs("us", os.geteuid(), os.getegid(), (), changes=False)
_MEMORY = Path("/dev/shm")


def run(data: bytes) -> bool:
    parent = Path(tempfile.mkdtemp(prefix="logship-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        return _run(Input(data), parent)
    finally:
        shutil.rmtree(parent)


def _run(fields: Input, parent: Path) -> bool:
    flags = fields.number()
    outside = parent / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"not ours")
    home = parent / "home"
    home.mkdir()
    (home / "data").mkdir()
    (home / "data" / "PG_VERSION").write_bytes(b"the standby's that is there")
    before = tree(parent)
    open_files = len(os.listdir("/proc/self/fd"))
    unpacker = Unpacker(home, TABLESPACES, OURSELVES, keep_free_bytes=0)
    content = b""
    try:
        if flags & LINKS_WAIT:
            _lay_links(home, outside)
        content = _unpack(unpacker, fields, flags)
        accepted = True
    except LogshipError as error:
        check_refusal(error, *CODES)
        accepted = False
    finally:
        unpacker.close()
    assert len(os.listdir("/proc/self/fd")) == open_files
    after = tree(parent)
    _check_outside(before, after, home)
    if accepted:
        _check_files(unpacker, content, home)
    return accepted


def _unpack(unpacker: Unpacker, fields: Input, flags: int) -> bytes:
    names = ["", str(OUTSIDE), str(INSIDE)]
    if flags & OUT_OF_TURN:
        names = [names[fields.number() % 3], str(fields.number()), "manifest"]
    for name in names:
        archive = mended(fields.chunk())
        unpacker.start_archive(name)
        half = len(archive) // 2
        unpacker.write(archive[:half])
        unpacker.write(memoryview(archive)[half:])
    unpacker.start_manifest()
    unpacker.write(fields.chunk())
    return unpacker.finish()


def _lay_links(home: Path, outside: Path) -> None:
    """As the server's user could, while a seed that is to belong to it arrives."""
    (home / "data.seeding" / "base").symlink_to(outside)
    (home / "data.seeding" / "PG_VERSION").symlink_to(outside / "file")
    (home / "data.seeding" / "backup_manifest").symlink_to(outside / "manifest")
    (home / "tablespaces.seeding" / str(OUTSIDE) / "PG_17").symlink_to(outside)


def tree(directory: Path) -> Tree:
    """What is below it: files with their bytes, links with their targets, directories."""
    found: Tree = {}
    for root, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(root, name)
            here = str(path.relative_to(directory))
            if path.is_symlink():
                found[here] = f"link to {path.readlink()}"
            else:
                found[here] = path.read_bytes() if path.is_file() else "directory"
    return found


def _check_outside(before: Tree, after: Tree, home: Path) -> None:
    ours = ("home/data.seeding", "home/tablespaces.seeding")
    left = {name: what for name, what in after.items() if not name.startswith(ours)}
    assert left == before
    data = f"{ours[0]}/pg_tblspc/"
    links = {name: what for name, what in after.items() if str(what)[:8] == "link to "}
    for name, what in links.items():
        if name.startswith(data):
            assert what == f"link to {home}/tablespaces/{name.removeprefix(data)}"
        else:
            assert "outside" in str(what), "made by the seed"


def _check_files(unpacker: Unpacker, content: bytes, home: Path) -> None:
    """What it says it wrote is what is there."""
    assert (home / "data.seeding" / "backup_manifest").read_bytes() == content
    for path, arrived in unpacker.files.items():
        outside = b"pg_tblspc/%d/" % OUTSIDE
        base = home / "data.seeding"
        if path.startswith(outside):
            base = home / "tablespaces.seeding" / str(OUTSIDE)
            path = path.removeprefix(outside)
        there = Path(os.fsdecode(os.fsencode(base) + b"/" + path))
        assert there.is_file()
        assert not there.is_symlink()
        assert there.stat().st_size == arrived.size_bytes


SPACE = entry("pg_tblspc/") + link_entry(f"pg_tblspc/{OUTSIDE}/", "/srv/space")
DATA = entry("base/") + entry("base/1/") + entry("base/1/1259", b"p" * 600) + SPACE


def seeds() -> Iterator[bytes]:
    space = entry("PG_17_202406281/") + entry("PG_17_202406281/5", b"s")
    text = manifest({"base/1/1259": b"p" * 600})
    yield b"\0" + chunk(DATA + END) + chunk(space + END) + chunk(space) + chunk(text)
    yield b"\0" + chunk(SPACE) + chunk(b"") + chunk(b"") + chunk(b"")
    inside = entry(f"pg_tblspc/{INSIDE}/") + entry(f"pg_tblspc/{INSIDE}/PG_17/")
    yield b"\0" + chunk(SPACE + inside + END) + chunk(space) + chunk(entry("a", b"b")) + chunk(text)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    fields = Input(data)
    flags = fields.number()
    chunks = [fields.chunk() for _ in range(4)]
    at = random.choice((0, 0, 1, 2, 3))
    if at == 3:
        chunks[3] = other(chunks[3], 300)
    else:
        chunks[at] = tar_archives.mutate(b"\0\0\0" + chunks[at], max_bytes, random, other)[3:]
    if random.random() < 0.2:
        flags = random.randrange(4)
    return bytes([flags]) + b"".join(map(chunk, chunks))
