"""The two ends of a connection: `Dealer` (the shipper's) and `Router` (the applier's)."""

from logship.link.dealer import Dealer
from logship.link.router import Peer, Router

__all__ = ["Dealer", "Peer", "Router"]
