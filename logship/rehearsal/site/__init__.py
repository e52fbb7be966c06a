"""What a rehearsal builds on its machines.

primary   a PostgreSQL primary, its shipper, and the work that goes on
recovery  an applier with the standby of that primary
server    any server that runs on a machine, as the proofs ask it
programs  how programs on a machine are asked
"""
