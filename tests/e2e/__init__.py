"""The shipper and the applier as processes, beside real servers, from end to end."""
