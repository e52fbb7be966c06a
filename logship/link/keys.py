"""CURVE key pairs on disk: `NAME.key` (secret, 0600) and `NAME.pub`, one line of z85 each.

A CURVE key is 32 bytes, 40 characters in z85 (https://rfc.zeromq.org/spec/32/).  A public
key may stand in a settings file as it is; a secret key is only ever read from a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import zmq

from logship import durable
from logship.errors import Code, LogshipError, RefusedError

_Z85_KEY = re.compile(r"\A[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")
_MAX_FILE_BYTES = 4096


class KeyPair(NamedTuple):
    """Both halves as z85 text.  Never log `secret`; `repr` does not show it."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public!r})"


def generate(directory: Path, name: str) -> KeyPair:
    """Make a pair and write it durably.  The directory is made if missing.

    Raises LogshipError(SETTINGS) if either file exists, or can't be written.
    """
    secret_path, public_path = directory / f"{name}.key", directory / f"{name}.pub"
    for path in (secret_path, public_path):
        if path.exists() or path.is_symlink():
            raise RefusedError(
                Code.SETTINGS,
                f"{path} exists already",
                "a lost secret key can't be made again: move the old pair away first, "
                "or choose another name",
            )
    pair = _new_pair()
    try:
        durable.make_directory(directory)
        durable.write_file(secret_path, f"{pair.secret}\n".encode(), 0o600)
        durable.write_file(public_path, f"{pair.public}\n".encode(), 0o644)
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"a key pair can't be written to {directory}: {error.strerror}",
            "check that the directory can be written by this user",
        ) from error
    return pair


def _new_pair() -> KeyPair:
    """One whose public half can be given to a command: behind `-` an option is looked for."""
    while True:
        public, secret = (half.decode("ascii") for half in zmq.curve_keypair())
        if not public.startswith("-"):
            return KeyPair(public, secret)


def load_pair(path: Path) -> KeyPair:
    """The pair whose secret half is the file `path`; the public half is computed from it.

    Raises LogshipError: KEY_MISSING if there is no such file; SETTINGS if it can't be read,
    is readable by others than its owner, or holds no secret key.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0  # reading it gives the better error
    if mode & 0o077:
        raise LogshipError(
            Code.SETTINGS,
            f"the secret key {path} has mode {mode & 0o777:04o}: others than its owner may use it",
            f"run: chmod 600 {path}",
        )
    secret = _read_key(path)
    try:
        public = zmq.curve_public(secret.encode("ascii")).decode("ascii")
    except (zmq.ZMQError, ValueError) as error:
        raise _malformed(str(path)) from error
    published = path.with_suffix(".pub")
    if published.exists() and _read_key(published) != public:
        raise LogshipError(
            Code.SETTINGS,
            f"{published} is not the public half of {path}",
            f"its public key is {public}; correct or remove the .pub file",
        )
    return KeyPair(public, secret)


def load_public(source: str | Path) -> str:
    """A public key: z85 text as it is, or the path of a `.pub` file.

    Raises LogshipError: KEY_MISSING if it is neither; SETTINGS for a file that can't be used.
    """
    if isinstance(source, str) and _Z85_KEY.match(source):
        return source
    path = Path(source)
    if path.suffix == ".key":
        raise LogshipError(
            Code.SETTINGS,
            f"{path} is a secret key where a public key is wanted",
            f"name {path.with_suffix('.pub')}",
        )
    return _read_key(path)


def _read_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise LogshipError(
            Code.KEY_MISSING,
            f"there is no key file {path}",
            "make a pair with: shipper keygen DIR; a public key may also be given as its "
            "40 characters",
        ) from error
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"the key file {path} can't be read: {error.strerror}",
            "check its owner and permissions",
        ) from error
    text = raw.decode("ascii", "replace").strip()
    if _Z85_KEY.match(text) is None:
        raise _malformed(str(path))
    return text


def _malformed(where: str) -> LogshipError:
    return LogshipError(
        Code.SETTINGS,
        f"{where} holds no CURVE key: one line of 40 z85 characters is expected",
        "copy the file again, or make a new pair with: shipper keygen DIR",
    )
