"""Code that is not PostgreSQL's own: extensions, preloaded libraries, resource managers."""

from __future__ import annotations

from applier.compat.case import BLOCK, PASS, WARN, Answer, Case, listed
from logship.environment import DatabaseFacts, Environment, library_name

_UNNAMED = "the library that has them"
"""In place of a name, where none is known: the library of a resource manager.  It keeps a block
that is remembered; it is no name to be preloaded."""


def extension_libraries(case: Case) -> Answer:
    """Warns: replay needs no function, and a library may be installed at any time."""
    users: dict[str, set[str]] = {}
    for database in _databases(case):
        for extension in database.extensions:
            for library in extension.libraries:
                users.setdefault(library_name(library), set()).add(extension.name)
    present = _present(case)
    if present is None or not users:
        return Answer(PASS, listed(users), "")
    missing = sorted(users.keys() - present)
    if not missing:
        return Answer(PASS, listed(users), "all of them")
    extensions = listed(name for library in missing for name in users[library])
    return Answer(
        WARN,
        listed(users),
        f"without {listed(missing)}",
        f"install the packages of {extensions} for PostgreSQL {case.standby.major} on the "
        "recovery server",
    )


def extension_versions(case: Case) -> Answer:
    installed = {
        (extension.name, extension.version)
        for database in _databases(case)
        for extension in database.extensions
    }
    primary = listed(f"{name} {version}" for name, version in installed)
    host = case.standby.host
    available = host.extensions if host is not None else None
    if available is None or not installed:
        return Answer(PASS, primary, "")
    wanting = sorted(
        (name, version) for name, version in installed if version not in available.get(name, ())
    )
    if not wanting:
        return Answer(PASS, primary, "all of them")
    return Answer(
        WARN,
        listed(f"{name} {version}" for name, version in wanting),
        listed(f"{name} {listed(available.get(name, ())) or 'none'}" for name, _ in wanting),
        "install the primary's packages of these extensions on the recovery server: "
        + listed(name for name, _ in wanting),
    )


def preload_libraries(case: Case) -> Answer:
    """Blocks: a server that was opened without one does not do what the primary did, and the
    library may be needed to replay at all."""
    environment = case.primary.environment
    preloaded = environment.preload_libraries if environment is not None else ()
    if environment is None or not environment.tells_preloaded:
        preloaded = tuple(dict.fromkeys((*preloaded, *case.lacked)))
    own = case.standby.preload_libraries
    primary = ", ".join(preloaded)
    missing = _missing(case, preloaded)
    # Not remembered: a server that lacks what its own settings preload does not start anyway.
    not_startable = _missing(case, own)
    if not_startable:
        return Answer(
            BLOCK,
            primary,
            f"without {listed(not_startable)}",
            f"install {listed(not_startable)} for PostgreSQL {case.standby.major} on the recovery "
            "server, or take it out of shared_preload_libraries in the instance's settings",
            "The standby's own settings preload it, and the server would not start.",
            lacking=missing,
        )
    if missing:
        return Answer(
            BLOCK,
            primary,
            f"without {listed(missing)}",
            f"install {listed(missing)} for PostgreSQL {case.standby.major} on the recovery server",
            lacking=missing,
        )
    if _present(case) is None:
        return Answer(PASS, primary, ", ".join(own))
    return Answer(PASS, primary, _installed(preloaded, own))


def resource_managers(case: Case) -> Answer:
    """Blocks: PostgreSQL ends at the first WAL record of a resource manager it does not know."""
    environment = case.primary.environment
    if environment is None or not environment.tells_of_cluster:
        needed, primary = list(case.lacked), ""
    else:
        needed = _libraries_of_managers(environment, case.lacked)
        primary = listed(f"{name} ({number})" for number, name in environment.resource_managers)
    if not needed:
        return Answer(PASS, "", "")
    own = [library_name(name) for name in case.standby.preload_libraries]
    missing = tuple(name for name in needed if name not in own)
    standby = f"preloads {', '.join(own) or 'nothing'}"
    if not missing:
        return Answer(PASS, primary, standby)
    return Answer(
        BLOCK,
        primary or "not told any more",
        standby,
        _preload(own, needed, missing),
        lacking=missing,
    )


def _preload(own: list[str], needed: list[str], missing: tuple[str, ...]) -> str:
    """The remedy where libraries of resource managers are missing, by name or without one."""
    named = dict.fromkeys([*own, *(name for name in needed if name != _UNNAMED)])
    remedies = []
    if _UNNAMED in missing:
        remedies.append(
            "let the shipper's role read shared_preload_libraries on the primary (pg_monitor: "
            "ops/primary-role.sql has the line), which names what is needed"
        )
    if missing != (_UNNAMED,):
        remedies.append(
            "install the libraries on the recovery server, and put shared_preload_libraries = "
            f"'{', '.join(named)}' into the instance's settings"
        )
    return "; ".join(remedies)


def _libraries_of_managers(environment: Environment, lacked: tuple[str, ...]) -> list[str]:
    """What must be preloaded for the custom resource managers; nothing if there are none.

    lacked: the libraries of them that were lacking when they were last known.
    """
    names = {name for _, name in environment.resource_managers}
    if not names:
        return []
    preloaded = [library_name(name) for name in environment.preload_libraries]
    of_managers = [name for name in preloaded if name in names]
    # Only a preloaded library can be one.  Where their names do not tell which, all are needed.
    needed = of_managers if len(of_managers) == len(names) else preloaded
    # Those that were lacking need not be all: the primary may have others by now.
    return needed or list(dict.fromkeys([*lacked, _UNNAMED]))


def _present(case: Case) -> frozenset[str] | None:
    """The libraries of the installation; None: not known."""
    return case.standby.host.libraries if case.standby.host is not None else None


def _missing(case: Case, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the installation does not have, or, if that is not known, did not have."""
    present, lacked = _present(case), {library_name(name) for name in case.lacked}
    return tuple(
        name
        for name in dict.fromkeys(names)
        if (library_name(name) in lacked if present is None else library_name(name) not in present)
    )


def _databases(case: Case) -> tuple[DatabaseFacts, ...]:
    environment = case.primary.environment
    return environment.databases if environment is not None else ()


def _installed(preloaded: tuple[str, ...], own: tuple[str, ...]) -> str:
    if not preloaded:
        return ", ".join(own)
    names = [library_name(name) for name in own]
    idle = [name for name in preloaded if library_name(name) not in names]
    return f"installed, not preloaded: {listed(idle)}" if idle else ", ".join(own)
