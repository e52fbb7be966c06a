"""What is looked at after a step, and what each look says.

reference   what the primary is like at one LSN: the others compare with it
flow        WAL flows and is applied
drill       the promotion of a copy of the recovery server, by the real command, and what opened
trial       the same where the version check holds the standby: PostgreSQL alone, without it
opened      all that is looked at on an opened server:
contents    its rows, and by which rule it verifies pages
amcheck     its indexes and tables
collations  how it orders text
extensions  the libraries that its databases call
listing     many faults in one text

Each says what it saw as an `Observation`.
"""
