"""The programs of a rehearsal that run on its machines: JSON in on stdin, JSON out on stdout.

A program that fails exits 1 and says why on stderr.
"""
