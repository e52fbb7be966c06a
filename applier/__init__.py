"""The recovery side: stores WAL durably, replays it on one standby per instance, promotes.

`receivers` take WAL and seeds in, `store` keeps WAL, `walserver` serves it to standbys,
`standby` runs them, `compat` decides whether they may replay, `budgets` what each may take,
`operations` joins all of it into instances and promotes them, `api` and `commands` are how
operators reach it.
"""
