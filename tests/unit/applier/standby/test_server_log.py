"""What a server's log says of its failure, and how large it may get."""

from __future__ import annotations

from pathlib import Path

from applier.standby.server_log import last_failures, size_bytes, trim

LOG = """\
2026-11-22 14:00:00.000 UTC [7] postmaster LOG:  starting PostgreSQL
2026-11-22 14:00:01.000 UTC [9] walreceiver FATAL:  could not connect to the primary server: x
2026-11-22 14:00:02.000 UTC [8] startup FATAL:  recovery aborted because of insufficient settings
2026-11-22 14:00:02.000 UTC [8] startup DETAIL:  max_connections = 50 is lower than 80
2026-11-22 14:00:03.000 UTC [9] client backend FATAL:  the database system is shutting down
"""


def test_the_servers_own_words_without_what_follows_from_the_shutdown(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LOG)
    (line,) = last_failures(log, 0)
    assert line.endswith("startup FATAL:  recovery aborted because of insufficient settings")


def test_failures_of_an_earlier_start_are_not_told_again(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LOG)
    before = size_bytes(log)
    assert last_failures(log, before) == []
    with log.open("a") as file:
        file.write("".join(f"x [1] startup PANIC:  number {n}\n" for n in range(9)))
    assert [line[-1] for line in last_failures(log, before, 2)] == ["7", "8"]


def test_a_missing_log_is_no_trouble(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert last_failures(log, 100) == []
    assert size_bytes(log) == 0
    log.write_text("x [1] startup PANIC:  short\n")
    assert last_failures(log, 10_000)[0].endswith("short"), "it was trimmed since"


def test_a_log_is_trimmed_only_when_it_is_large_and_under_its_writers_feet(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert not trim(log)
    with log.open("a") as writer:
        writer.write("small\n")
        writer.flush()
        assert not trim(log)
        writer.write("x" * (17 << 20) + "\nthe end\n")
        writer.flush()
        assert trim(log)
        writer.write("after\n")
    assert log.read_text() == "after\n"
    kept = (tmp_path / "server.log.1").read_text()
    assert len(kept) == 1 << 20
    assert kept.endswith("the end\n")
