"""The live road: sessions without I/O, and the ZeroMQ transport that carries them.

The shipper's DEALER connects to the applier's ROUTER over TCP, CURVE always on.  One socket
is one connection is one session; a lost connection is never mended silently, it is closed
and a new one made with a new hello.

- `keys`: CURVE key files.
- `transport`: `Dealer` and `Router`, plain pyzmq sockets on the event loop (`pump`).
- `shipper_session`, `applier_session`: the protocol; `events` is what they return,
  `states` their tables, `windows` the byte accounts and the seed's outbox, `wal_inbox` and
  `seed_inbox` the applier's accounts of what came, `acks` its acknowledgements.
- `alarm`: the timer that a session's shell needs.
- `instances`: which connection holds an instance, and which key may.

docs/link-protocol.md is the prose.  Imports run: transport and sessions beside each other,
neither knows the other; the shipper's agent and the applier's receiver join them.
"""
