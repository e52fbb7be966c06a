"""A package that changes is acted on once, and only when all of it is there."""

from __future__ import annotations

from pathlib import Path

from applier.standby.packages import PackageWatch, digest, state_of

OLD = {"postgres": 1, "libc": 1}
NEW = {"postgres": 2, "libc": 2}
HALF = {"postgres": 2, "libc": 1}


def looks(watch: PackageWatch, *states: dict[str, object]) -> list[bool]:
    return [watch.look(state) for state in states]


def test_what_rests_is_acted_on_once() -> None:
    assert looks(PackageWatch(OLD), OLD, NEW, NEW, NEW) == [False, False, True, False]


def test_half_a_package_is_waited_for() -> None:
    assert looks(PackageWatch(OLD), HALF, NEW, NEW) == [False, False, True]


def test_what_was_undone_meanwhile_is_no_change() -> None:
    assert looks(PackageWatch(OLD), HALF, OLD, OLD) == [False, False, False]


def test_a_path_that_comes_to_be_watched_is_no_change_until_it_changes() -> None:
    watch = PackageWatch(OLD)
    wider = {**OLD, "icu": 1}
    assert looks(watch, wider, wider) == [False, False]
    assert looks(watch, {**OLD, "icu": 2}, {**OLD, "icu": 2}) == [False, True]


def test_a_file_that_is_replaced_goes_or_comes_is_another_state(tmp_path: Path) -> None:
    there, not_there = tmp_path / "there", tmp_path / "not-there"
    there.write_text("one")
    first = state_of([there, not_there])
    assert first == state_of([there, not_there])
    assert digest(first) == digest(dict(reversed(first.items())))
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").replace(there)
    replaced = state_of([there, not_there])
    not_there.touch()
    come = state_of([there, not_there])
    there.unlink()
    assert len({digest(state) for state in (first, replaced, come, state_of([there]))}) == 4
