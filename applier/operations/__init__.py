"""What the applier does with an instance: receive, keep, follow, promote.

record     what is remembered of an instance over restarts (instance.json)
instance   one instance: the receivers' intake, its store, WAL serving and standby
following  its standby: version check, settings, start, the WAL server's gate
version_check, live_check  whether its standby may replay; what it says when it runs
promotion  open the standby, online or offline, and say what was lost
status     the document that `shipper status` shows
service    the process: all instances, the link, the API
"""
