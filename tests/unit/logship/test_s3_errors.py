"""What botocore raises, in the words of an operator.  (The common ones: tests/integration.)"""

from __future__ import annotations

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from logship.errors import Code
from logship.objects import ConditionFailedError
from logship.objects.s3_errors import translated

STORE = "s3://archive/logship"


def answered(code: str, status: int, message: str = "No.") -> boto.ClientError:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(answer, "PutObject")


@pytest.mark.parametrize(
    ("code", "status", "hint"),
    [
        ("RequestTimeTooSkewed", 403, "clock"),
        ("AuthorizationHeaderMalformed", 400, "bucket.region"),
        ("PermanentRedirect", 301, "bucket.region"),
        ("NoSuchBucket", 404, "bucket.url"),
        ("ExpiredToken", 400, "renew"),
        ("NotImplemented", 501, "conditional writes"),
        ("403", 403, "credentials"),
        ("Teapot", 403, "credentials"),
    ],
)
def test_what_needs_a_human_says_what_to_do(code: str, status: int, hint: str) -> None:
    error = translated(answered(code, status), STORE, "write", "main/epoch")
    assert error.code is Code.BUCKET_REFUSED
    assert not error.retryable
    assert error.what.startswith(f"{STORE}: write main/epoch: ")
    assert code in error.what
    assert hint in error.hint


@pytest.mark.parametrize(
    ("code", "status"),
    [("SlowDown", 503), ("InternalError", 500), ("RequestTimeout", 400), ("502", 502), ("", 429)],
)
def test_trouble_of_the_server_passes(code: str, status: int) -> None:
    error = translated(answered(code, status), STORE, "read", "main/epoch")
    assert error.code is Code.BUCKET_UNREACHABLE
    assert error.retryable


@pytest.mark.parametrize(
    ("code", "status"),
    [("PreconditionFailed", 412), ("412", 412), ("ConditionalRequestConflict", 409)],
)
def test_a_condition_fails_only_for_a_write(code: str, status: int) -> None:
    error = translated(answered(code, status), STORE, "write", "main/epoch")
    assert isinstance(error, ConditionFailedError)
    assert error.key == "main/epoch"
    reading = translated(answered(code, status), STORE, "read", "main/epoch")
    assert reading.code is Code.BUCKET_REFUSED


@pytest.mark.parametrize(
    "error",
    [
        boto.SSLError(endpoint_url="https://s3.example.com", error="certificate verify failed"),
        boto.ConnectTimeoutError(endpoint_url="https://s3.example.com"),
        boto.EndpointConnectionError(endpoint_url="https://s3.example.com"),
        boto.ReadTimeoutError(endpoint_url=None),
        boto.ConnectionClosedError(endpoint_url="https://s3.example.com"),
        boto.ResponseStreamingError(error="cut"),
        boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        boto.ProxyConnectionError(proxy_url="http://proxy.example.com"),
        ResponseParserError("not XML"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_of_the_network_passes(error: Exception) -> None:
    said = translated(error, STORE, "read", "main/epoch")
    assert said.code is Code.BUCKET_UNREACHABLE
    assert said.retryable
    assert said.hint
    assert "None" not in said.what


@pytest.mark.parametrize(
    "error",
    [
        boto.NoCredentialsError(),
        boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        boto.CredentialRetrievalError(provider="process", error_msg="password=hunter2"),
        boto.UnauthorizedSSOTokenError(),
        boto.ConfigParseError(path="/root/.aws/config", error="line 1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_missing_credentials_say_where_they_are_looked_for(error: Exception) -> None:
    said = translated(error, STORE, "read")
    assert said.code is Code.BUCKET_REFUSED
    assert "AWS_ACCESS_KEY_ID" in said.hint
    assert "hunter2" not in str(said)


def test_a_checksum_that_botocore_found_wrong_is_damage() -> None:
    said = translated(boto.FlexibleChecksumError(error_msg="x"), STORE, "read", "main/epoch")
    assert said.code is Code.OBJECT_DAMAGED
    assert said.retryable


def test_a_servers_words_are_cut_and_hold_no_secret() -> None:
    words = "see http://user:hunter2@proxy.example.com/\r\n\x1b[31m" + "x" * 5000
    said = translated(answered("Odd", 400, words), STORE, "read", "main/epoch")
    assert "hunter2" not in said.what
    assert "\x1b" not in said.what
    assert "\n" not in said.what
    assert len(said.what) < 500


def test_what_nobody_thought_of_is_refused_with_its_words() -> None:
    said = translated(boto.ParamValidationError(report="Invalid length"), STORE, "write", "x")
    assert said.code is Code.BUCKET_REFUSED
    assert "Invalid length" in said.what
