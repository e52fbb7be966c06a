"""Receiver `bucket`: WAL and seeds from an object store, with no word to the primary.

`receiver` feeds all instances that are attached to the bucket, each by a `reader`, the shell
around a `cursor`: pure logic that knows what to ask for next, what to fetch ahead and what to
hand on.  `contents` does the blocking calls and checks what comes; `seeds` chooses a seed that
can be recovered and feeds it.

While nothing is missing the cursor asks for the one next object by its name, once a poll.
Listings serve the start, and holes; `succession` looks rarely whether another cluster came.
Where the shipper gives signs of life, `watch` looks at them, and `signs` says what they mean.
"""
