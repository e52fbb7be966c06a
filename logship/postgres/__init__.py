"""PostgreSQL as a program and as a peer: the one place that starts, stops and talks replication.

As a program: `installations` finds servers on this machine and chooses one by version,
`probe` learns what an installation makes, `run_as` says under which account it runs (it
refuses root), `process` starts, stops, adopts, reloads and promotes a server that outlives
us (`postmaster` tells whether one runs, `private_paths` shows a server directories that nobody
else sees), and `control_file` reads `global/pg_control` of a data directory, running or not.

As a peer: `replication` is the client of the physical replication protocol, on libpq through
`psycopg.pq`.  Below it, `libpq` turns libpq's non-blocking calls into awaitable ones and
`conninfo` finds the servers that a connection string means; `stream_messages` and
`base_backup` read what a server sends, and `server_errors` turns what it or libpq complains
of into our error codes.  Nothing here decides when to reconnect or what to do with WAL.
"""
