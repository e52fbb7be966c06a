"""Operators' commands against an applier's API: the installed programs, a real socket."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from applier.api.operations import Report
from applier.api.server import ApiServer
from applier.retention.plan import Group
from applier.retention.report import Part
from logship.applier_client import MAX_PROFILE_REQUEST_BYTES
from logship.commandline import EXIT_INTERRUPTED
from logship.errors import Code, RefusedError, UsageError
from logship.identity import Incarnation, Profile
from logship.link.keys import generate
from logship.objects import NotDeleted
from logship.profile_document import profile_document
from logship.status import InstanceStatus
from tests.integration.command_runner import TIMEOUT_SECONDS, run, start
from tests.support.link_frames import profile

RECORD: dict[str, Any] = {
    "opened_timeline": 2,
    "opened_lsn": "0/3000000",
    "port": 5433,
    "promote_seconds": 0.0341,
    "first_write_seconds": 0.0359,
    "lost": "not known: never heard",
    "warnings": ["standby-collations (app/de 1 / app/de 2): REINDEX"],
    "complaints": ["a rule was left out"],
}


MAIN: dict[str, Any] = {
    "name": "main",
    "origin": "registered",
    "port": 5433,
    "settings": {},
    "store": "/srv/wal1/instances/main/7-17/wal",
    "standby": None,
    "removing": False,
    "error": None,
}


class Operations:
    """An applier whose one instance, `main`, was promoted before or is promoted at once."""

    promoted = False
    chosen: Incarnation | None = None

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def instances(self) -> list[InstanceStatus]:
        return [self.instance("main")]

    def instance(self, name: str) -> InstanceStatus:
        if name != "main":
            raise UsageError(Code.UNKNOWN_INSTANCE, f"there is no instance {name!r}", "look again")
        return cast(
            InstanceStatus,
            {
                "name": "main",
                "phase": "following",
                "transfer_gap": {"bytes": None, "seconds": None},
                "alarms": [{"code": "slot-lost", "what": "It is gone.", "hint": "Seed again."}],
            },
        )

    async def promote(
        self, name: str, report: Report, incarnation: Incarnation | None
    ) -> dict[str, Any]:
        self.chosen = incarnation
        self.instance(name)
        if self.promoted:
            raise RefusedError(Code.ALREADY_PROMOTED, "main is open already", "connect to it")
        report("replayed what is durable", {"lsn": "0/3000000"})
        return RECORD

    async def enroll(self, name: str, address: str, hours: float) -> dict[str, Any]:
        if name == "main":
            raise RefusedError(Code.USAGE, "there is main already", "choose another name")
        address = address or "tcp://recovery:7432"
        return {"instance": name, "token": "AQAB", "address": address, "expires_at": 3600 * hours}

    async def compat(
        self, name: str, against: str, primary: Profile | None = None
    ) -> dict[str, Any]:
        self.instance(name)
        too_new = primary is not None and primary.server_version_num > 170009
        outcome = "block" if against == "17.7" or too_new else "pass"
        finding = {"rule": "minor-order", "outcome": outcome, "primary": "17.9", "standby": against}
        return {"name": name, "blocked": outcome == "block", "findings": [finding]}

    async def request_seed(self, name: str, why: str, source: str) -> dict[str, Any]:
        self.instance(name)
        return {"requested": True, "why": why, "from": source or "link", "seed_id": "s7"}

    async def fleet(self) -> list[dict[str, Any]]:
        return [MAIN]

    async def add_instance(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((name, said))
        return {**MAIN, "name": name, "port": said.get("port", 5440)}

    async def change_instance(
        self, name: str, changes: dict[str, Any], unset: list[str]
    ) -> dict[str, Any]:
        self.asked.append((name, changes, unset))
        return MAIN

    async def remove_instance(
        self, name: str, *, keep_data: bool, promoted: bool
    ) -> dict[str, Any]:
        self.instance(name)
        if not keep_data and not promoted:
            raise RefusedError(Code.ALREADY_PROMOTED, "main was promoted", "say so")
        return {"name": name, "removed": True, "keep_data": keep_data, "keep_server": keep_data}

    async def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        self.instance(name)
        part = Part(
            removed=[Group("1", "7", 7, 7_000_000, "nothing needs it, and it is older")],
            kept=[Group("8", "8", 1, 1_000_000, "the standby")],
            not_removed=[NotDeleted("3", "locked")],
        )
        parts = {"store": part.as_dict(), "seeds": Part(held="seeds.keep is 0").as_dict()}
        return {"name": name, "dry_run": dry_run, "parts": parts}

    async def switch_installation(
        self, name: str, version: str, within_seconds: float
    ) -> dict[str, Any]:
        return {
            "name": name,
            "chosen": version,
            "version": version,
            "directory": "/pg/bin",
            "before": "17.7",
            "seconds": 1.25,
            "within_seconds": within_seconds,
        }

    async def accept(self, name: str, incarnation: Incarnation) -> dict[str, Any]:
        return {"name": name, "accepted": str(incarnation)}

    async def forget(self, name: str, incarnation: Incarnation | None) -> dict[str, Any]:
        return {"name": name, "forgotten": [str(incarnation)]}


@pytest.fixture
def operations() -> Operations:
    return Operations()


@pytest.fixture
async def applier(operations: Operations, shared_tmp_path: Path) -> AsyncIterator[str]:
    path = shared_tmp_path / "applier.sock"
    server = ApiServer(operations, path)
    await server.start()
    yield str(path)
    await server.stop()


@pytest.mark.parametrize("program", ["shipper", "applier"])
async def test_status_shows_what_is_known_and_what_is_not(program: str, applier: str) -> None:
    outcome = await run(program, "status", "--applier", applier)
    assert outcome.code == 0, outcome
    assert outcome.out.splitlines()[1].startswith("main  following  ?")
    assert "main: It is gone. [slot-lost]\n  hint: Seed again." in outcome.out


async def test_status_as_json_is_the_applier_s_own_document(applier: str) -> None:
    everything = await run("shipper", "status", "--json", environment={"LOGSHIP_APPLIER": applier})
    one = await run("shipper", "status", "main", "--json", "--applier", applier)
    assert everything.document["instances"] == [one.document]
    assert one.document["transfer_gap"] == {"bytes": None, "seconds": None}


async def test_status_of_an_unknown_instance_is_a_usage_error(applier: str) -> None:
    outcome = await run("shipper", "status", "other", "--applier", applier)
    assert outcome.code == 2
    assert outcome.err == "error: there is no instance 'other'\nhint: look again\n"


async def test_watch_draws_over_the_terminal_until_it_is_interrupted(
    applier: str, operations: Operations
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    watching = await start(
        *("shipper", "status", "--watch", "--applier", applier),
        environment={"TERM": "xterm"},
        stdout=theirs,
    )
    os.close(theirs)
    shown = ""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while shown.count("\x1b[J") < 2:
            shown += (await asyncio.to_thread(os.read, ours, 4096)).decode()
        watching.send_signal(signal.SIGINT)
        _, err = await watching.communicate()
    os.close(ours)
    assert (watching.returncode, err) == (EXIT_INTERRUPTED, b"")
    first, second = shown.split("\x1b[J")[:2]
    for drawn in (first, second):
        assert drawn.lstrip("\r\n").startswith("\x1b[H"), "over what stood there"
        assert "1 instance, 1 needs attention" in drawn
        assert "\x1b[31mmain  following" in drawn, "it has an alarm"
        assert "DURABLE" not in drawn, "60 characters have no room for it"
    assert "main: It is gone. [slot-lost]" in first


async def test_promote_prints_each_step_and_the_result(applier: str) -> None:
    outcome = await run("shipper", "promote", "main", "--applier", applier)
    assert outcome.code == 0, outcome
    step, *result = outcome.out.splitlines()
    assert step.endswith(" s  replayed what is durable (lsn 0/3000000)")
    assert [line.strip() for line in result if line] == [
        "opened          timeline 2 at 0/3000000",
        "port            5433",
        "promoted        after 0.034 s",
        "first write     after 0.036 s",
        "lost            not known: never heard",
        "look at         standby-collations (app/de 1 / app/de 2): REINDEX",
        "look at         a rule was left out",
    ]


async def test_promote_as_json_prints_the_result_alone(applier: str) -> None:
    outcome = await run("shipper", "promote", "main", "--json", "--applier", applier)
    assert outcome.code == 0
    assert outcome.document == RECORD
    assert "replayed what is durable" in outcome.err


async def test_a_refused_promotion_exits_with_3(applier: str, operations: Operations) -> None:
    operations.promoted = True
    outcome = await run("shipper", "promote", "main", "--applier", applier)
    assert outcome.code == 3
    assert outcome.err == "error: main is open already\nhint: connect to it\n"


async def test_compat_shows_the_rules_and_exits_with_3_if_they_block(applier: str) -> None:
    passed = await run("shipper", "compat", "main", "--applier", applier)
    assert passed.code == 0
    assert "minor-order  pass     17.9     -" in passed.out.splitlines()
    command = ("shipper", "compat", "main", "--against", "17.7", "--applier", applier)
    blocked = await run(*command)
    assert blocked.code == 3
    assert "minor-order  block    17.9     17.7" in blocked.out.splitlines()
    as_json = await run(*command, "--json")
    assert as_json.code == 3
    assert as_json.document["blocked"] is True


async def test_compat_takes_what_the_primary_would_be(applier: str, tmp_path: Path) -> None:
    file = tmp_path / "primary.json"
    file.write_text(json.dumps(profile_document(profile(server_version_num=170010))))
    at = ("--applier", applier)
    outcome = await run("shipper", "compat", "main", "--primary", file, *at)
    assert outcome.code == 3, outcome
    same = json.dumps(profile_document(profile()))
    outcome = await run("shipper", "compat", "main", "--primary", "-", "--json", *at, text=same)
    assert (outcome.code, outcome.document["blocked"]) == (0, False)
    for content, what in (
        ("", "holds no JSON\n"),
        ("[1]", "holds no JSON object"),
        ("{}", "no profile of a primary"),
        ("[" * 10_000, "holds no JSON\n"),
        ("1" * MAX_PROFILE_REQUEST_BYTES, "is too long"),
    ):
        file.write_text(content)
        wrong = await run("shipper", "compat", "main", "--primary", file, *at)
        assert (wrong.code, wrong.out) == (2, "")
        assert what in wrong.err and "hint: `shipper profile --json`" in wrong.err
    file.unlink()
    missing = await run("shipper", "compat", "main", "--primary", file, *at)
    assert (missing.code, "can't be read: No such file" in missing.err) == (2, True)


async def test_a_seed_is_asked_for(applier: str) -> None:
    outcome = await run("applier", "seed", "main", "--why", "new disk", "--applier", applier)
    assert outcome.code == 0
    assert "asked the shipper of main" in outcome.out
    assert "`status main` shows it come" in outcome.out
    outcome = await run("applier", "seed", "main", "--from", "bucket", "--applier", applier)
    assert "seeds main with s7 from bucket" in outcome.out
    as_json = await run("applier", "seed", "main", "--json", "--applier", applier)
    assert as_json.document["requested"] is True


async def test_a_token_is_printed_alone_and_what_to_do_with_it_beside_it(applier: str) -> None:
    outcome = await run("applier", "enroll", "new", "--hours", "2", "--applier", applier)
    assert (outcome.code, outcome.out) == (0, "AQAB\n")
    assert "until 1970-01-01 02:00:00Z, for new at tcp://recovery:7432" in outcome.err
    assert "shipper join TOKEN --conninfo" in outcome.err
    taken = await run("applier", "enroll", "main", "--json", "--applier", applier)
    assert (taken.code, taken.document["error"]["what"]) == (3, "there is main already")


async def test_retention_says_what_goes_and_why_the_rest_stays(applier: str) -> None:
    outcome = await run("applier", "retention", "main", "--dry-run", "--applier", applier)
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "store:",
        "  would go 1 … 7 (7, 7.0 MB): nothing needs it, and it is older",
        "  stays    8 (1, 1.0 MB): the standby",
        "  refused  1, the first is 3: locked",
        "seeds:",
        "  nothing goes: seeds.keep is 0",
    ]
    as_json = await run("applier", "retention", "main", "--json", "--applier", applier)
    assert as_json.document["dry_run"] is False
    assert as_json.document["parts"]["store"]["kept"][0]["why"] == "the standby"
    unknown = await run("applier", "retention", "other", "--applier", applier)
    assert unknown.code == 2


async def test_an_older_cluster_is_promoted_by_its_name(
    applier: str, operations: Operations
) -> None:
    words = ("promote", "main", "--applier", applier, "--incarnation")
    assert (await run("shipper", *words, "7301-16")).code == 0
    assert operations.chosen == Incarnation(7301, 16)
    wrong = await run("shipper", *words, "sixteen")
    assert wrong.code == 2
    assert "7301234567890123456-17" in wrong.err


async def test_a_standby_is_switched_and_clusters_are_let_in_and_forgotten(applier: str) -> None:
    switched = await run(
        "applier", "switch-installation", "main", "--to", "17.10", "--applier", applier
    )
    assert switched.out == (
        "the standby of main streams on 17.10 in /pg/bin (before: 17.7), after 1.2 s\n"
    )
    accepted = await run("applier", "accept", "main", "42-18", "--applier", applier)
    assert accepted.out.startswith("42-18 takes the place of main when it comes")
    forgotten = await run("applier", "forget", "main", "42-17", "--applier", applier)
    assert forgotten.out == "removes 42-17 of main\n"
    as_json = await run("applier", "forget", "main", "--json", "--applier", applier)
    assert as_json.document["name"] == "main"


async def test_instances_are_added_and_changed_in_the_words_of_the_settings_file(
    applier: str, operations: Operations, tmp_path: Path
) -> None:
    key = generate(tmp_path, "late").public
    outcome = await run(
        *("applier", "add", "late", "--public-key-file", tmp_path / "late.pub"),
        *(
            "--set",
            "shared_buffers_mb=64",
            "--set",
            "settings.work_mem=8MB",
            "--set",
            "seed=manual",
        ),
        *("--set", "overrides=['libc']", "--applier", applier),
    )
    assert outcome.out == "added late; its standby will have port 5440\n", outcome
    changed = await run(
        *("applier", "change", "main", "--public-key", key, "--set", "run_standby=false"),
        *("--unset", "seed", "--applier", applier),
    )
    assert changed.out == "changed main: run_standby, public_key, seed\n", changed
    assert operations.asked == [
        (
            "late",
            {
                "shared_buffers_mb": 64,
                "settings.work_mem": "8MB",
                "seed": "manual",
                "overrides": ["libc"],
                "public_key": key,
            },
        ),
        ("main", {"run_standby": False, "public_key": key}, ["seed"]),
    ]
    for arguments in (
        ("change", "main"),
        ("add", "x", "--set", "seed"),
        ("add", "x", "--set", "="),
    ):
        assert (await run("applier", *arguments, "--applier", applier)).code == 2, arguments


async def test_instances_are_listed_and_removed(applier: str) -> None:
    listed = await run("applier", "list", "--applier", applier)
    assert listed.out.splitlines() == [
        "NAME  FROM        PORT  STORE                              STANDBY",
        "main  registered  5433  /srv/wal1/instances/main/7-17/wal  -",
    ]
    as_json = await run("applier", "list", "--json", "--applier", applier)
    assert as_json.document == {"instances": [MAIN], "running": True}
    for answer, *more in (("",), ("n\n", "--json")):
        unasked = await run("applier", "remove", "main", *more, "--applier", applier, text=answer)
        assert unasked.code == 3, "nobody said that it is meant"
        assert "give --yes" in unasked.out + unasked.err
    refused = await run("applier", "remove", "main", "--yes", "--applier", applier)
    assert refused.code == 3 and refused.err == "error: main was promoted\nhint: say so\n"
    kept = await run("applier", "remove", "main", "--keep-data", "--applier", applier)
    assert "its promoted server runs on" in kept.out
    gone = await run("applier", "remove", "main", "--promoted", "--yes", "--applier", applier)
    assert gone.out == "removed main and everything kept of it here\n"


async def test_without_an_applier_nothing_is_changed_and_the_files_are_listed(
    shared_tmp_path: Path,
) -> None:
    file, nobody = shared_tmp_path / "applier.toml", shared_tmp_path / "nobody.sock"
    file.write_text(
        'directory = "state"\n[instances.main]\nport = 1\npublic_key_file = "main.pub"\n'
    )
    added = await run("applier", "add", "late", "--applier", nobody, "--json")
    assert added.code == 1 and added.document["error"]["code"] == "applier-unreachable"
    listed = await run("applier", "list", "--config", file, "--applier", nobody, "--json")
    assert listed.document["running"] is False
    assert [each["name"] for each in listed.document["instances"]] == ["main"]
