"""Which instances there are, and where each one's files, port and key come from.

An instance of the settings file is *declared*: it is changed there, and by a restart.  The
others are *registered*: added, changed and removed while the applier runs, and kept in one
durable file each, `fleet/NAME.json` below the applier's directory.

registry   the files of the registered instances
rules      what may be added, changed and removed; the settings that come of it  (pure)
ports      a port for an instance that names none  (pure, but for the look at the host)
volumes    which volume a new cluster's WAL and data go to  (pure, but for the look at the host)
places     where the files of an instance are: every path comes from there
settings   the settings with every instance, for commands that do without the applier
report     the instances as `applier list` shows them  (pure)
removal    what goes when an instance is removed, from where a crash left it

`applier.operations.fleet` does it to the running instances.
"""
