"""What the applier does with an instance: receive, keep, follow, promote.

record     what is remembered of an instance over restarts (instance.json)
instance   one instance: the receivers' intake, joined to its store and its standby
keeping    its store: opened, closed, opened again
primary    its primary, as its senders tell of it
following  its standby: version check, start, what holds it
serving    what the WAL server gives its standbys, and what they say of themselves
promoted   whom the server of a promoted cluster lets in, and its memory
standby_gate, standby_making  how far it may be given WAL; its server with its settings
tablespaces  what the primary makes of them: noted, and the standby held until it can follow
incarnations  which cluster it is: another one may take its place, and an older one come back
former     the clusters that it was, until they go
switching  have its standby run on another installation
version_check, live_check  whether its standby may replay; what it says when it runs
promotion  open the standby, online or offline, and say what was lost
bucket_road, shipper_sign  its bucket, beside the link or alone; whether that one's shipper lives
apply_age  how old the oldest WAL is that the standby has not replayed
pace       how fast a seed arrives
state      the document that `shipper status` shows
"""
