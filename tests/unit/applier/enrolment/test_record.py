from __future__ import annotations

import json
from pathlib import Path

import pytest

from applier.enrolment.record import (
    Enrolment,
    forget_enrolment,
    key_digest,
    load_enrolments,
    save_enrolment,
)
from logship.errors import Code, RefusedError
from tests.support.fake_intake import new_keys

TOKEN, SHIPPER, OTHER = new_keys().public, new_keys().public, new_keys().public
ENDS = 3600.0


def enrolment(**changes: object) -> Enrolment:
    fields = {
        "instance": "main",
        "key_digest": key_digest(TOKEN),
        "issued_at": 0.0,
        "expires_at": ENDS,
        **changes,
    }
    return Enrolment(**fields)  # type: ignore[arg-type]


def refusal(of: Enrolment, key: str, now: float) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        of.redeem(key, now)
    assert "applier enroll main" in caught.value.hint
    return caught.value


def test_the_first_shipper_redeems_it_until_it_ends() -> None:
    redeemed = enrolment().redeem(SHIPPER, ENDS - 1)
    assert (redeemed.redeemed_by, redeemed.redeemed_at) == (SHIPPER, ENDS - 1)
    assert not redeemed.is_registered
    assert refusal(enrolment(), SHIPPER, ENDS).code is Code.TOKEN_EXPIRED


def test_a_second_shipper_is_told_that_it_was_used() -> None:
    redeemed = enrolment().redeem(SHIPPER, 1)
    for now in (2, ENDS, 9 * ENDS):
        error = refusal(redeemed, OTHER, now)
        assert error.code is Code.TOKEN_USED
        assert SHIPPER in error.what


def test_the_same_shipper_may_come_again() -> None:
    redeemed = enrolment().redeem(SHIPPER, 1)
    assert redeemed.redeem(SHIPPER, 2) is redeemed


def test_what_was_registered_is_told_again_also_after_the_end() -> None:
    registered = enrolment(redeemed_by=SHIPPER, redeemed_at=1.0, is_registered=True)
    assert registered.redeem(SHIPPER, 9 * ENDS) is registered


def test_what_was_not_registered_in_time_is_over() -> None:
    redeemed = enrolment().redeem(SHIPPER, 1)
    assert refusal(redeemed, SHIPPER, ENDS).code is Code.TOKEN_EXPIRED


def test_the_file_comes_back_and_holds_no_key_of_the_token(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "on" / "demand"
    save_enrolment(directory, enrolment())
    assert load_enrolments(directory) == ([enrolment()], [])
    (file,) = directory.iterdir()
    assert TOKEN not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    forget_enrolment(directory, "main")
    forget_enrolment(directory, "main")
    assert load_enrolments(directory) == ([], [])


def test_nothing_is_remembered_where_there_is_no_directory(tmp_path: Path) -> None:
    assert load_enrolments(tmp_path / "none") == ([], [])
    forget_enrolment(tmp_path / "none", "main")


@pytest.mark.parametrize("damage", ["", "{", '{"format": 1}', "format", "instance"])
def test_a_damaged_file_voids_its_own_token_alone(tmp_path: Path, damage: str) -> None:
    save_enrolment(tmp_path, enrolment())
    save_enrolment(tmp_path, enrolment(instance="other"))
    file = tmp_path / "other.json"
    whole = json.loads(file.read_text())
    changed = {"format": {**whole, "format": 99}, "instance": {**whole, "instance": "main"}}
    file.write_text(json.dumps(changed[damage]) if damage in changed else damage)
    found, (error,) = load_enrolments(tmp_path)
    assert found == [enrolment()]
    assert error.code is Code.STORE_DAMAGED
    assert "applier enroll other" in error.hint
