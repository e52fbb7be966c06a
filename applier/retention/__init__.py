"""What is kept, and for how long: WAL and seeds, in the store, in a bucket, and beside it.

    plan      facts in, what goes and why everything else stays out; no I/O
    bucket    facts of a bucket, and the removal
    report    what was decided, for people and as JSON

The store's side, which needs to know the standby, is `applier.operations.retention`.
docs/retention.md is the prose.
"""
