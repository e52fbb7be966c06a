"""Code that is not PostgreSQL's own: extensions, preloaded libraries, resource managers."""

from __future__ import annotations

from applier.compat.case import BLOCK, PASS, WARN, Answer, Case, listed
from logship.environment import DatabaseFacts, library_name


def extension_libraries(case: Case) -> Answer:
    """Warns: replay needs no function, and a library may be installed at any time."""
    users: dict[str, set[str]] = {}
    for database in _databases(case):
        for extension in database.extensions:
            for library in extension.libraries:
                users.setdefault(library_name(library), set()).add(extension.name)
    present = case.standby.host.libraries if case.standby.host is not None else None
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
    own = case.standby.preload_libraries
    present = case.standby.host.libraries if case.standby.host is not None else None
    primary = ", ".join(preloaded)
    if present is None:
        return Answer(PASS, primary, ", ".join(own))
    not_startable = [name for name in own if library_name(name) not in present]
    missing = [name for name in preloaded if library_name(name) not in present]
    if not_startable:
        return Answer(
            BLOCK,
            primary,
            f"without {listed(not_startable)}",
            f"install {listed(not_startable)} for PostgreSQL {case.standby.major} on the recovery "
            "server, or take it out of shared_preload_libraries in the instance's settings",
            "The standby's own settings preload it, and the server would not start.",
        )
    if missing:
        return Answer(
            BLOCK,
            primary,
            f"without {listed(missing)}",
            f"install {listed(missing)} for PostgreSQL {case.standby.major} on the recovery server",
        )
    return Answer(PASS, primary, _installed(preloaded, own))


def resource_managers(case: Case) -> Answer:
    """Blocks: PostgreSQL ends at the first WAL record of a resource manager it does not know."""
    environment = case.primary.environment
    managers = environment.resource_managers if environment is not None else ()
    if environment is None or not managers:
        return Answer(PASS, "", "")
    primary = listed(f"{name} ({number})" for number, name in managers)
    needed = [library_name(name) for name in environment.preload_libraries]
    of_managers = [name for name in needed if name in {name for _, name in managers}]
    # Only a preloaded library can be one.  Where their names do not tell which, all are needed.
    if len(of_managers) == len(managers):
        needed = of_managers
    own = [library_name(name) for name in case.standby.preload_libraries]
    missing = [name for name in needed if name not in own]
    standby = f"preloads {', '.join(own) or 'nothing'}"
    if needed and not missing:
        return Answer(PASS, primary, standby)
    wanted = ", ".join(dict.fromkeys([*own, *needed])) or "the library that has them"
    return Answer(
        BLOCK,
        primary,
        standby,
        "install the libraries on the recovery server, and put "
        f"shared_preload_libraries = '{wanted}' into the instance's settings",
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
