"""The WAL server: a walsender without a PostgreSQL behind it.

Standbys stream from here with their own walreceiver, exactly as they would from a primary:
`primary_conninfo = 'host=<socket directory> port=<port> user=<instance>'`.  The bytes come
from a `WalSource`, which is the store.  Four layers, imports go one way:

    codec        PostgreSQL's protocol 3 messages: bytes in, messages out, and back
    commands     the replication command language: text in, a command out
    session      startup, who may connect, one query at a time, COPY in and out
    replication  the walsender's role: what may be sent, where a timeline ends, keepalives

None of these sees a socket, a file or a clock: `now` is an argument, and WAL is asked for
with a `WalRequest`.  `server` and `connection` are the only asyncio: one unix socket, a
connection per standby, which performs what its session asks.  `line` says which timelines
there are to follow, `gate` up to where a standby may be served, `status` what is known of it.

A standby sees WAL as soon as it is written, before it is durable here: it can only be
behind the primary, and what the store may lose in a crash comes again from the primary.
"""
