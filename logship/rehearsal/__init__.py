"""Rehearses a change of production on throw-away servers: would protection survive it?

A rehearsal builds a primary with a shipper and a recovery server with an applier, of the very
versions, libraries and settings that are planned, and carries the plan out on them step by
step.  Before a step the version check is asked, on copies that have the step behind them;
then the step is made; then what happened is looked at, and the two are compared.

It knows shipper and applier by their command lines alone, as an operator does: so the Logship
that is rehearsed may be another than this one.

    plan/      what is to be rehearsed: a plan's TOML or flags, as values
    engine/    the machines it happens on: containers, or directories of this host
    inside/    the programs of a rehearsal that run on those machines
    site/      the primary, the shipper, the recovery server, and the work that goes on
    steps/     one module for each kind of change
    proofs/    what is looked at after a step: flow, contents, indexes, order of text, promotion
    outcome    what came of it, as values
    agreement  whether the version check said what then happened
    proving    the proofs that fit how it is after a step
    running    carries a plan out
    reports/   the outcome as a table, JSON, JUnit XML and an HTML page
    plugin     the same as fixtures of pytest
"""
