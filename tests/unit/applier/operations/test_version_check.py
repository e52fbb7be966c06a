"""The version check of an instance when what is installed changes under it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from applier.compat import HostFacts, Verdict
from applier.operations.compat_report import compat_report
from applier.operations.instance import Instance
from applier.operations.record import load_record
from applier.standby import surroundings
from applier.standby.packages import PackageWatch
from logship.environment import Environment
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import Profile
from logship.lsn import Lsn
from logship.postgres.installations import Installation, discover
from tests.support.installations import postgres_dir
from tests.support.link_frames import hello, profile
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import Listener

REMOVED = Installation(Path("/nowhere/bin"), 170010, "configured")
PRELOADS = Environment(preload_libraries=("pg_cron",))
NOTHING_READ = Environment(is_complete=False, unread=("the system catalogs",))
NOT_SEEN = Environment(is_complete=False, unread=("shared_preload_libraries",))
BARE = HostFacts(libraries=frozenset(), extensions={}, locales=frozenset())
INSTALLED = msgspec.structs.replace(BARE, libraries=frozenset({"pg_cron"}))


def blocked_by(report: dict[str, Any]) -> list[str]:
    return [each["rule"] for each in report["findings"] if each["outcome"] == "block"]


async def test_a_server_whose_programs_were_removed_stays_as_it_was_checked(
    instance: Instance, listener: Listener
) -> None:
    """The day the primary dies may be the day after somebody cleaned up."""
    await instance.hello(hello(), listener)
    check = instance.following._version_check
    check.installation, check.verdict = REMOVED, Verdict(())
    await check.look(instance.following._layout(), seeded=False, runs=True)
    assert check.passes
    assert instance.alarms.has(Code.NO_INSTALLATION)
    (alarm,) = [one for one in instance.alarms.as_list() if one["code"] == "no-installation"]
    assert "was removed from /nowhere/bin" in alarm["what"]

    # Of a primary that changed since, nothing was checked: its WAL is held.
    await instance.remember(profile=profile(max_connections=300))
    await check.look(instance.following._layout(), seeded=False, runs=True)
    assert not check.passes


async def test_only_the_loop_raises_and_clears_the_alarm_of_missing_client_rules(
    instance: Instance, listener: Listener
) -> None:
    """Others read the alarms in the loop meanwhile."""
    await instance.hello(hello(), listener)
    check, layout = instance.following._version_check, instance.following._layout()
    threads: list[threading.Thread] = []

    class Watched(dict[Code, LogshipError]):
        def __setitem__(self, code: Code, error: LogshipError) -> None:
            threads.append(threading.current_thread())
            super().__setitem__(code, error)

        def pop(self, code: Code, *default: Any) -> Any:
            threads.append(threading.current_thread())
            return super().pop(code, *default)

    instance.alarms._raised = Watched(instance.alarms._raised)
    await check.look(layout, seeded=True)
    assert instance.alarms.has(Code.NO_CLIENT_RULES)
    layout.primary_settings.mkdir(parents=True)
    (layout.primary_settings / "pg_hba.conf").touch()
    await check.look(layout, seeded=True)
    assert not instance.alarms.has(Code.NO_CLIENT_RULES)
    assert set(threads) == {threading.current_thread()}


async def test_of_an_unknown_primary_or_installation_nothing_is_reported(
    instance: Instance, listener: Listener
) -> None:
    with pytest.raises(RefusedError) as refused:
        await compat_report(instance)
    assert refused.value.code is Code.COMPATIBILITY
    await instance.hello(hello(), listener)
    instance.host.installations = [REMOVED]
    for wanted in ("16", "17.9", "/nowhere/else", "nowhere"):
        with pytest.raises(UsageError, match="there is no PostgreSQL") as wrong:
            await compat_report(instance, wanted)
        assert "17.10 in /nowhere/bin" in wrong.value.hint


async def test_who_asks_nothing_new_does_not_wait_for_an_installation_that_hangs(
    instance: Instance, listener: Listener, shared_tmp_path: Path
) -> None:
    """A promotion compares first, and must not wait for another major's package."""
    await instance.hello(hello(), listener)
    programs, began = shared_tmp_path / "bin", shared_tmp_path / "began"
    programs.mkdir()
    began.mkdir(mode=0o777)
    began.chmod(0o777)
    for name in ("postgres", "initdb"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {began}/it\nexec sleep 60\n")
        (programs / name).chmod(0o755)
    check = instance.following._version_check
    hangs = Installation(programs, 180000, "configured")
    asking = asyncio.create_task(check.compare(hangs, None))
    await until((began / "it").exists, "it is asked")
    with pytest.raises(LogshipError, match="is gone"):
        await asyncio.wait_for(check.compare(REMOVED, None), 5)
    asking.cancel()
    await asyncio.wait({asking})


async def test_a_primary_that_is_given_is_compared_and_not_kept(
    instance: Instance, listener: Listener
) -> None:
    """With a real installation: what it is there is asked of itself."""
    found = await asyncio.to_thread(discover, [postgres_dir(17)])
    (here,) = instance.host.installations = [one for one in found if one.major == 17][-1:]
    made, _ = await instance.host.surroundings.describe(here, None)
    ours = msgspec.structs.replace(made, system_identifier=17)
    first = await compat_report(instance, primary=ours)
    assert (first["given"], first["blocked"], first["succeeds"]) == (True, False, None)
    assert instance.record.profile is None

    await instance.hello(hello(profile=ours), listener)
    heard = await compat_report(instance)
    assert (heard["given"], heard["refused"], heard["blocked"]) == (False, None, False)

    newer = msgspec.structs.replace(ours, server_version_num=170099)
    report = await compat_report(instance, primary=newer)
    assert (report["primary"], report["refused"]) == ("17.99", None)
    assert blocked_by(report) == ["minor-order"]

    # A clone, and a major that is not known: their shippers would be turned away.
    await instance.opened_store.begin_chain(1, Lsn(ours.wal_segment_size), seed_id="aa")
    clone = msgspec.structs.replace(ours, system_identifier=99)
    report = await compat_report(instance, primary=clone)
    assert report["refused"]["code"] == Code.SYSTEM_IDENTIFIER_MISMATCH
    assert (report["outcome"], report["blocked"], report["succeeds"]) == ("block", True, None)
    with pytest.raises(RefusedError, match="PostgreSQL 99 is not supported"):
        await compat_report(
            instance, primary=msgspec.structs.replace(clone, server_version_num=990001)
        )

    # pg_upgrade makes a cluster that takes the place of this one.
    upgraded = msgspec.structs.replace(clone, server_version_num=180004)
    with pytest.raises(LogshipError) as missing:
        await compat_report(instance, primary=upgraded)
    assert missing.value.code is Code.NO_INSTALLATION
    report = await compat_report(instance, "17", upgraded)
    assert (report["refused"], report["succeeds"]) == (None, str(ours.incarnation))
    assert blocked_by(report) == ["major"], "the old one's data directory is not looked at"

    assert instance.record.profile == ours


async def test_an_installation_that_did_not_answer_is_to_be_asked_again_and_is_no_changed_package(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, shared_tmp_path: Path
) -> None:
    """Its disk for temporary files was full: nothing else tells when that is over."""
    programs, host = shared_tmp_path / "bin", instance.host
    programs.mkdir()
    for name in ("postgres", "initdb"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    silent = Installation(programs, 170010, "configured")
    host.installations = [REMOVED, silent]
    watch = PackageWatch(host.packages())

    async def unanswered() -> list[set[int]]:
        monkeypatch.setattr(surroundings, "ASK_AGAIN_SECONDS", 60.0)
        with pytest.raises(LogshipError):
            await host.surroundings.describe(silent, None)
        too_soon = host.take_unanswered_majors()
        monkeypatch.setattr(surroundings, "ASK_AGAIN_SECONDS", 0.0)
        return [too_soon, host.take_unanswered_majors(), host.take_unanswered_majors()]

    assert host.take_unanswered_majors() == set()
    assert await unanswered() == [set(), {17}, set()]
    host.surroundings._failed_at.clear()
    assert await unanswered() == [set(), {17}, set()], "it failed once more"
    assert [watch.look(host.packages()) for _ in range(3)] == [False] * 3


class Surroundings:
    """What is known of the recovery server, in place of asking an installation."""

    def __init__(self, instance: Instance, facts: HostFacts | None) -> None:
        self.facts = facts
        instance.host.installations = [REMOVED]
        instance.host.surroundings = self  # type: ignore[assignment]
        self.watched: set[Path] = set()

    async def describe(self, *_: object) -> tuple[Profile, HostFacts | None]:
        return profile(server_version_num=170010), self.facts


@pytest.mark.parametrize(
    ("environment", "facts"),
    [(None, BARE), (NOTHING_READ, BARE), (NOT_SEEN, BARE), (PRELOADS, None), (None, None)],
    ids=["older-shipper", "nothing-read", "not-seen", "host-unknown", "neither"],
)
async def test_who_was_blocked_stays_so_until_it_is_known_that_nothing_is_missing(
    instance: Instance,
    listener: Listener,
    environment: Environment | None,
    facts: HostFacts | None,
) -> None:
    here = Surroundings(instance, BARE)
    await instance.hello(hello(profile=profile(environment=PRELOADS)), listener)
    assert blocked_by(await compat_report(instance)) == ["preload-libraries"]

    here.facts = facts
    await instance.hello(hello(profile=profile(environment=environment)), listener)
    assert instance.alarms.has(Code.COMPATIBILITY)
    report = await compat_report(instance)
    assert blocked_by(report) == ["preload-libraries"]
    (found,) = [each for each in report["findings"] if each["rule"] == "preload-libraries"]
    assert found["remedy"].startswith("install pg_cron for PostgreSQL 17 on the recovery server")

    # Nothing is forgotten by a restart.
    assert instance.record == await asyncio.to_thread(load_record, instance.directory, "orders")
    await instance.following.close()
    await instance.following.open()
    assert instance.following.verdict is not None and instance.following.verdict.blocked

    here.facts = INSTALLED
    await instance.following.check_again()
    assert not instance.alarms.has(Code.COMPATIBILITY)
    here.facts = None
    await instance.following.check_again()
    assert not (await compat_report(instance))["blocked"], "it was seen to be there"


async def test_who_needs_it_no_more_is_not_blocked_though_the_host_is_not_known(
    instance: Instance, listener: Listener
) -> None:
    here = Surroundings(instance, BARE)
    await instance.hello(hello(profile=profile(environment=PRELOADS)), listener)
    here.facts = None
    await instance.hello(hello(profile=profile(environment=Environment())), listener)
    assert not (await compat_report(instance))["blocked"]
    assert instance.record.lacking == ()
