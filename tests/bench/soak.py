"""`python -m tests.bench.soak --minutes N`: whether memory stays flat while Logship works.

Small commits all the time, and every minute a burst of bulk WAL.  Each sample is one line of
JSON in build/soak.jsonl; at the end the first and the last third are compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

from tests.bench import machine
from tests.bench.receivers import ToolFinder
from tests.bench.site import INSTANCE, Site
from tests.bench.sizes import MB, QUICK
from tests.support.arguments import minutes
from tests.support.installations import postgres_dir

ROOT = Path(__file__).resolve().parents[2]
COMMITS_PER_SECOND = 50
SAMPLE_SECONDS = 10.0
BURST_SECONDS = 60.0
BURST_ROWS = 50_000
"""Rows of about 1 kB: one burst of WAL."""
MAX_GROWTH = 0.05
LIMIT_MB = 100.0

Sample = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=minutes, default=60.0)
    parser.add_argument("--postgres", type=int, default=17)
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="logship-soak-"))
    directory.chmod(0o755)
    out = ROOT / "build" / "soak.jsonl"
    out.parent.mkdir(exist_ok=True)
    samples: list[Sample] = []
    try:
        with out.open("w", encoding="utf-8") as file:
            for sample in soak(directory, args.postgres, args.minutes * 60):
                samples.append(sample)
                file.write(json.dumps(sample) + "\n")
                file.flush()
                print(json.dumps(sample), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return report(samples)


def soak(directory: Path, major: int, seconds: float) -> Iterator[Sample]:
    """One sample every `SAMPLE_SECONDS`, memory in MB (10^6 bytes)."""
    installation = postgres_dir(major)
    sizes = QUICK._replace(wal_rows=BURST_ROWS, touch_bytes=MB)
    with Site(directory, installation, ToolFinder(installation), sizes, print) as site:
        site.prepare_source()
        site.sql("create table soak (id bigint generated always as identity, at timestamptz)")
        with site.logship() as pair, psycopg.connect(site.conninfo(), autocommit=True) as client:
            processes = {"shipper": pair.shippers[INSTANCE].pid, "applier": pair.applier.pid}
            began = time.monotonic()
            sample_at = burst_at = began
            commits = 0
            while (now := time.monotonic()) < began + seconds:
                client.execute("insert into soak (at) values (now())")
                commits += 1
                if now >= burst_at:
                    burst_at = now + BURST_SECONDS
                    site.generate()
                    site.forget()
                if now >= sample_at:
                    sample_at = now + SAMPLE_SECONDS
                    sample = {"seconds": round(now - began, 1), "commits": commits}
                    for name, pid in processes.items():
                        memory = machine.memory_of(pid)
                        sample[f"{name}_rss_mb"] = round(memory.rss_mb, 1)
                        sample[f"{name}_peak_mb"] = round(memory.peak_rss_mb, 1)
                        sample[f"{name}_files"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                        sample[f"{name}_cpu_seconds"] = machine.times_of(pid).seconds
                    yield sample
                time.sleep(1 / COMMITS_PER_SECOND)
            site.wait_replayed(pair.standby_conninfo, site.flush_lsn())


def report(samples: Sequence[Sample]) -> int:
    """0 if both stayed flat and small.  The first third is compared with the last."""
    third = max(1, len(samples) // 3)
    good = True
    for name in ("shipper", "applier"):
        rss = [sample[f"{name}_rss_mb"] for sample in samples]
        first, last = statistics.median(rss[:third]), statistics.median(rss[-third:])
        peak = samples[-1][f"{name}_peak_mb"]
        files = [sample[f"{name}_files"] for sample in samples]
        flat = last <= first * (1 + MAX_GROWTH) and peak <= LIMIT_MB
        good &= flat
        print(
            f"{name}: median RSS {first:.1f} MB in the first third, {last:.1f} MB in the last; "
            f"peak {peak:.1f} MB; open files {files[0]:.0f} to {files[-1]:.0f}"
            + ("" if flat else "  <- not flat, or too much")
        )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
