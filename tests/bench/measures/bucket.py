"""One small commit through a bucket of a real S3 server: how long until the standby shows it.

Twice: with `max_delay_seconds` 1 and the applier's default poll of a second, and with both at
0.2 s.  What lies between commit and sight is chosen, not worked for: on the average half a delay
and half a poll, and at most the whole of both, besides what S3 takes.
"""

from __future__ import annotations

from tests.bench.measures.latency import Block, run_block
from tests.bench.results import Outcome
from tests.bench.samples import summarise
from tests.bench.site import BY_BUCKET, Site
from tests.support.pair import BucketRoad
from tests.support.s3_server import S3Bucket, credentials_of, running_s3_server

_DELAYS = {"1s": (1.0, 1.0), "200ms": (0.2, 0.2)}
"""(max_delay_seconds, poll_seconds)."""


def measure(site: Site) -> Outcome:
    site.sql("create table commits (id bigint primary key)")
    numbers = iter(range(1, 1 << 62))
    blocks: dict[str, Block] = {}
    with running_s3_server() as server, credentials_of(server.owner):
        for name, (delay_seconds, poll_seconds) in _DELAYS.items():
            at = S3Bucket.of(server)
            road = BucketRoad(at.url, at.endpoint_url, f"poll_seconds = {poll_seconds}")
            site.make_ready()
            shipper = f"max_delay_seconds = {delay_seconds}"
            with site.logship_by_bucket(road, shipper) as pair:
                block = run_block(
                    site.conninfo(),
                    pair.standby_conninfo,
                    numbers,
                    warm_up=2,
                    samples=site.sizes.bucket_samples,
                )
            blocks[name] = block
            site.say(f"bucket {name}: p50 {block.visible_p50:.0f} ms, p99 {block.visible_p99:.0f}")
    site.sql("drop table commits")
    figures = {}
    for name, block in blocks.items():
        figures[f"bucket_{name}_p50_s"] = summarise([block.visible_p50 / 1e3])
        figures[f"bucket_{name}_p99_s"] = summarise([block.visible_p99 / 1e3])
    note = (
        f"{site.sizes.bucket_samples} single-row commits each, one after the other, through "
        f"SeaweedFS on this machine; instance {BY_BUCKET!r} has no link. The applier polls as "
        "often as the shipper may delay."
    )
    return Outcome(figures, [{name: block._asdict() for name, block in blocks.items()}], [note])
