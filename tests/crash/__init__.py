"""Crash points: the process dies before its N-th step, for every N; a restart must mend it.

A step is whatever leaves a trace outside the process: a sync, a rename, a removal, a program
started, a statement sent to the standby, a signal.  `dying` runs a real `applier run` or
`shipper promote --offline` and ends it there, as SIGKILL does; PostgreSQL is real and lives on,
or dies as well when the whole machine is meant.  `places` brings an applier's directory back to
where a crash is tried from.

What is lost with the machine's memory (unsynced bytes and names) can't be had from real
processes: tests/unit/applier/store/test_crashes.py does that for the store over a disk in
memory, tests/unit/applier/receivers/seed for each prefix of a seed's placement.
"""
