"""Sealing objects to age recipients, so that who writes them can't read them.

The format is age's own (https://age-encryption.org/v1), binary: `age -d -i FILE` opens it.
Production holds recipients, which are public; identities stay on the recovery server.  Keys are
rotated by adding: seal to the old and the new recipient, or read with the old and the new file.

age protects from reading, not from replacing: whoever knows a recipient can seal to it.

Large bodies take their time (16 MiB: 60 ms); other threads get their turn meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pyrage
from pyrage import x25519

from logship import durable
from logship.errors import Code, LogshipError, RefusedError, UsageError

_MAGIC: Final = b"age-encryption.org/v1"
_RECIPIENT: Final = "age1"
_ARMOR: Final = b"-----BEGIN AGE ENCRYPTED FILE-----"
_MAX_FILE_BYTES: Final = 64 * 1024
_NO_MATCH: Final = "No matching keys found"
"""What pyrage says where none of the identities fits; it has no error class for it."""


class Recipients:
    """Whom objects are sealed to: the texts of the settings, `age1...`."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Raises UsageError (SETTINGS) for one that is no recipient."""
        self._recipients = []
        for text in texts:
            try:
                if not text.startswith(_RECIPIENT):  # pyrage takes upper case, age does not
                    raise pyrage.RecipientError
                self._recipients.append(x25519.Recipient.from_str(text))
            except pyrage.RecipientError as error:
                raise UsageError(
                    Code.SETTINGS,
                    "one of the recipients is no age recipient",
                    "it is the `age1...` that `age-keygen` shows as the public key",
                ) from error

    def __bool__(self) -> bool:
        """Whether bodies are sealed at all."""
        return bool(self._recipients)

    def seal(self, body: bytes) -> bytes:
        """`body` so that each of the recipients can open it; as it is where there are none."""
        if not self._recipients:
            return body
        sealed = _Sink()
        pyrage.encrypt_io(_Pieces(body), sealed, self._recipients)
        return sealed.joined()


class Identities:
    """What opens sealed objects: the secret keys of identity files."""

    def __init__(self, files: Sequence[Path], *, sealed_only: bool = False) -> None:
        """Reads the files, now and never again.

        sealed_only: bodies that are not sealed are refused.

        Raises LogshipError: IDENTITY_MISSING if a file is not there or holds no identity,
        SETTINGS if it can't be read or may be read by others than its owner.
        """
        self._sealed_only = sealed_only
        self._files = tuple(files)
        self._identities = [each for file in files for each in _read_identities(file)]

    @property
    def recipients(self) -> list[str]:
        """The public halves, to show: what is sealed to one of them can be opened."""
        return [str(each.to_public()) for each in self._identities]

    def open(self, body: bytes, where: str) -> bytes:
        """What was sealed; a body that is not sealed comes back as it is.

        where: names the object in messages.

        Raises LogshipError: IDENTITY_MISSING if it is sealed to others, OBJECT_DAMAGED if it
        was changed or cut since, or is not sealed although `sealed_only`.
        """
        if not body.startswith(_MAGIC):
            if self._sealed_only:
                raise LogshipError(
                    Code.OBJECT_DAMAGED,
                    f"{where}: it is not encrypted, and only encrypted objects are taken here",
                    "look who wrote it, and whether the shipper has its recipients",
                )
            return body
        opened = _Sink()
        try:
            pyrage.decrypt_io(_Pieces(body), opened, self._identities)
        except (pyrage.DecryptError, OSError) as error:
            if str(error) == _NO_MATCH:
                raise self._missing(where) from None
            raise LogshipError(
                Code.OBJECT_DAMAGED,
                f"{where}: it can't be decrypted: {error}",
                "it is not what was written: nothing of it was used",
            ) from error
        return opened.joined()

    def prove(self, body: bytes, where: str) -> None:
        """Raise what `open` would: for start-up, with an object that will be needed later.

        The newest object proves the most: keys change as time goes on.
        """
        self.open(body, where)

    def _missing(self, where: str) -> LogshipError:
        if not self._identities:
            return LogshipError(
                Code.IDENTITY_MISSING,
                f"{where}: it is encrypted, and no identity is configured here",
                "name the file of the identity in bucket.identity_files",
            )
        names = ", ".join(map(str, self._files))
        return LogshipError(
            Code.IDENTITY_MISSING,
            f"{where}: it is encrypted, but not to an identity in {names}",
            "add the file of the identity it was encrypted to: bucket.identity_files; those "
            f"here open what is encrypted to {', '.join(self.recipients)}",
        )


class _Pieces:
    """A body as a file.

    Written in Python on purpose: pyrage never lets go of the interpreter's lock by itself, but
    between the bytecodes of these few lines other threads may have it.
    """

    def __init__(self, body: bytes) -> None:
        self._rest = memoryview(body)

    def read(self, size_bytes: int = -1) -> bytes:
        end = size_bytes if size_bytes >= 0 else len(self._rest)
        piece, self._rest = self._rest[:end], self._rest[end:]
        return bytes(piece)


class _Sink:
    """What is written to it, for the same reason."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        pass

    def joined(self) -> bytes:
        return b"".join(self._pieces)


def is_sealed(body: bytes) -> bool:
    return body.startswith(_MAGIC)


class IdentityPair(NamedTuple):
    """A new identity.  Never log `file_text`; `repr` does not show it."""

    recipient: str
    file_text: str

    def __repr__(self) -> str:
        return f"IdentityPair({self.recipient!r})"


def generate_identity() -> IdentityPair:
    """A new identity and the text of its file, as `age-keygen` would write it."""
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    return IdentityPair(recipient, f"# public key: {recipient}\n{identity}\n")


def make_identity_file(file: Path) -> IdentityPair:
    """Make an identity and write its file durably.  The directory is made if missing.

    Raises LogshipError(SETTINGS) if the file exists, or can't be written.
    """
    if file.exists() or file.is_symlink():
        raise RefusedError(
            Code.SETTINGS,
            f"{file} exists already",
            "what was encrypted to a lost identity is lost: choose another name",
        )
    pair = generate_identity()
    try:
        durable.make_directory(file.parent)
        durable.write_file(file, pair.file_text.encode(), 0o600)
    except OSError as error:
        raise LogshipError(
            Code.SETTINGS,
            f"the identity can't be written to {file}: {error.strerror}",
            "check that the directory can be written by this user",
        ) from error
    return pair


def _read_identities(file: Path) -> list[x25519.Identity]:
    raw = _read(file)
    if raw.startswith((_MAGIC, _ARMOR)):
        raise _unusable(
            file,
            "it is protected by a passphrase, and nobody is there to type it",
            "decrypt it once with `age -d`, and keep it where only the applier can read it",
        )
    found = []
    for line in raw.decode("utf-8", "replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.append(x25519.Identity.from_str(text))
        except pyrage.IdentityError as error:
            raise _unusable(
                file,
                "one of its lines is no identity",
                "a line is AGE-SECRET-KEY-1..., as `age-keygen` writes it, or starts with #",
            ) from error
    if not found:
        raise LogshipError(
            Code.IDENTITY_MISSING,
            f"the identity file {file} holds no identity",
            "it has a line AGE-SECRET-KEY-1...; `age-keygen` writes such files",
        )
    return found


def _read(file: Path) -> bytes:
    try:
        mode = file.stat().st_mode
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise LogshipError(
            Code.IDENTITY_MISSING,
            f"there is no identity file {file}",
            "copy it from where it is kept; a lost identity can't be made again",
        ) from error
    except OSError as error:
        raise _unusable(
            file, f"it can't be read: {error.strerror}", "check its owner and permissions"
        ) from error
    if mode & 0o077:
        raise _unusable(
            file,
            f"it has mode {mode & 0o777:04o}: others than its owner may use it",
            f"run: chmod 600 {file}",
        )
    return raw


def _unusable(file: Path, why: str, hint: str) -> LogshipError:
    return LogshipError(Code.SETTINGS, f"the identity file {file} can't be used: {why}", hint)
