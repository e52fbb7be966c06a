"""Destination `several`: a link and a bucket, or more, used as one.

destination   the `Destination`: one task for each member that connects, listens and connects
              again, and a clock
flow          decides: what each member is sent, and what is acknowledged
members       one member as `flow` sees it
spill         when a bucket is spilled to, from where, and up to where that counts
turns         members far apart get the stream by turns
room          waits for those that get the next span
seeds         who gets a seed
commands      what `flow` has the shell do
"""
