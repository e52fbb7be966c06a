"""A join token: what `applier enroll` prints and `shipper join` redeems, in one line of text.

It is base64url without padding of

    version (1 byte, 1), the applier's public key (32), a secret key of its own (32),
    length of the instance's name (1), the name, the applier's address,
    CRC-32C of all of that (4, little-endian)

With its secret key a shipper-to-be may connect to join, and for nothing else.  Whoever has the
token may join in the place of the one it was made for: it is as secret as a password.
docs/enrolment.md tells how it is used.
"""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

import crc32c
import zmq
from zmq.utils import z85

from logship.errors import Code, LogshipError, UsageError
from logship.identity import check_instance_name
from logship.link.keys import KeyPair
from logship.settings_network import check_address

TOKEN_VERSION: Final = 1
MAX_TOKEN_CHARACTERS: Final = 1024

_KEY_BYTES = 32
_CHECKSUM_BYTES = 4
_HEAD_BYTES = 1 + 2 * _KEY_BYTES + 1


class JoinToken(NamedTuple):
    """One invitation.  Never log `text()`; `repr` does not show the secret."""

    address: str
    """tcp://HOST:PORT, as the shipper's host reaches the applier."""
    applier_public_key: str
    instance: str
    keys: KeyPair
    """The token's own pair, with which the joining connection is made."""

    @classmethod
    def make(cls, *, address: str, applier_public_key: str, instance: str) -> JoinToken:
        """A new token, with a secret that nobody had before."""
        public, secret = (half.decode("ascii") for half in zmq.curve_keypair())
        return cls(address, applier_public_key, instance, KeyPair(public, secret))

    def text(self) -> str:
        """The token as one line."""
        name = self.instance.encode("ascii")
        body = b"".join(
            (
                bytes([TOKEN_VERSION]),
                z85.decode(self.applier_public_key),
                z85.decode(self.keys.secret),
                bytes([len(name)]),
                name,
                self.address.encode("ascii"),
            )
        )
        return _encoded(body + crc32c.crc32c(body).to_bytes(_CHECKSUM_BYTES, "little"))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a token; blanks and line breaks in it do not matter.

        Raises UsageError(BAD_TOKEN), which never repeats what it was given.
        """
        text = "".join(text.split())
        body = _checked(text)
        if body[0] != TOKEN_VERSION:
            raise _bad(
                f"the token is of version {body[0]}, this Logship reads version {TOKEN_VERSION}",
                "use the same version of Logship on both hosts",
            )
        name_end = _HEAD_BYTES + body[_HEAD_BYTES - 1] if len(body) >= _HEAD_BYTES else 0
        if not _HEAD_BYTES < name_end < len(body):
            raise _bad("the token's parts do not fit together")
        secret = z85.encode(body[1 + _KEY_BYTES : _HEAD_BYTES - 1]).decode("ascii")
        try:
            instance = check_instance_name(body[_HEAD_BYTES:name_end].decode("ascii"))
            address = body[name_end:].decode("ascii")
            public = zmq.curve_public(secret.encode("ascii")).decode("ascii")
        except (ValueError, zmq.ZMQError, LogshipError) as error:
            raise _bad("the token holds something that no applier puts there") from error
        if any(check_address("address", address)):
            raise _bad("the token's address is none to connect to")
        applier_public_key = z85.encode(body[1 : 1 + _KEY_BYTES]).decode("ascii")
        return cls(address, applier_public_key, instance, KeyPair(public, secret))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _checked(text: str) -> bytes:
    """What the text holds, without the checksum.  Raises UsageError(BAD_TOKEN)."""
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise _bad(f"a token has no {len(text)} characters")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise _bad("the token has characters that none has, or too few of them") from error
    body = raw[:-_CHECKSUM_BYTES]
    stated = int.from_bytes(raw[-_CHECKSUM_BYTES:], "little")
    # Written in one way alone: else some typos would leave the same bytes.
    if not body or crc32c.crc32c(body) != stated or _encoded(raw) != text:
        raise _bad("the token does not match its checksum")
    return body


def _bad(
    what: str, hint: str = "copy it again, as a whole, or make a new one: applier enroll NAME"
) -> UsageError:
    return UsageError(Code.BAD_TOKEN, what, hint)
