"""A seed arrives: from the link's seed frames to a data directory that a standby starts from.

    unpacking  entries into files below directories that nothing can lead out of
    early_sync what arrived goes to the disk while more arrives
    placement  the swap of a complete seed into place, step by step, crash-proof
    receiver   the asyncio shell: frames in, order, threads, room, progress

Archives and the manifest are read by `logship.postgres.backup_tar` and `backup_manifest`.
Nothing here knows the link or the store.  What a primary sends is untrusted input: a path, a
link or a size in an archive can only ever fail the seed.  docs/seeding.md is the prose.
"""
