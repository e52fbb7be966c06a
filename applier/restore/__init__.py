"""Recovery to a point in time: an instance as it was, in a directory of its own.

    targets     what an operator asks for                              intervals  ranges of LSNs
    bucket_wal  the WAL in a bucket: listed, fetched                   spool      fetched objects
    kept        store and bucket as one, along a line of descent       records    walking it
    seeds       the base backups to start from
    window      what can be restored to: from each seed's consistency to the end of its WAL
    finding     from a target to the LSN at which to stop
    serving     the WAL as the WAL server takes it, fetched ahead
    restoring   seed, replay to the stop, open
    sources     all there is of one instance, opened to be read        opening    from settings
    from_settings  where it goes and what runs it                      drilling   a proof of it all
    drill_place  where a drill goes, by one at a time                  reading    what came back

Targets all become one thing, an LSN at which a record ends; PostgreSQL never sees a byte behind
it.  A running applier is not needed and not disturbed.  docs/point-in-time.md is the prose.
"""
