"""The two ends of a connection: `Dealer` (the shipper's) and `Router` (the applier's)."""

from logship.link.dealer import Dealer, KeyDeniedError
from logship.link.router import Peer, Router

__all__ = ["Dealer", "KeyDeniedError", "Peer", "Router"]
