"""Every figure that the benchmark reports: what it means, and what it should be."""

from __future__ import annotations

from typing import Literal, NamedTuple

MEASURES = {
    "cli": "Start of the commands",
    "idle": "Doing nothing",
    "visible": "Commit to visible on the standby (async)",
    "sync": "Commit under synchronous replication",
    "rate": "Sustained WAL, and what it costs",
    "catchup": "Catching up a backlog",
    "archives": "Catching up a backlog from archives",
    "seed": "Seeding",
    "promote": "Promote to first write",
    "bucket": "Commit to visible through a bucket",
    "fleet": "Many instances on one applier",
}
"""In the order of a run: the cheap ones first."""


class Row(NamedTuple):
    """One figure.  aim: what it should reach, `better` says on which side of it."""

    name: str
    measure: str
    label: str
    unit: str = ""
    aim: float | None = None
    better: Literal["less", "more"] = "less"

    @property
    def is_ratio(self) -> bool:
        return self.unit == "×"

    def reached(self, value: float) -> bool | None:
        """Whether `value` reaches the aim; None where there is none."""
        if self.aim is None:
            return None
        return value <= self.aim if self.better == "less" else value >= self.aim


KEYS = (
    "visible_p50_ratio",
    "visible_p99_ratio",
    "sync_commit_ratio",
    "rate_mb_s",
    "rate_ratio",
    "shipper_cpu_ratio",
    "catchup_ratio",
    "seed_ratio",
    "promote_ratio",
    "promote_seconds",
    "shipper_mb",
    "applier_mb",
    "cli_start_ms",
)
"""Whose medians stand at the top of build/bench.json.  Others read them: never rename."""

CATALOG = (
    Row("cli_start_ms", "cli", "slower of `shipper --help` and `status`", "ms", 150),
    Row("help_ms", "cli", "`shipper --help`", "ms"),
    Row("status_ms", "cli", "`shipper status`, one instance", "ms"),
    Row("python_ms", "cli", "`python -c pass`, the floor", "ms"),
    Row("shipper_idle_cpu", "idle", "shipper, CPU", "ms/s"),
    Row("applier_idle_cpu", "idle", "applier, CPU", "ms/s"),
    Row("shipper_idle_mb", "idle", "shipper, PSS", "MB"),
    Row("applier_idle_mb", "idle", "applier with one instance, PSS", "MB"),
    Row("visible_p50_ratio", "visible", "p50, Logship ÷ native", "×", 1.5),
    Row("visible_p99_ratio", "visible", "p99, Logship ÷ native", "×", 2.0),
    Row("visible_sent_p50_ratio", "visible", "from sending the INSERT: p50, Logship ÷ native", "×"),
    Row("visible_p50_ms", "visible", "Logship p50", "ms"),
    Row("visible_p99_ms", "visible", "Logship p99", "ms"),
    Row("native_visible_p50_ms", "visible", "native p50", "ms"),
    Row("native_visible_p99_ms", "visible", "native p99", "ms"),
    Row("poll_ms", "visible", "one poll, the resolution", "ms"),
    Row("sync_commit_ratio", "sync", "INSERT p50, Logship ÷ native", "×", 2.0),
    Row("sync_commit_p99_ratio", "sync", "INSERT p99, Logship ÷ native", "×"),
    Row("sync_commit_p50_ms", "sync", "Logship p50", "ms"),
    Row("sync_commit_p99_ms", "sync", "Logship p99", "ms"),
    Row("native_sync_commit_p50_ms", "sync", "native p50", "ms"),
    Row("native_sync_commit_p99_ms", "sync", "native p99", "ms"),
    Row("rate_ratio", "rate", "rate, Logship ÷ native", "×", 0.8, "more"),
    Row("rate_mb_s", "rate", "flushed by Logship's standby", "MB/s"),
    Row("stored_mb_s", "rate", "durable in Logship's store", "MB/s"),
    Row("native_rate_mb_s", "rate", "flushed by a native standby", "MB/s"),
    Row("receivewal_mb_s", "rate", "pg_receivewal --compress=lz4", "MB/s"),
    Row("pgbackrest_mb_s", "rate", "pgBackRest async push, zst", "MB/s"),
    Row("alone_mb_s", "rate", "generated with nobody listening", "MB/s"),
    Row("shipper_cpu_ratio", "rate", "CPU a GB, shipper ÷ pg_receivewal lz4", "×", 2.0),
    Row("shipper_cpu_pgbackrest_ratio", "rate", "CPU a GB, shipper ÷ pgBackRest", "×", 0.6),
    Row("shipper_cpu", "rate", "shipper, CPU", "s/GB"),
    Row("applier_cpu", "rate", "applier, CPU", "s/GB"),
    Row("receivewal_cpu", "rate", "pg_receivewal --compress=lz4, CPU", "s/GB"),
    Row("pgbackrest_cpu", "rate", "pgBackRest async push, CPU", "s/GB"),
    Row("machine_cpu", "rate", "whole machine with Logship, CPU", "s/GB"),
    Row("native_machine_cpu", "rate", "whole machine with a native standby, CPU", "s/GB"),
    Row("shipper_mb", "rate", "shipper, peak RSS at full rate", "MB", 100),
    Row("applier_mb", "rate", "applier, peak RSS at full rate", "MB", 100),
    Row("catchup_ratio", "catchup", "backlog at the primary, Logship ÷ native", "×", 1, "more"),
    Row("catchup_store_ratio", "catchup", "backlog in the store ÷ native", "×", 1.25, "more"),
    Row("catchup_mb_s", "catchup", "Logship, backlog at the primary", "MB/s"),
    Row("native_catchup_mb_s", "catchup", "native, backlog at the primary", "MB/s"),
    Row("catchup_store_mb_s", "catchup", "Logship, backlog in the store", "MB/s"),
    Row("seed_ratio", "seed", "rate, Logship ÷ pg_basebackup", "×", 0.9, "more"),
    Row("seed_mb_s", "seed", "Logship, verified and durable", "MB/s"),
    Row("basebackup_mb_s", "seed", "pg_basebackup -Fp, durable", "MB/s"),
    Row("promote_ratio", "promote", "p50, `shipper promote` ÷ pg_promote", "×"),
    Row("promote_aim_p50", "promote", "p50 ÷ (1.2 × pg_promote p50 + 0.2 s)", "×", 1),
    Row("promote_aim_p99", "promote", "p99 ÷ (1.2 × pg_promote p99 + 0.2 s)", "×", 1),
    Row("promote_seconds", "promote", "`shipper promote`", "s"),
    Row("promote_p99_seconds", "promote", "`shipper promote`, p99", "s"),
    Row("promote_inside_seconds", "promote", "of it inside the applier", "s"),
    Row("native_promote_seconds", "promote", "pg_promote", "s"),
    Row("native_promote_p99_seconds", "promote", "pg_promote, p99", "s"),
    Row("archive_store_ratio", "archives", "from the store ÷ native streaming", "×", 0.9, "more"),
    Row("archive_bucket_ratio", "archives", "from S3 ÷ pgBackRest async get", "×", 1, "more"),
    Row("archive_bucket_native_ratio", "archives", "from S3 ÷ native streaming", "×"),
    Row("archive_bucket_cp_ratio", "archives", "from S3 ÷ restore_command = cp", "×"),
    Row("archive_store_mb_s", "archives", "Logship, from the store", "MB/s"),
    Row("archive_bucket_mb_s", "archives", "Logship, from S3", "MB/s"),
    Row("archive_native_mb_s", "archives", "native streaming", "MB/s"),
    Row("archive_cp_mb_s", "archives", "restore_command = cp", "MB/s"),
    Row("archive_pgbackrest_mb_s", "archives", "pgBackRest async archive-get, zst", "MB/s"),
    Row("bucket_1s_p50_s", "bucket", "max_delay 1 s: p50", "s"),
    Row("bucket_1s_p99_s", "bucket", "max_delay 1 s: p99", "s"),
    Row("bucket_200ms_p50_s", "bucket", "max_delay 0.2 s: p50", "s"),
    Row("bucket_200ms_p99_s", "bucket", "max_delay 0.2 s: p99", "s"),
    Row("fleet_idle_mb", "fleet", "an idle instance adds to the applier, PSS", "MB", 1),
    Row("fleet_idle_cpu", "fleet", "an idle instance adds to the applier, CPU", "ms/s", 1),
    Row("fleet_lag_p99_ratio", "fleet", "visible p99 of a busy one, among all ÷ alone", "×", 2),
    Row("fleet_lag_p50_ratio", "fleet", "visible p50 of a busy one, among all ÷ alone", "×"),
    Row("fleet_busy_p99_ratio", "fleet", "p99, among the busy ones only ÷ alone", "×"),
    Row("fleet_alone_p50_ms", "fleet", "visible p50 alone", "ms"),
    Row("fleet_alone_p99_ms", "fleet", "visible p99 alone", "ms"),
    Row("fleet_lag_p50_ms", "fleet", "visible p50 among all", "ms"),
    Row("fleet_lag_p99_ms", "fleet", "visible p99 among all", "ms"),
    Row("fleet_standby_mb", "fleet", "an idle standby's server, PSS", "MB"),
    Row("fleet_standby_cpu", "fleet", "an idle standby's server, CPU", "ms/s"),
    Row("fleet_applier_mb", "fleet", "the applier with all standbys, PSS", "MB"),
    Row("fleet_start_seconds", "fleet", "until all standbys of a restarted applier stream", "s"),
    Row("fleet_status_ms", "fleet", "status of all instances, asked of the API", "ms"),
    Row("fleet_simulated_mb", "fleet", "the applier with simulated instances, PSS", "MB"),
    Row("fleet_simulated_cpu", "fleet", "the applier with simulated instances, CPU", "ms/s"),
    Row("fleet_simulated_each_mb", "fleet", "of it for each instance, PSS", "MB", 1),
    Row("fleet_simulated_each_cpu", "fleet", "of it for each instance, CPU", "ms/s", 1),
    Row("fleet_simulated_threads", "fleet", "its threads", "threads"),
    Row("fleet_simulated_files", "fleet", "its open files, for each instance", "files"),
)
