"""Takes secrets out of text that people or log collectors will read.

Knows the places where a secret can stand in ours: `password` and its kin in a libpq
connection string or URI, the password part of a URI's authority, and values whose name says
that they are secret.
"""

from __future__ import annotations

import re
from typing import Final

REDACTED: Final = "***"

# libpq's secret parameters (PostgreSQL documentation, 34.1.2), in name=value form.
_PARAMETER = re.compile(
    r"""(?i)\b(password|sslpassword|scram_client_key|scram_server_key|oauth_client_secret)"""
    r"""(\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&'",)\]}]+)"""
)
_URI_PASSWORD = re.compile(r"(://[^\s:/?#@]*):[^\s/?#]*@")
_SECRET_NAME = re.compile(r"(?i)password|passwd|secret|token|credential")


def redact(text: str) -> str:
    """`text` with the values of secret parameters replaced by `***`."""
    text = _PARAMETER.sub(rf"\1\2{REDACTED}", text)
    return _URI_PASSWORD.sub(rf"\1:{REDACTED}@", text)


def names_a_secret(name: str) -> bool:
    """Whether a value of this name must not be shown (a path of a secret may be)."""
    return _SECRET_NAME.search(name) is not None and not name.lower().endswith(
        ("_file", "_path", "_directory")
    )
