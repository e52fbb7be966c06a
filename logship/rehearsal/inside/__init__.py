"""The programs of a rehearsal that run on its machines: JSON in on stdin, JSON out on stdout.

One that fails exits 1, and its answer is an `error` that says why.  Only `writer` has arguments
instead, as it goes on until it is told to end.
"""
