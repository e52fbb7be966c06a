"""The roads that lead into the instances of a process: the link and the bucket.

Instances come and go: `attach` and `detach`.  The link listens from when the first instance has
one, so that an applier of a bucket alone needs neither a key nor a port.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from applier.operations.buckets import Buckets
from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.receivers.link import LinkReceiver
from logship.link.keys import KeyPair, load_pair, load_public

log = structlog.get_logger(__name__)


class Roads:
    """`start` in the event loop, then `stop`.  instances: by name, those that are open."""

    def __init__(self, host: Host, instances: Mapping[str, Instance]) -> None:
        """Raises LogshipError for identities or an AWS profile that can't be used."""
        self._host = host
        self._instances = instances
        self._keys: dict[str, str] = {}
        self._attached: set[str] = set()
        self.link: LinkReceiver | None = None
        """None until an instance has a link."""
        self.buckets = Buckets(host.settings, instances)

    def start(self) -> None:
        """Attach every instance.  Raises LogshipError: a key is missing, or the link's address
        can't be had."""
        for name in sorted(self._instances):
            self.attach(name)

    async def stop(self) -> None:
        if self.link is not None:
            await self.link.stop()
        await self.buckets.stop()

    @property
    def key_owners(self) -> dict[str, str]:
        """An instance of each shipper's public key."""
        return {key: name for name, key in self._keys.items()}

    def attach(self, name: str) -> None:
        """Open the roads that the instance's settings name, and close the others.

        Raises LogshipError (KEY_MISSING, SETTINGS): the link can't be opened.
        """
        instance = self._instances[name]
        if instance.settings.has_link:
            self._allow(name, load_public(instance.settings.shipper_key))
        else:
            self._forbid(name)
        if self._host.settings.is_attached(name) and name not in self._attached:
            self._attached.add(name)
            self.buckets.attach(name)

    async def attach_again(self, name: str) -> None:
        """The instance's settings changed.  Raises as `attach`."""
        if name in self._attached and not self._host.settings.is_attached(name):
            self._attached.discard(name)
            await self.buckets.detach(name)
        self.attach(name)

    async def detach(self, name: str) -> None:
        """Nothing comes to the instance any more; returns when nothing does."""
        self._forbid(name)
        self._attached.discard(name)
        await self.buckets.detach(name)

    def ensure_link(self) -> LinkReceiver:
        """The link, which listens.  Raises LogshipError: KEY_MISSING (the applier has no secret
        key), SETTINGS (it can't listen)."""
        if self.link is None:
            settings = self._host.settings.link
            link = self._receiver(load_pair(settings.secret_key_file))
            try:
                endpoint = link.start(settings.listen)
            except BaseException:
                link.router.close()
                raise
            self.link = link
            log.info("the link listens", endpoint=endpoint)
        return self.link

    def _receiver(self, keys: KeyPair) -> LinkReceiver:
        settings = self._host.settings.link
        return LinkReceiver(
            self._instances,
            {},
            keys=keys,
            window_bytes=settings.window_mb << 20,
            heartbeat_seconds=settings.heartbeat_seconds,
        )

    def _allow(self, name: str, key: str) -> None:
        link = self.ensure_link()
        before = self._keys.get(name)
        self._keys[name] = key
        # The new one first: an instance that nobody may ship is not known to its shipper.
        link.allow(key, self._names_of(key))
        if before not in (None, key):
            self._narrow(before)

    def _forbid(self, name: str) -> None:
        key = self._keys.pop(name, None)
        if key is not None:
            self._narrow(key)

    def _narrow(self, key: str | None) -> None:
        if self.link is None or key is None:
            return
        names = self._names_of(key)
        if names:
            self.link.allow(key, names)
        else:
            self.link.forbid(key)

    def _names_of(self, key: str) -> frozenset[str]:
        return frozenset(name for name, its in self._keys.items() if its == key)
