"""How an instance comes in by a one-time token, without anybody copying keys.

`applier enroll NAME` has a token made (`logship.link.token`); `shipper join` redeems it over the
link, and the instance is registered with the shipper's own key.  `record` is what is remembered
of a token, and whether it may be redeemed; `desk` keeps the tokens and registers.  The joining
connections are `applier.receivers.joining`.
"""
