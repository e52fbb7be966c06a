"""What the applier does with an instance: receive, keep, follow, promote.

record     what is remembered of an instance over restarts (instance.json)
instance   one instance: the receivers' intake, its store, WAL serving and standby
following  its standby: version check, settings, start, the WAL server's gate
incarnations  which cluster it is: another one may take its place, and an older one come back
former     the clusters that it was, until they go
switching  have its standby run on another installation
promotion  open the standby, online or offline, and say what was lost
status     the document that `shipper status` shows
service    the process: all instances, the link, the API
"""
