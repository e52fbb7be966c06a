"""Find everything that would stop `applier run`, all of it at once, with remedies.

Looks at the settings, the keys, the bucket, directories and their free space, sockets, ports,
the user who runs the standbys, the PostgreSQL installations, whether they take the parameters
that are set, and paths of tablespaces.  Changes nothing.  Exits 3 if anything fails; warnings do
not count.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from applier.commands.check_bucket import check_bucket
from applier.commands.check_budgets import check_budgets
from applier.commands.check_parameters import check_accepted, check_parameters
from applier.commands.check_private_paths import check_private_paths
from applier.fleet.registry import Registered, Registry
from applier.fleet.report import REGISTERED, describe
from applier.fleet.rules import effective
from applier.operations.record import known_places
from applier.settings import DEFAULT_SETTINGS_FILE, ApplierSettings, load_applier_settings
from applier.standby.layout import check_socket_path
from logship.applier_client import ApplierClient
from logship.checks import Check, check_directory, fail, failed, ok, show, warn
from logship.commandline import add_config_argument, add_json_argument
from logship.errors import Code, LogshipError
from logship.logs import set_up_logs
from logship.postgres.postmaster import running_postmaster
from logship.postgres.run_as import RunAs
from logship.settings_network import parse_tcp_endpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser, DEFAULT_SETTINGS_FILE)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    declared = load_applier_settings(args.config)
    set_up_logs(declared.log)
    checks = [_instances(args.config, declared)]
    registered = Registered({}, {})
    try:
        registered = Registry(declared.directory).load()
    except LogshipError as error:
        checks.append(failed("registered", error))
    settings = effective(declared, registered)
    checks += check_registered(declared, registered)
    checks += check_places(settings)
    checks += check_keys(settings)
    checks += check_bucket(settings)
    checks += check_postgres(settings)
    checks += check_private_paths(settings)
    checks += check_budgets(settings)
    checks += check_parameters(settings)
    running = is_running(settings)
    if running:
        checks.append(
            ok("applier", f"an applier runs already and answers on {settings.api.socket}")
        )
    else:
        checks += check_ports(settings)
    return show(checks, as_json=args.json)


def is_running(settings: ApplierSettings) -> bool:
    """Whether an applier answers on the API's socket (its ports are then taken, rightly)."""
    try:
        ApplierClient(settings.api.socket).instances()
    except LogshipError as error:
        # PermissionError is the one reason that says somebody may well be there.
        return error.code is Code.APPLIER_UNREACHABLE and not error.retryable
    return True


def _instances(file: Path, declared: ApplierSettings) -> Check:
    names = ", ".join(declared.instances)
    return ok("settings", f"{file} protects {names or 'no instance by itself'}")


def check_registered(declared: ApplierSettings, registered: Registered) -> Iterator[Check]:
    """The instances that were added while the applier ran, beside those of the file."""
    for document in describe(declared, registered, {}):
        name, error = document["name"], document["error"]
        if document["origin"] != REGISTERED:
            continue
        if error is not None:
            yield fail(f"registered:{name}", error["what"], error["hint"])
        elif document["removing"]:
            yield warn(f"registered:{name}", "its removal was cut off", "`applier run` finishes it")
        else:
            yield ok(f"registered:{name}", f"port {document['port']}")
    for name in sorted(declared.instances.keys() & registered.entries.keys()):
        yield warn(
            f"registered:{name}",
            f"{name} was added, and stands in the settings file too, which counts",
            f"remove {Registry(declared.directory).path(name)}",
        )
    if not declared.instances and not registered.entries:
        yield warn(
            "instances",
            "there is no instance yet",
            "while the applier runs: applier enroll NAME, or applier add NAME; or add a table "
            "[instances.NAME]",
        )


def check_places(settings: ApplierSettings) -> Iterator[Check]:
    """Directories, free space, and where the unix sockets go."""
    yield check_directory("directory", settings.directory)
    yield _free_space("free-space", settings.directory, settings.store.keep_free_mb)
    volumes = [*settings.store.volumes, *settings.standby.volumes]
    for volume in dict.fromkeys(volumes):
        yield _volume(volume)
        yield _free_space(f"free-space:{volume}", volume, settings.store.keep_free_mb)
    yield check_directory("api-directory", settings.api.socket.parent)
    if settings.api.group:
        yield _group(settings.api.group)
    yield check_directory("wal-server-directory", settings.wal_server.socket_directory)
    yield _socket_path("api-socket", settings.api.socket)
    try:
        check_socket_path(
            settings.wal_server.socket_directory,
            settings.wal_server.port,
            "wal_server.socket_directory",
        )
        yield ok("wal-server-socket", f"in {settings.wal_server.socket_directory}")
    except LogshipError as error:
        yield failed("wal-server-socket", error)


def _volume(volume: Path) -> Check:
    """It must be there: on the root's disk, say, an empty mount point would fill that."""
    if volume.is_dir() and os.access(volume, os.W_OK | os.X_OK):
        return ok(f"volume:{volume}", "can be written to")
    return fail(
        f"volume:{volume}",
        f"{volume} is no directory that this user can write to",
        "mount it, and give it to the user that the applier runs as",
    )


def _free_space(name: str, directory: Path, keep_free_mb: int) -> Check:
    present = next(each for each in (directory, *directory.parents) if each.exists())
    free_mb = shutil.disk_usage(present).free >> 20
    where = directory if present == directory else f"{present} ({directory} is not there)"
    what = f"{free_mb} MB are free in {where}, {keep_free_mb} MB stay so"
    if free_mb <= keep_free_mb:
        return fail(name, what, "free some space, or lower store.keep_free_mb")
    if free_mb < 2 * keep_free_mb:
        return warn(name, what, "receiving will pause soon: free some space")
    return ok(name, what)


def _group(name: str) -> Check:
    try:
        grp.getgrnam(name)
    except KeyError:
        return fail("api-group", f"there is no group {name!r}", f"groupadd --system {name}")
    return ok("api-group", f"group {name} may use the API")


def _socket_path(name: str, path: Path) -> Check:
    from applier.api.server import MAX_SOCKET_PATH_BYTES

    length_bytes = len(os.fsencode(path))
    if length_bytes > MAX_SOCKET_PATH_BYTES:
        return fail(
            name,
            f"{path} is {length_bytes} bytes long, a socket's path has {MAX_SOCKET_PATH_BYTES}",
            "choose a shorter path",
        )
    return ok(name, f"{path}")


def _may_have_link(settings: ApplierSettings) -> bool:
    """Also where there is no instance yet: the first may be about to join by it."""
    return settings.has_link or not (settings.instances or settings.bucket)


def check_keys(settings: ApplierSettings) -> Iterator[Check]:
    """Our secret key, and a public key for each instance that has a link."""
    if not _may_have_link(settings):
        return
    from logship.link.keys import load_pair, load_public

    ours = ""
    try:
        ours = load_pair(settings.link.secret_key_file).public
        yield ok("secret-key", f"{settings.link.secret_key_file}; its public key is {ours}")
    except LogshipError as error:
        yield failed("secret-key", error)
    owners: dict[str, str] = {}
    for name, instance in settings.instances.items():
        check_name = f"public-key:{name}"
        if not instance.has_link:
            continue
        try:
            key = load_public(instance.shipper_key)
        except LogshipError as error:
            yield failed(check_name, error)
            continue
        other = "the applier itself" if key == ours else owners.setdefault(key, name)
        if other != name:
            yield fail(check_name, f"{name} has the key of {other}", "make a pair for each shipper")
        else:
            yield ok(check_name, key)


def check_postgres(settings: ApplierSettings) -> Iterator[Check]:
    """Who runs the standbys, with which PostgreSQL, and whether it takes their parameters."""
    from logship.postgres.installations import discover

    run_as = None
    try:
        run_as = RunAs.of(settings.postgres.run_as or None)
    except LogshipError as error:
        yield failed("run-as", error)
    else:
        yield _run_as(settings, run_as)
    for directory in settings.postgres.installations:
        if not directory.is_dir():
            yield fail(
                "installation-directory",
                f"{directory}, named in postgres.installations, is not a directory",
                "correct or remove it",
            )
    found = discover(settings.postgres.installations, run_as=run_as)
    if not found:
        yield fail(
            "installations",
            "no PostgreSQL is on this machine",
            "install the majors of the primaries, or name their directories in "
            "postgres.installations",
        )
    else:
        listing = ", ".join(f"{one.version} in {one.bin_dir}" for one in found)
        yield ok("installations", f"found {listing}")
        if run_as is not None:
            yield from check_accepted(settings, found, run_as)


def _run_as(settings: ApplierSettings, run_as: RunAs) -> Check:
    for directory in settings.standby.volumes or [settings.directory]:
        closed = [
            each
            for each in (directory, *directory.parents)
            if each.is_dir() and _shuts(each, run_as)
        ]
        if closed:
            return fail(
                "run-as",
                f"user {run_as.name}, who runs the standbys, can't enter {closed[-1]}",
                f"chmod o+x {closed[-1]}, or choose another directory",
            )
    return ok("run-as", f"standbys run as {run_as.name}")


def _shuts(directory: Path, run_as: RunAs) -> bool:
    """Whether `run_as` may not pass through, by owner, group and mode, as the kernel looks."""
    status = directory.stat()
    if status.st_uid == run_as.uid:
        return not status.st_mode & stat.S_IXUSR
    if status.st_gid in (run_as.gid, *run_as.groups):
        return not status.st_mode & stat.S_IXGRP
    return not status.st_mode & stat.S_IXOTH


def check_ports(settings: ApplierSettings) -> Iterator[Check]:
    """Whether what must be listened on can be.  Only meaningful while no applier runs."""
    if _may_have_link(settings):
        endpoint = parse_tcp_endpoint(settings.link.listen)
        yield _port("link-port", endpoint.host, endpoint.port, "link.listen")
    for name, instance in settings.instances.items():
        if not instance.run_standby:
            continue
        if not settings.listen_addresses_of(name):
            yield warn(
                f"port:{name}",
                "its standby listens on no TCP address, after a promotion neither",
                f"set listen_addresses in [standby] or [instances.{name}], then restart the "
                "applier: it restarts the standby",
            )
        else:
            if _standby_runs(settings, name):
                yield ok(f"port:{name}", f"port {instance.port} is its standby's, which runs")
            else:
                yield _port(f"port:{name}", "*", instance.port, f"instances.{name}.port")


def _standby_runs(settings: ApplierSettings, name: str) -> bool:
    """Standbys outlive the applier, so theirs may rightly be taken."""
    with contextlib.suppress(LogshipError):
        places = known_places(settings.directory, name)
        if places is not None:
            return running_postmaster(places.standby / "data") is not None
    return False


def _port(name: str, host: str, port: int, setting: str) -> Check:
    try:
        addresses = socket.getaddrinfo(
            None if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = addresses[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: what is left of closed connections is not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return fail(
            name,
            f"{host}:{port} can't be listened on: {error.strerror}",
            f"end what listens there (`ss -ltnp`), or change {setting}",
        )
    return ok(name, f"{host}:{port} is free")
