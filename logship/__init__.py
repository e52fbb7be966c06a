"""What the shipper and the applier share; imports neither.

Vocabulary first: `lsn` (positions and timelines), `wal` (segment names, page headers,
timeline histories), `identity` (which cluster is this, and what does it look like),
`errors` (every failure a user can meet).  Then the road: `frames` (what travels), `seal`
(compression and checksums), `link` (sessions and the ZeroMQ transport), `durable` (the one
place that fsyncs), `settings`, `logs`, and `postgres` (installations, processes, the
replication protocol's client side).
"""

__version__ = "0.1.0"
