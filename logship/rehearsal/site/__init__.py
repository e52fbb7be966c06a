"""What a rehearsal builds on its machines.

stage     both sides, as the steps change them
primary   a PostgreSQL primary, its shipper, and the work that goes on
copied    a real instance, as the primary starts from it
cluster   what PostgreSQL's own programs do with its data directory
generated the tables that are in it
recovery  an applier with the standby of that primary; `recovery_settings`: its settings file
server    any server that runs on a machine, as the proofs ask it
programs  how programs on a machine are asked
"""
