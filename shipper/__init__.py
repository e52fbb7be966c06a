"""The production side: takes one primary's WAL as it is written and ships it.

`sources` read WAL (now: a replication connection), `destinations` carry it away (now: the
link to an applier), `seeding` sends base backups, `agent` joins them into the running
process, `commands` is what the user types.
"""
