"""The running shipper: joins a source to a destination and survives either going away.

`agent` keeps the connections coming back, `shipping` is one accepted connection,
`pipeline` joins, seals and sends in order.
"""

from shipper.agent.run import run

__all__ = ["run"]
