"""Tests of the shipper and the applier as processes, from end to end."""
