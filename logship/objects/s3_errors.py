"""What botocore raises, said so that an operator knows what to do.

Whatever a server says is cut short and redacted; no message holds credentials.
"""

from __future__ import annotations

from typing import Any, Final

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from logship.errors import Code, LogshipError
from logship.objects import ConditionFailedError
from logship.redaction import redact

FAILURES: Final = (boto.BotoCoreError, boto.ClientError, ResponseParserError, OSError)
"""Everything a call of botocore is known to end with."""

WRITE: Final = "write"
"""What is asked of a bucket when a condition may fail."""

_MOST_CHARACTERS: Final = 300

_CONDITION_FAILED: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})

_DAMAGED_ON_ITS_WAY: Final = frozenset(
    {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
)

_OVERLOADED: Final = frozenset(
    {
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "RequestTimeoutException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "OperationAborted",
    }
)

_HINTS: Final = {
    "NoSuchBucket": "make the bucket, or correct bucket.url",
    "InvalidBucketName": "correct bucket.url",
    "InvalidAccessKeyId": "the server does not know the access key: check the credentials",
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key, or a proxy changes the Host header: "
        "check the credentials and bucket.endpoint_url"
    ),
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidToken": "the session token is not valid here: renew the credentials",
    "RequestTimeTooSkewed": "this host's clock and the server's differ: set the clock",
    "AccessDenied": (
        "allow these credentials s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject "
        "and s3:DeleteObject on what is below the prefix, as far as this side needs them; "
        "without s3:ListBucket an object that is not there is answered like this too"
    ),
    "AuthorizationHeaderMalformed": "the bucket is in another region: set bucket.region",
    "PermanentRedirect": "the bucket is in another region: set bucket.region",
    "IllegalLocationConstraintException": "the bucket is in another region: set bucket.region",
    "NotImplemented": "the server can't do what is needed: conditional writes, for example",
    "MethodNotAllowed": "is bucket.endpoint_url an S3 server's address?",
    "InvalidObjectState": "the object was moved to an archive class: restore it there first",
    "KMS.DisabledException": "the bucket's own encryption key is disabled",
    "403": "the credentials are wrong, or may not do this (s3:ListBucket, s3:GetObject)",
    "301": "the bucket is in another region: set bucket.region",
    "400": "the region, the session token or the address may be wrong: see bucket.region",
}


def code_of(error: boto.ClientError) -> str:
    """S3's name for the failure, or the HTTP status where there was no body to hold it."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: boto.ClientError) -> int:
    """The HTTP status; 0 if it is not known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def translated(error: Exception, store: str, asked: str, key: str = "") -> LogshipError:
    """The LogshipError for what botocore raised when it was `asked` (a verb)."""
    where = f"{store}: {asked} {key}".rstrip()
    if isinstance(error, boto.ClientError):
        if asked == WRITE and (code_of(error) in _CONDITION_FAILED or status_of(error) == 412):
            return ConditionFailedError(store, key)
        return _of_answer(error, where)
    if isinstance(error, boto.FlexibleChecksumError):
        return damaged_on_its_way(where, "it does not match the server's checksum")
    if isinstance(error, _NO_CREDENTIALS):
        return _of_credentials(error, where)
    if isinstance(error, boto.SSLError):
        return _unreachable(
            where,
            error,
            "the server's certificate is not trusted here: AWS_CA_BUNDLE names a file of those "
            "that are; or bucket.endpoint_url should be http://",
        )
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        hint = "is the name right, can it be resolved, and does a firewall let it through?"
        return _unreachable(where, error, f"check bucket.endpoint_url: {hint}")
    if isinstance(error, ResponseParserError):
        return no_s3_server(where)
    said = next((said for kind, said in _BROKEN if isinstance(error, kind)), "")
    if said or isinstance(error, boto.HTTPClientError | OSError):
        return _unreachable(where, said or error, "look at the network, and at the server")
    return LogshipError(
        Code.BUCKET_REFUSED, f"{where}: {_short(error)}", "check the settings of the bucket"
    )


def no_s3_server(where: str) -> LogshipError:
    """For an answer that is not S3's: a web page, from a proxy or a wrong address."""
    return _unreachable(
        where, "what answered does not speak S3", "check bucket.endpoint_url and proxies"
    )


class OnItsWayError(LogshipError):
    """A body was changed or cut while it moved: asking again at once may help."""


def damaged_on_its_way(where: str, what: str) -> OnItsWayError:
    return OnItsWayError(
        Code.OBJECT_DAMAGED,
        f"{where}: {what}",
        "nothing of it was used; something on the way, or the server's disk, changes bytes",
        retryable=True,
    )


def cut_on_its_way(error: Exception, store: str, asked: str, key: str) -> OnItsWayError:
    """For what reading a body ended with."""
    said = translated(error, store, asked, key)
    return OnItsWayError(said.code, said.what, said.hint, retryable=True)


_BROKEN: Final = (
    (boto.ReadTimeoutError, "the server fell silent"),
    (boto.ConnectionClosedError, "the connection was closed before the answer came"),
    (boto.ResponseStreamingError, "the answer broke off"),
    (boto.IncompleteReadError, "the answer broke off"),
)
"""botocore's own words name the address twice, or None."""

_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ConfigParseError,
)


def _of_credentials(error: Exception, where: str) -> LogshipError:
    hint = (
        "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws of the user "
        "that runs this, bucket.aws_profile, or the machine's role"
    )
    if isinstance(error, boto.CredentialRetrievalError):
        # Its text may be what a program for credentials printed.
        what = "the way to get credentials that is configured failed"
        return LogshipError(Code.BUCKET_REFUSED, f"{where}: {what}", hint, retryable=True)
    return LogshipError(Code.BUCKET_REFUSED, f"{where}: {_short(error)}", hint)


def _of_answer(error: boto.ClientError, where: str) -> LogshipError:
    code, status = code_of(error), status_of(error)
    message = str(error.response.get("Error", {}).get("Message", ""))
    said = f"{_short(message)} ({code})" if message else f"({code or status})"
    if code in _DAMAGED_ON_ITS_WAY:
        what = "other bytes arrived than were sent, and the server refused them"
        return damaged_on_its_way(where, f"{what}: {said}")
    if code in _OVERLOADED or (status >= 500 and status != 501) or status == 429:
        return _unreachable(
            where, f"the server can't do it now: {said}", "it is overloaded, or in trouble"
        )
    hint = _HINTS.get(code) or _HINTS.get(str(status), "")
    return LogshipError(Code.BUCKET_REFUSED, f"{where}: the server refused: {said}", hint)


def _unreachable(where: str, why: Any, hint: str) -> LogshipError:
    return LogshipError(Code.BUCKET_UNREACHABLE, f"{where}: {_short(why)}", hint, retryable=True)


def _short(said: Any) -> str:
    text = " ".join(str(said).split())
    return redact("".join(each for each in text if each.isprintable())[:_MOST_CHARACTERS])
