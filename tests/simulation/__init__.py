"""All of Logship's logic on one seeded scheduler, with nothing real below it.

A seed is one history: a recovery server with one or two instances, their primaries and
shippers, a standby each; some seconds in which things break; then quiet, in which everything
must arrive.  What runs is the shipped code, asyncio shells included (`wiring` says which and
what stands in for the world).  `python -m tests.simulation --seed N --steps` replays one.

    loop       asyncio on a simulated clock; processes that can be killed or frozen anywhere
    network    connections as ZeroMQ and TCP show them: delays, cuts, partitions, and abuse
    disk       `tests.support.fake_disk`, and machines that stop inside an operation
    cluster    primaries: WAL, timelines, slots, the replication protocol
    standby    PostgreSQL's walreceiver over the real WAL server
    wiring     puts all this under the real code
    world      one seed's parties, their starts and ends, and the operators
    scenario   the faults, the quiet, and `run`
    checker    what was promised, and whether it is kept: invariants 1 to 6 of DESIGN.md
    mistakes   known bugs to plant, to see that the checker finds them

docs/simulation.md says what it shows and what it can't.
"""
