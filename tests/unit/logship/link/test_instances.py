from __future__ import annotations

import pytest

from logship.errors import Code, LogshipError
from logship.link.instances import Instances, superseded
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


def test_the_same_shipper_started_again_takes_over() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    again = hello(boot_id="boot-2")
    before = arbiter.claim("peer-2", ORDERS, again)
    assert before is not None
    assert before.peer == "peer-1"
    assert superseded(again).code is Code.SUPERSEDED
    assert not superseded(again).retryable
    assert arbiter.release("peer-1") == []
    assert arbiter.release("peer-2") == ["orders"]


def test_a_holder_that_left_frees_the_instance() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    arbiter.release("peer-1")
    assert arbiter.claim("peer-2", BILLING, hello(shipper_id="shipper-b")) is None


def test_withdrawing_a_key_names_the_holders_to_expel() -> None:
    arbiter = instances()
    arbiter.claim("peer-1", ORDERS, hello())
    arbiter.claim("peer-2", BILLING, hello(instance="billing"))
    ((peer, error),) = arbiter.allow({BILLING: frozenset({"billing", "orders"})})
    assert peer == "peer-1"
    assert error.code is Code.KEY_NOT_ALLOWED
