"""Fuzzing of every parser whose bytes come from outside the process: coverage guides atheris.

`targets/` has a module for each parser.  Its `run(data)` makes an input of `data`, hands it to
the real code, and asserts what must hold: an error is a LogshipError (or the protocol's own)
with an expected code and a message of bounded length; what is accepted lies inside its bounds
and comes back the same when it is written and read again; nothing outside is touched.  Where
random bytes would never get past a checksum, `run` puts the checksum right.  `seeds()` gives
good inputs from the real encoders, `mutate` (where there is one) changes an input's structure.

A target runs in a process of its own (`process`), under a limit of memory and one of time for
each input.  `python -m tests.fuzz` (`make fuzz`) runs them for long, and `test_targets` shortly,
always with the same inputs.  An input that broke something is kept in `corpus/TARGET/`, and
replayed by every test run.  docs/reliability.md tells how to go on from a finding.
"""
