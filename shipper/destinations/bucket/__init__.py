"""Destination `bucket`: WAL, histories and seeds as objects that an applier fetches.

    destination   the `Destination`: one connection at a time, and what outlives it
    chain         where the log in the bucket ends, found at start-up and after a loss
    log           the end of the log while a connection lasts
    batches       what becomes an object, and when
    objects       makes objects: spans, markers, histories, profiles
    uploads       carries several at once, and says in order what is stored
    segments      joins finished segments and removes their parts
    seeds         writes seeds
    wishes        who wants a seed: an order, the clock
    alive         the sign of life
    threads       those that wait for the bucket

Durable is what is stored without a hole before it.  While the bucket is away for a short time
uploads are tried again and nothing is read again; past that the connection is lost, and the
next one starts where the bucket's log ends.  Nothing is asked of the bucket while nothing is
shipped, unless signs of life are wanted.
"""
