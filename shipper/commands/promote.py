"""Open an instance's standby for writing: the primary is lost.

Everything durable on the recovery server is replayed, the standby is promoted, a write is
tried, and the link is fenced: nothing of the old line is accepted any more.  The last lines
say what was lost, or that nothing was.

Asks the running applier.  With --offline no applier may run, and this command does it all
from the recovery server's own disk, told by the applier's settings file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from logship.applier_client import ApplierClient, find_socket
from logship.commandline import add_json_argument, print_json
from logship.errors import Code, ExitCode, RefusedError
from logship.progress import Progress
from logship.status_command import add_applier_argument
from logship.status_view import promoted_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the instance")
    parser.add_argument(
        "--offline", action="store_true", help="without an applier, from local disk alone"
    )
    parser.add_argument(
        "--incarnation",
        metavar="SYSID-MAJOR",
        help="a cluster of before that is kept (shipper status NAME), in place of the current one",
    )
    parser.add_argument(
        "--config",
        metavar="F",
        type=Path,
        help="with --offline: the applier's settings file (default: /etc/logship/applier.toml)",
    )
    parser.add_argument(
        "--yes", action="store_true", help="do not ask, even if the primary still answers"
    )
    add_json_argument(parser)
    add_applier_argument(parser)


def run(args: argparse.Namespace) -> int:
    progress = Progress(as_json=args.json)
    if args.offline:
        result = _promote_offline(args.name, args.config, progress, args.incarnation)
    else:
        client = ApplierClient(find_socket(args.applier))
        if not args.yes and not args.json and sys.stdin.isatty():
            _confirm(client, args.name)
        result = _promote_online(client.promote(args.name, args.incarnation), progress)
    if args.json:
        print_json(result)
    else:
        print()
        for name, value in _readable(result):
            print(f"  {name:<14}  {value}")
    return ExitCode.DONE


def _readable(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The promotion's record for a person at 3 a.m.: what is open, and what was lost."""
    yield "opened", f"timeline {record['opened_timeline']} at {record['opened_lsn']}"
    yield "port", str(record["port"])
    yield "promoted", f"after {record['promote_seconds']:.3f} s"
    yield "first write", f"after {record['first_write_seconds']:.3f} s"
    yield "lost", record["lost"]
    if record.get("memory"):
        yield "memory", _memory(record["memory"])
    for complaint in [*record.get("warnings", ()), *record["complaints"]]:
        yield "look at", complaint


def _memory(memory: dict[str, Any]) -> str:
    parameters = dict(memory["parameters"])
    in_force = memory["shared_buffers_in_force"]
    if in_force not in (None, parameters["shared_buffers"]):
        parameters["shared_buffers"] += f" when it is started anew, {in_force} until then"
    listed = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return f"{memory['share_mb']} MB ({listed})"


def _promote_online(events: Iterator[dict[str, Any]], progress: Progress) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for event in events:
        if "result" in event:
            result = event["result"]
        elif "step" in event:
            progress.step(str(event["step"]), event.get("details") or {})
    return result


def _promote_offline(
    name: str, config: Path | None, progress: Progress, incarnation: str | None
) -> dict[str, Any]:
    from applier.service import promote_offline
    from applier.settings import DEFAULT_SETTINGS_FILE, load_applier_settings
    from logship.identity import parse_incarnation
    from logship.logs import set_up_logs
    from logship.settings import LogSettings

    settings = load_applier_settings(config or DEFAULT_SETTINGS_FILE)
    # The steps are told here; of the log only what a person must see.
    set_up_logs(LogSettings(level="error", format=settings.log.format))
    chosen = parse_incarnation(incarnation) if incarnation else None
    return promote_offline(settings, name, progress.step, chosen)


def _confirm(client: ApplierClient, name: str) -> None:
    """Asks only where a mistake is likely: a terminal, and a primary that seems to live."""
    status: Mapping[str, Any] = client.instance(name)
    if status["link"]["state"] != "connected" or not status["primary"]["reachable"]:
        return
    print(f"The primary of {name} still answers. Promoting ends its protection:", file=sys.stderr)
    print("its shipper will be fenced, and two servers will take writes.", file=sys.stderr)
    memory = (status.get("budget") or {}).get("memory")
    if memory:
        print(f"It would have {promoted_memory(memory)}.", file=sys.stderr)
    print("Promote all the same? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError(
            Code.PROMOTE_REFUSED, "not promoted, as you said", "with --yes it does not ask"
        )
