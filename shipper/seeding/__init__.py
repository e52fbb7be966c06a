"""A seed leaves: a base backup of the primary, streamed down the road as it is read.

`SeedSender` runs `BASE_BACKUP` on a replication connection of its own, and nothing of it ever
lies on a disk here.  How far it may run ahead of the far end is for the `send` that it is
given to say, by waiting; while that waits, the primary waits too.  docs/seeding.md is the
prose; the far end is `applier/receivers/seed`.
"""

from shipper.seeding.sender import SeedFrame, SeedSender, SendSeed

__all__ = ["SeedFrame", "SeedSender", "SendSeed"]
