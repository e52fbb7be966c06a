"""Who may ship which instance, and which connection holds it now.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from logship.errors import Code, LogshipError
from logship.frames import Hello

PeerT = TypeVar("PeerT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Holder(Generic[PeerT]):
    """The connection that an instance's WAL is accepted from."""

    peer: PeerT
    public_key: str
    shipper_id: str
    boot_id: str
    address: str
    primary_reachable: bool = True


class Instances(Generic[PeerT]):
    """Arbiter between connections.  `PeerT` is whatever the transport calls a connection.

    allowed: public key (z85 text) to the names of the instances it may ship.
    """

    def __init__(self, allowed: Mapping[str, frozenset[str]]) -> None:
        self._allowed = dict(allowed)
        self._holders: dict[str, Holder[PeerT]] = {}
        self._held: defaultdict[PeerT, set[str]] = defaultdict(set)
        """The instances that a peer holds: it is asked for with each heartbeat of each peer."""

    def claim(
        self, peer: PeerT, public_key: str, hello: Hello, *, address: str = ""
    ) -> Holder[PeerT] | None:
        """Give `hello.instance` to `peer`.

        Returns the holder it replaces, whose session is to be ended with `why_replaced`: the
        same shipper (`shipper_id`), from an older connection or an older start, or one whose
        primary is away while this one has a primary.  Raises LogshipError to refuse with:
        UNKNOWN_INSTANCE, KEY_NOT_ALLOWED, or INSTANCE_BUSY while another shipper holds it.
        """
        instance = hello.instance
        self._check_allowed(public_key, instance)
        holder = self._holders.get(instance)
        if (
            holder is not None
            and holder.peer != peer
            and holder.shipper_id != hello.shipper_id
            and (holder.primary_reachable or not hello.primary_reachable)
        ):
            raise LogshipError(
                Code.INSTANCE_BUSY,
                f"instance {instance} is being shipped by {holder.shipper_id}"
                + (f" from {holder.address}" if holder.address else ""),
                "stop one of the two shippers; a crashed one frees the instance by itself "
                "within seconds",
                retryable=True,
            )
        if holder is not None:
            self._let_go(holder.peer, instance)
        self._held[peer].add(instance)
        self._holders[instance] = Holder(
            peer, public_key, hello.shipper_id, hello.boot_id, address, hello.primary_reachable
        )
        return holder if holder is not None and holder.peer != peer else None

    def primary_seen(self, peer: PeerT, *, reachable: bool) -> None:
        """`peer` says whether it reaches its primary."""
        for name in self._held.get(peer, ()):
            holder = self._holders[name]
            if holder.primary_reachable != reachable:
                self._holders[name] = replace(holder, primary_reachable=reachable)

    def release(self, peer: PeerT) -> list[str]:
        """`peer` is gone: free what it holds.  Returns the names of those instances."""
        names = sorted(self._held.pop(peer, ()))
        for name in names:
            del self._holders[name]
        return names

    def _let_go(self, peer: PeerT, instance: str) -> None:
        held = self._held[peer]
        held.discard(instance)
        if not held:
            del self._held[peer]

    def holder(self, instance: str) -> Holder[PeerT] | None:
        return self._holders.get(instance)

    def allow(self, allowed: Mapping[str, frozenset[str]]) -> list[tuple[PeerT, LogshipError]]:
        """Change who may ship what.  Returns holders that no longer may, each with the error
        to refuse its session with; `release` them."""
        self._allowed = dict(allowed)
        expelled: list[tuple[PeerT, LogshipError]] = []
        for name, holder in self._holders.items():
            try:
                self._check_allowed(holder.public_key, name)
            except LogshipError as error:
                expelled.append((holder.peer, error))
        return expelled

    def _check_allowed(self, public_key: str, instance: str) -> None:
        mine = self._allowed.get(public_key, frozenset())
        if instance in mine:
            return
        if not any(instance in names for names in self._allowed.values()):
            raise LogshipError(
                Code.UNKNOWN_INSTANCE,
                f"this applier has no instance {instance!r}",
                "check `instance` in the shipper's settings, or add it there: applier add NAME",
            )
        raise LogshipError(
            Code.KEY_NOT_ALLOWED,
            f"the key {public_key} may not ship instance {instance!r}"
            + (f", only {', '.join(sorted(mine))}" if mine else ""),
            "add the shipper's public key to that instance in the applier's settings",
        )


def why_replaced(holder: Holder[PeerT], hello: Hello) -> LogshipError | None:
    """What `holder`'s session is refused with when `hello` took its place.

    None: the same process has let go of that connection itself.  Another start of the same
    shipper is told so for good, or two processes started with one state directory would throw
    each other out for ever.
    """
    if holder.shipper_id != hello.shipper_id:
        return LogshipError(
            Code.INSTANCE_BUSY,
            f"instance {hello.instance} is being shipped by {hello.shipper_id}, "
            "which reaches its primary",
            "nothing, after a fail-over; else see why this shipper's primary is away",
            retryable=True,
        )
    if holder.boot_id == hello.boot_id:
        return None
    return LogshipError(
        Code.SUPERSEDED,
        f"shipper {hello.shipper_id} was started again (boot {hello.boot_id}) "
        f"and took over instance {hello.instance}",
        "if two shippers run with one state directory, stop one",
    )
