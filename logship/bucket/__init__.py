"""What lies in a bucket: one instance's WAL, histories, seeds, and who may write them.

    INSTANCE/epoch                                   who writes (JSON; `epoch`)
    INSTANCE/alive                                   sign of life (JSON; `sign_of_life`)
    INSTANCE/INCARNATION/wal/TIMELINE/LSN            a span of WAL, or a marker (`wal_objects`)
    INSTANCE/INCARNATION/segments/TIMELINE/SEGMENT   a finished segment in one object
    INSTANCE/INCARNATION/histories/TIMELINE          a `.history` file
    INSTANCE/INCARNATION/profiles/DIGEST             what the primary was (JSON)
    INSTANCE/INCARNATION/seeds/LSN-SEEDID/...        a base backup in parts (`seed_archive`)

TIMELINE is 8 and LSN 16 hexadecimal digits, so that keys sort as positions do; SEGMENT is
PostgreSQL's own file name.

Bodies are zstd frames one after the other; where recipients are configured that is sealed
once more with age.  `zstd -d`, after `age -d`, opens each of them.  What a reader needs before
it opens one, and a writer who can't open it, stands in the object's metadata.

**Following.**  The end of one WAL object names the next, so a reader that is up to date asks for
one key and never lists.  Where the WAL does not simply go on, an object without a body, a
*marker*, stands at the place of the next one and says how: on another timeline, with a hole, or
with a new seed.  `Place` is where to look next.

**Writing.**  WAL objects are only ever made, never replaced, by the holder of the epoch.
Listings serve start-up and holes.

**Reading.**  `listing` tells WAL from what else may lie there, by its key; `reading` has the
documents, and which incarnation is the newest.
"""
