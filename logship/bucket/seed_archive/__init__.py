"""A base backup as objects: written from the frames of a seed, read as such frames again.

    INSTANCE/INCARNATION/seeds/LSN-SEEDID/begin            what it is of (JSON)
    INSTANCE/INCARNATION/seeds/LSN-SEEDID/ARCHIVE/000000   its bytes, in parts
    INSTANCE/INCARNATION/seeds/LSN-SEEDID/end              that it is complete, and every part

ARCHIVE is `base` (the data directory), the OID of a tablespace, or `manifest`; parts are
numbered with 6 hexadecimal digits.  A part is whole zstd frames, all of it sealed once more
where recipients are configured, so the parts of one archive, in order, are its tar stream for
`age -d`, `zstd -d` and `tar x` alone.  `end` is made last and removed first: a seed without it
is unfinished.

    documents     `begin` and `end`
    verification  what passes by is what the backup manifest lists
    writing       frames in, objects out, a few parts on their way at a time
    reading       which seeds there are; objects in, frames out; removal

The same form serves a bucket, a local directory and the seeds that an applier keeps
(`logship.objects.directory`).  All of it blocks.  docs/seeding.md is the prose.
"""

from logship.bucket.seed_archive.documents import (
    PLAIN,
    ArchiveParts,
    Opens,
    Part,
    Plain,
    Seals,
    SeedInfo,
    seed_name,
)
from logship.bucket.seed_archive.reading import (
    find_seed,
    list_seeds,
    read_seed,
    remove_seed,
    unfinished_seeds,
)
from logship.bucket.seed_archive.writing import SeedArchiveWriter

__all__ = [
    "PLAIN",
    "ArchiveParts",
    "Opens",
    "Part",
    "Plain",
    "Seals",
    "SeedArchiveWriter",
    "SeedInfo",
    "find_seed",
    "list_seeds",
    "read_seed",
    "remove_seed",
    "seed_name",
    "unfinished_seeds",
]
