"""What both sides are told of a bucket.  Each side's own `[bucket]` adds what only it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from logship.errors import UsageError
from logship.objects.keys import check_key
from logship.settings_schema import Contradiction, Section

_BUCKET = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]\Z")
_ENDPOINT = re.compile(r"\Ahttps?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?\Z")


class BucketUrl(NamedTuple):
    """Where a bucket is: an S3 bucket and a prefix in it, or a directory."""

    bucket: str = ""
    prefix: str = ""
    """Without slashes at its ends; "" for the whole bucket."""
    directory: Path | None = None


def parse_bucket_url(text: str) -> BucketUrl:
    """Read `s3://BUCKET/PREFIX` or `file:///DIRECTORY`.  Raises ValueError, which says why."""
    scheme, found, rest = text.partition("://")
    if found and scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if _BUCKET.match(bucket) is None:
            raise ValueError("that is no name of a bucket")
        prefix = prefix.rstrip("/")
        try:
            return BucketUrl(bucket, check_key(prefix) if prefix else "")
        except UsageError as error:
            raise ValueError("its prefix may hold only A-Z a-z 0-9 . _ - /") from error
    if found and scheme == "file":
        if not rest.startswith("/") or "\0" in rest or rest.strip("/") == "":
            raise ValueError("the path of a directory must follow, from the root on")
        return BucketUrl(directory=Path(rest))
    raise ValueError("it is neither s3:// nor file://")


def check_bucket_url(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if `text` says where a bucket is."""
    try:
        parse_bucket_url(text)
    except ValueError as error:
        yield (
            f"{key} must be s3://BUCKET/PREFIX or file:///DIRECTORY: {error}",
            "credentials and the server's address are no part of it",
        )


def _check_endpoint_url(key: str, text: str) -> Iterator[tuple[str, str]]:
    if text and _ENDPOINT.match(text) is None:
        # Not repeated: people put credentials in front of the host.
        yield (
            f"{key} must be http://HOST:PORT or https://HOST:PORT",
            "no path, and no credentials: those come from where AWS's tools look for them",
        )


def check_recipients(key: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    """A `Check`: nothing if each of `texts` is an age recipient (a public key, `age1...`)."""
    from logship.objects.encryption import Recipients

    for number, text in enumerate(texts, 1):
        try:
            Recipients([text])
        except UsageError as error:
            what = f"{key}: the recipient in place {number} is no age recipient"
            if text.upper().startswith("AGE-SECRET-KEY"):
                yield (
                    f"{what}: it is a secret identity, which does not belong on this side",
                    "`age-keygen -y FILE` shows its public half; make a new one, this one leaked",
                )
            else:
                yield what, error.hint


class BucketSettings(Section, frozen=True, kw_only=True):
    """The bucket.  Credentials come from where AWS's tools look for them: environment, files
    below ~/.aws, the machine's or the container's role."""

    url: Annotated[
        str,
        Meta(
            description=(
                'The bucket, and a prefix in it if it is shared: "s3://BUCKET/PREFIX". '
                '"file:///DIRECTORY" keeps it in a directory, for example on a mounted share.'
            ),
            examples=["s3://wal-archive/logship"],
            extra={"shape": "s3://BUCKET/PREFIX or file:///DIRECTORY", "check": check_bucket_url},
        ),
    ]
    endpoint_url: Annotated[
        str,
        Meta(
            description="The S3 server's address. Empty: Amazon's, for the region.",
            extra={"shape": "https://HOST:PORT", "check": _check_endpoint_url},
        ),
    ] = ""
    region: Annotated[
        str,
        Meta(
            description=(
                "The bucket's region. Empty: as AWS's tools find it, else us-east-1, which "
                "servers without regions take."
            ),
            pattern=r"^[a-zA-Z0-9-]{0,63}$",
            extra={"shape": "a region's name"},
        ),
    ] = ""
    addressing: Annotated[
        Literal["auto", "path", "virtual"],
        Meta(
            description=(
                'Where the bucket\'s name stands: "path": after the host, as most servers of '
                'one\'s own want it; "virtual": in the host\'s name; "auto": "path" with an '
                'endpoint_url, else "virtual".'
            )
        ),
    ] = "auto"
    aws_profile: Annotated[
        str, Meta(description="A profile of ~/.aws/config and ~/.aws/credentials.")
    ] = ""
    timeout_seconds: Annotated[
        float,
        Meta(
            description="Longest silence of the server before a request is tried again.",
            ge=0.1,
            le=600,
        ),
    ] = 20.0
    attempts: Annotated[
        int,
        Meta(
            description=(
                "How often one request is tried, with growing pauses, before the bucket counts "
                "as unreachable. What failed is then tried again as a whole, without end."
            ),
            ge=1,
            le=20,
        ),
    ] = 4

    @property
    def place(self) -> BucketUrl:
        return parse_bucket_url(self.url)

    def contradictions(self) -> Iterator[Contradiction]:
        if self.place.directory is None:
            return
        for name in ("endpoint_url", "region", "aws_profile"):
            if getattr(self, name):
                yield Contradiction(
                    (name,),
                    f"{name} is given, but the bucket is a directory",
                    f"remove {name}, or give an s3:// url",
                )
