"""What each instance of one recovery server may take, so that none can hurt another.  Pure.

    memory  the host's memory shared out by rule, and the parameters that a share becomes
    turns   who may seed or catch up now, of those that want to
    intake  how fast WAL is taken in
    disk    how much of the disk an instance may have

`now` is in monotonic seconds.  `applier.operations` asks before it acts; docs/budgets.md tells an
operator what comes of it.
"""
