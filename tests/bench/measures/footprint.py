"""What it costs to do nothing, and how long a command takes to start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import machine
from tests.bench.results import Outcome
from tests.bench.samples import summarise
from tests.bench.site import INSTANCE, LogshipPair, Site

_SETTLE_SECONDS = 5.0
_WINDOWS = 3


def measure_idle(site: Site) -> Outcome:
    seconds = site.sizes.idle_seconds
    windows = []
    with site.logship() as pair:
        processes = {"shipper": pair.shippers[INSTANCE].pid, "applier": pair.applier.pid}
        time.sleep(min(_SETTLE_SECONDS, seconds))
        for number in range(_WINDOWS):
            before = {name: machine.times_of(pid).seconds for name, pid in processes.items()}
            time.sleep(seconds / _WINDOWS)
            window = {}
            for name, pid in processes.items():
                spent = machine.times_of(pid).seconds - before[name]
                window[name] = {
                    "cpu_ms_per_s": spent * 1e3 / (seconds / _WINDOWS),
                    **machine.memory_of(pid)._asdict(),
                }
            windows.append(window)
            site.say(
                f"idle {number + 1}/{_WINDOWS}: shipper {window['shipper']['pss_mb']:.0f} MB, "
                f"applier {window['applier']['pss_mb']:.0f} MB"
            )
    figures = {
        f"{name}_idle_{figure}": summarise([window[name][key] for window in windows])
        for name in ("shipper", "applier")
        for figure, key in (("cpu", "cpu_ms_per_s"), ("mb", "pss_mb"))
    }
    note = (
        f"{_WINDOWS} windows of {seconds / _WINDOWS:.1f} s beside an idle primary; CPU is counted "
        f"in ticks of {1000 // machine.TICKS_PER_SECOND} ms. The standby server is not in it."
    )
    return Outcome(figures, windows, [note])


def measure_commands(site: Site) -> Outcome:
    """`shipper status` asks a running applier that has one instance."""
    runs: list[dict[str, float]] = []
    # No seed arrives beside what is timed.
    with site.logship(more='seed = "manual"', seeded=False) as pair:
        pair.wait_status(INSTANCE, lambda status: status["name"], "the applier answers")
        commands: dict[str, Sequence[str | Path]] = {
            "python": (sys.executable, "-c", "pass"),
            "help": (*program("shipper"), "--help"),
            "status": (*program("shipper"), "status", INSTANCE),
        }
        for _ in range(site.sizes.command_runs + 1):
            runs.append({name: _run(command, pair) for name, command in commands.items()})
    del runs[0]  # it filled the page cache
    names = ("python", "help", "status")
    medians = {name: summarise([run[name] for run in runs]) for name in names}
    figures = {f"{name}_ms": figure for name, figure in medians.items()}
    figures["cli_start_ms"] = max(medians["help"], medians["status"])
    site.say(f"cli: {figures['cli_start_ms'].median:.0f} ms")
    return Outcome(figures, runs, [f"{len(runs)} runs each, from a warm page cache."])


def program(name: str) -> tuple[str | Path, ...]:
    """The beginning of a command as users start it: the script that installing Logship made."""
    script = Path(sys.executable).with_name(name)
    if script.exists():
        return (script,)
    return (sys.executable, "-c", f"from {name}.commands import main; raise SystemExit(main())")


def _run(command: Sequence[str | Path], pair: LogshipPair) -> float:
    environment = {**os.environ, "LOGSHIP_APPLIER": str(pair.client.path)}
    started_at = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60)
    return (time.perf_counter() - started_at) * 1e3
