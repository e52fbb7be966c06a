"""Who may ship which instance, and which connection holds it now.  Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
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


class Instances(Generic[PeerT]):
    """Arbiter between connections.  `PeerT` is whatever the transport calls a connection.

    allowed: public key (z85 text) to the names of the instances it may ship.
    """

    def __init__(self, allowed: Mapping[str, frozenset[str]]) -> None:
        self._allowed = dict(allowed)
        self._holders: dict[str, Holder[PeerT]] = {}

    def claim(
        self, peer: PeerT, public_key: str, hello: Hello, *, address: str = ""
    ) -> Holder[PeerT] | None:
        """Give `hello.instance` to `peer`.

        Returns the holder it supersedes: the same shipper (`shipper_id`), from an older
        connection or an older start; refuse that one's session with `superseded()`.
        Raises LogshipError to refuse with: UNKNOWN_INSTANCE, KEY_NOT_ALLOWED, or
        INSTANCE_BUSY while another shipper holds it.
        """
        instance = hello.instance
        self._check_allowed(public_key, instance)
        holder = self._holders.get(instance)
        if holder is not None and holder.peer != peer and holder.shipper_id != hello.shipper_id:
            raise LogshipError(
                Code.INSTANCE_BUSY,
                f"instance {instance} is being shipped by {holder.shipper_id}"
                + (f" from {holder.address}" if holder.address else ""),
                "stop one of the two shippers; a crashed one frees the instance by itself "
                "within seconds",
                retryable=True,
            )
        self._holders[instance] = Holder(peer, public_key, hello.shipper_id, hello.boot_id, address)
        return holder if holder is not None and holder.peer != peer else None

    def release(self, peer: PeerT) -> list[str]:
        """`peer` is gone: free what it holds.  Returns the names of those instances."""
        names = [name for name, holder in self._holders.items() if holder.peer == peer]
        for name in names:
            del self._holders[name]
        return names

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
                "check `instance` in the shipper's settings, or add it to the applier's",
            )
        raise LogshipError(
            Code.KEY_NOT_ALLOWED,
            f"the key {public_key} may not ship instance {instance!r}"
            + (f", only {', '.join(sorted(mine))}" if mine else ""),
            "add the shipper's public key to that instance in the applier's settings",
        )


def superseded(hello: Hello) -> LogshipError:
    """What a holder's session is refused with when `hello` took its place.

    Not retryable, or two processes started with one state directory would throw each other
    out for ever.
    """
    return LogshipError(
        Code.SUPERSEDED,
        f"shipper {hello.shipper_id} was started again (boot {hello.boot_id}) "
        f"and took over instance {hello.instance}",
        "if two shippers run with one state directory, stop one",
    )
