"""A crash at any step of the swap ends with the old data or the new, never between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from applier.receivers.seed import placement
from applier.receivers.seed.placement import (
    SeedPlaced,
    discard_arriving,
    discard_previous,
    read_placement,
    recover_placement,
    swap_in,
    tablespace_locations,
)
from logship import durable
from logship.errors import Code, LogshipError

STEPS = ("write_file", "rename", "remove_tree")


class PowerCut(BaseException):
    """The process dies here."""


class DyingDisk:
    """`durable`, which dies before or after its n-th operation, or in the midst of removing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, die_at: int, moment: str) -> None:
        self.operations = 0
        for name in STEPS:
            real = getattr(durable, name)
            monkeypatch.setattr(placement.durable, name, self._dying(name, real, die_at, moment))

    def _dying(
        self, name: str, real: Callable[..., None], die_at: int, moment: str
    ) -> Callable[..., None]:
        def operation(path: Path, *arguments: object) -> None:
            self.operations += 1
            dies = self.operations == die_at
            if dies and moment == "midst" and name == "remove_tree" and path.exists():
                for each in path.iterdir():
                    each.unlink()
            if dies and moment != "after":
                raise PowerCut
            real(path, *arguments)
            if dies:
                raise PowerCut

        return operation


def seed(name: str) -> SeedPlaced:
    return SeedPlaced(
        seed_id=name, timeline=1, start_lsn=1, end_lsn=2, bytes=1, files=1, tablespaces={9: "/x"}
    )


def make(directory: Path, suffix: str, content: str) -> None:
    for name in ("data", "tablespaces"):
        (directory / (name + suffix)).mkdir()
        (directory / (name + suffix) / "file").write_text(content)


def contents(directory: Path) -> set[str]:
    return {(directory / name / "file").read_text() for name in ("data", "tablespaces")}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("moment", ["before", "midst", "after"])
@pytest.mark.parametrize("die_at", range(1, 9))
def test_a_crash_at_any_step_ends_with_all_of_the_old_or_all_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int, moment: str
) -> None:
    make(tmp_path, "", "first")
    make(tmp_path, ".old", "zeroth")
    make(tmp_path, ".seeding", "second")
    with monkeypatch.context() as patch:
        DyingDisk(patch, die_at, moment)
        with pytest.raises(PowerCut):
            swap_in(tmp_path, seed("second"))
    # It dies again at every step of the recovery, before that gets through.
    for again in range(1, 9):
        with monkeypatch.context() as patch:
            DyingDisk(patch, again, moment)
            try:
                recover_placement(tmp_path)
            except PowerCut:
                continue
            break
    found = recover_placement(tmp_path)
    begun = die_at > 1 or moment == "after"
    assert found == (seed("second") if begun else None)
    assert contents(tmp_path) == {"second" if begun else "first"}
    assert not {"data.seeding", "tablespaces.seeding"} & names(tmp_path)
    assert (tmp_path / "data.old/file").read_text() == ("first" if begun else "zeroth")
    assert read_placement(tmp_path) == found


def test_there_are_exactly_the_steps_that_the_crash_test_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "", "first")
    make(tmp_path, ".old", "zeroth")
    make(tmp_path, ".seeding", "second")
    disk = DyingDisk(monkeypatch, 0, "before")
    swap_in(tmp_path, seed("second"))
    assert disk.operations == 8


def test_the_first_seed_needs_no_predecessor(tmp_path: Path) -> None:
    make(tmp_path, ".seeding", "first")
    assert read_placement(tmp_path) is None
    swap_in(tmp_path, seed("first"))
    assert names(tmp_path) == {"data", "tablespaces", "seed.json"}
    assert recover_placement(tmp_path) == seed("first")


def test_the_predecessor_goes_only_when_the_caller_says_so(tmp_path: Path) -> None:
    make(tmp_path, "", "first")
    make(tmp_path, ".seeding", "second")
    swap_in(tmp_path, seed("second"))
    recover_placement(tmp_path)
    assert {"data.old", "tablespaces.old"} <= names(tmp_path)
    discard_previous(tmp_path)
    discard_previous(tmp_path)
    assert names(tmp_path) == {"data", "tablespaces", "seed.json"}


@pytest.mark.parametrize("missing", ["data", "tablespaces"])
def test_a_seed_of_which_something_is_missing_is_not_put_in_place(
    tmp_path: Path, missing: str
) -> None:
    make(tmp_path, "", "first")
    make(tmp_path, ".seeding", "second")
    durable.remove_tree(tmp_path / f"{missing}.seeding")
    before = names(tmp_path)
    with pytest.raises(LogshipError) as caught:
        swap_in(tmp_path, seed("second"))
    assert caught.value.code is Code.SEED_FAILED
    assert f"{missing}.seeding" in caught.value.what
    assert (names(tmp_path), contents(tmp_path)) == (before, {"first"})


def test_a_swap_that_was_done_may_be_asked_for_again(tmp_path: Path) -> None:
    """Whoever waited for it was cancelled, and did not hear of it."""
    make(tmp_path, ".seeding", "first")
    swap_in(tmp_path, seed("first"))
    swap_in(tmp_path, seed("first"))
    assert contents(tmp_path) == {"first"}


def test_nothing_is_discarded_while_a_swap_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "", "first")
    make(tmp_path, ".seeding", "second")
    with monkeypatch.context() as patch:
        DyingDisk(patch, 2, "after")
        with pytest.raises(PowerCut):
            swap_in(tmp_path, seed("second"))
    before = names(tmp_path)
    for refused in (discard_arriving, discard_previous, read_placement):
        with pytest.raises(LogshipError) as caught:
            refused(tmp_path)
        assert caught.value.code is Code.SEED_FAILED
    assert names(tmp_path) == before


def test_a_damaged_record_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path, "", "first")
    make(tmp_path, ".seeding", "second")
    (tmp_path / "seed.json").write_bytes(b'{"phase": "swap')
    before = names(tmp_path)
    with pytest.raises(LogshipError, match=r"seed\.json can't be read"):
        recover_placement(tmp_path)
    assert names(tmp_path) == before


def test_the_primarys_locations_are_remembered(tmp_path: Path) -> None:
    with pytest.raises(LogshipError):
        tablespace_locations(tmp_path)
    (tmp_path / "tablespaces").mkdir()
    (tmp_path / "tablespaces/locations.json").write_text('{"16385": "/mnt/fast"}')
    assert tablespace_locations(tmp_path) == {16385: "/mnt/fast"}
