"""Real processes, a real workload, and faults at random moments: kill tests.

A round is a function of its seed: `plan` says what happens when, `round` does it with the
processes of one `tests.support.pair.Pair`, `writers` remember what they were told, and
`judge` compares that with the server that was promoted in the end.  How the machine schedules
everything is not in the seed, so a failure may take several runs of it to come again.

    python -m tests.torture --seed 7             one round, told as it goes
    python -m tests.torture --minutes 60         rounds of new seeds until the time is over
"""
