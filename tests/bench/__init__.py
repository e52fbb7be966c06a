"""The benchmark behind `make bench`: Logship beside PostgreSQL's own replication.

Every ratio compares two runs of the same work inside one repetition, minutes apart at most, on
the same primary and disk; absolute figures are of one machine only.  docs/performance.md tells
the method and, between its markers, what the last full run found.

    __main__      the command line: which measures, in which order, saved after each
    sizes         how much of everything a full or a quick run does
    site          the primary, its native standbys, Logship's pair of processes, the workload
    fleet         many instances on one applier, made cheaply
    simulated     their shippers, in a process of its own; writers: small commits, likewise
    machine       what is read of /proc, and memory touched before a repetition
    checkout      which commit was measured
    receivers     pg_receivewal and pgBackRest, whose CPU is compared
    measures/     one module per measure: takes the site, returns figures
    catalog       every figure: its name, unit, aim, and what it means
    results       build/bench.json: merging, saving, the keys others read
    samples       percentiles and ratios
    page, chart   the results as text, Markdown and SVG

`python -m tests.bench --help` lists the options.  Tests of the parts that need no server lie
beside them (`test_*.py`).
"""
