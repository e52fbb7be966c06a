from __future__ import annotations

import pytest

from logship.errors import Code, LogshipError
from logship.link.instances import Instances, why_replaced
from tests.support.link_frames import hello

ORDERS, BILLING = "key-orders", "key-billing"


def instances() -> Instances[str]:
    return Instances({ORDERS: frozenset({"orders"}), BILLING: frozenset({"billing", "orders"})})


def refusal(arbiter: Instances[str], peer: str, key: str, **changes: object) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        arbiter.claim(peer, key, hello(**changes))
    return caught.value


def test_a_free_instance_is_given_to_a_key_that_may_ship_it() -> None:
    arbiter = instances()
    assert arbiter.claim("peer-1", ORDERS, hello()) is None
    holder = arbiter.holder("orders")
    assert holder is not None
    assert (holder.peer, holder.shipper_id) == ("peer-1", "shipper-a")


def test_an_unknown_instance_and_a_key_for_another_are_told_apart() -> None:
    arbiter = instances()
    assert refusal(arbiter, "p", ORDERS, instance="nope").code is Code.UNKNOWN_INSTANCE
    error = refusal(arbiter, "p", ORDERS, instance="billing")
    assert error.code is Code.KEY_NOT_ALLOWED
    assert "only orders" in error.what
    assert refusal(arbiter, "p", "stranger").code is Code.KEY_NOT_ALLOWED


def test_a_second_shipper_is_told_who_holds_the_instance() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello(), address="192.0.2.7")
    error = refusal(arbiter, "peer-2", BILLING, shipper_id="shipper-b")
    assert error.code is Code.INSTANCE_BUSY
    assert error.retryable
    assert "shipper-a from 192.0.2.7" in error.what


def test_a_shipper_whose_primary_is_away_gives_way_to_one_that_has_a_primary() -> None:
    """After a fail-over the old primary's host may be up, and its shipper with it."""
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello(primary_reachable=False))
    error = refusal(arbiter, "peer-2", BILLING, shipper_id="shipper-b", primary_reachable=False)
    assert error.code is Code.INSTANCE_BUSY
    new = hello(shipper_id="shipper-b")
    before = arbiter.claim("peer-2", BILLING, new)
    assert before is not None and before.peer == "peer-1"
    farewell = why_replaced(before, new)
    assert farewell is not None
    assert (farewell.code, farewell.retryable) == (Code.INSTANCE_BUSY, True)
    error = refusal(arbiter, "peer-3", ORDERS, primary_reachable=False)
    assert error.code is Code.INSTANCE_BUSY


def test_a_holder_whose_primary_goes_away_gives_way_until_it_is_back() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    arbiter.primary_seen("peer-1", reachable=False)
    arbiter.primary_seen("peer-1", reachable=True)
    assert refusal(arbiter, "p", BILLING, shipper_id="shipper-b").code is Code.INSTANCE_BUSY
    arbiter.primary_seen("peer-1", reachable=False)
    arbiter.primary_seen("a stranger", reachable=False)
    assert arbiter.claim("peer-2", BILLING, hello(shipper_id="shipper-b")) is not None


def test_a_process_that_connects_again_has_nothing_to_be_told() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    before = arbiter.claim("peer-2", ORDERS, hello())
    assert before is not None
    assert why_replaced(before, hello()) is None


def test_the_same_shipper_started_again_takes_over() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    again = hello(boot_id="boot-2")
    before = arbiter.claim("peer-2", ORDERS, again)
    assert before is not None
    assert before.peer == "peer-1"
    farewell = why_replaced(before, again)
    assert farewell is not None
    assert (farewell.code, farewell.retryable) == (Code.SUPERSEDED, False)
    assert arbiter.release("peer-1") == []
    assert arbiter.release("peer-2") == ["orders"]


def test_a_holder_that_left_frees_the_instance() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    arbiter.release("peer-1")
    assert arbiter.claim("peer-2", BILLING, hello(shipper_id="shipper-b")) is None


def test_a_peer_speaks_for_what_it_holds_now_and_for_nothing_else() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", BILLING, hello())
    arbiter.claim("peer-1", BILLING, hello(instance="billing"))
    arbiter.claim("peer-2", BILLING, hello())  # it connected again for one of them
    arbiter.primary_seen("peer-1", reachable=False)
    reachable = {name: arbiter.holder(name) for name in ("orders", "billing")}
    assert {name: holder and holder.primary_reachable for name, holder in reachable.items()} == {
        "orders": True,
        "billing": False,
    }
    assert arbiter.release("peer-1") == ["billing"]
    assert arbiter.release("peer-2") == ["orders"]


def test_withdrawing_a_key_names_the_holders_to_expel() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    arbiter.claim("peer-2", BILLING, hello(instance="billing"))
    ((peer, error),) = arbiter.allow({BILLING: frozenset({"billing", "orders"})})
    assert peer == "peer-1"
    assert error.code is Code.KEY_NOT_ALLOWED
