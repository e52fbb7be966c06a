"""The replication command language: text in, a command out.

Source: PostgreSQL documentation, "Streaming Replication Protocol", and
`src/backend/replication/repl_gram.y` / `repl_scanner.l`.  Only what serves physical
replication is taken in; the rest is recognised by name, so that it can be refused as
unsupported and not as misspelt.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from applier.walserver.codec import SqlError
from logship.lsn import Lsn


class IdentifySystem(NamedTuple):
    pass


class TimelineHistory(NamedTuple):
    timeline: int


class StartReplication(NamedTuple):
    start: Lsn
    timeline: int | None
    """None: the server's current one."""
    slot: str | None


class ReadReplicationSlot(NamedTuple):
    slot: str


class Show(NamedTuple):
    name: str


class Empty(NamedTuple):
    """A query string with nothing in it."""


Command = IdentifySystem | TimelineHistory | StartReplication | ReadReplicationSlot | Show | Empty

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<lsn>[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}\b)
      | (?P<number>[0-9]+\b)
      | "(?P<quoted>(?:[^"]|"")*)"
      | '(?P<string>(?:[^']|'')*)'
      | (?P<word>[A-Za-z_][A-Za-z0-9_$]*)
      | (?P<mark>[;(),.])
    )""",
    re.VERBOSE,
)
_UNSUPPORTED = {
    "BASE_BACKUP",
    "UPLOAD_MANIFEST",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "ALTER_REPLICATION_SLOT",
}
_SQL = {"SELECT", "SET", "BEGIN", "START", "COMMIT", "ROLLBACK", "INSERT", "UPDATE", "DELETE"}


class _Token(NamedTuple):
    kind: str
    text: str


def parse_command(text: str) -> Command:
    """Read one command; a closing semicolon is allowed.

    Raises SqlError: 42601 for what is no command, 0A000 for one that a WAL server without
    a database can't serve.
    """
    tokens = _tokens(text)
    if tokens and tokens[-1] == _Token("mark", ";"):
        tokens.pop()
    if not tokens:
        return Empty()
    return _Parser(tokens).command()


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position, end)
        if match is None or match.lastgroup is None:
            # What is SQL need not be made of our tokens to be called by its name.
            if tokens and tokens[0].kind == "word":
                _refuse_known(tokens[0].text.upper())
            raise _syntax_error(f"at {text[position : position + 40]!r}")
        value = match[match.lastgroup]
        if match.lastgroup == "quoted":
            value = value.replace('""', '"')
        elif match.lastgroup == "string":
            value = value.replace("''", "'")
        tokens.append(_Token(match.lastgroup, value))
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def command(self) -> Command:
        name = self._take("word").upper()
        command: Command
        if name == "IDENTIFY_SYSTEM":
            command = IdentifySystem()
        elif name == "TIMELINE_HISTORY":
            command = TimelineHistory(self._timeline())
        elif name == "START_REPLICATION":
            command = self._start_replication()
        elif name == "READ_REPLICATION_SLOT":
            command = ReadReplicationSlot(self._identifier())
        elif name == "SHOW":
            command = self._show()
        else:
            _refuse_known(name)
            raise _syntax_error(f"at {name[:40]!r}")
        if self._next != len(self._tokens):
            raise _syntax_error(f"at {self._tokens[self._next].text[:40]!r}")
        return command

    def _start_replication(self) -> StartReplication:
        slot = self._identifier() if self._accept("SLOT") else None
        if self._accept("LOGICAL"):
            raise SqlError("0A000", "logical replication is not served here")
        self._accept("PHYSICAL")
        start = Lsn.parse(self._take("lsn"))
        timeline = self._timeline() if self._accept("TIMELINE") else None
        return StartReplication(start, timeline, slot)

    def _show(self) -> Show:
        parts = [self._identifier()]
        while self._next < len(self._tokens) and self._tokens[self._next] == _Token("mark", "."):
            self._next += 1
            parts.append(self._identifier())
        return Show(".".join(parts).lower())

    def _timeline(self) -> int:
        digits = self._take("number")
        timeline = int(digits) if len(digits) <= 10 else 0
        if not 0 < timeline < 1 << 32:
            raise _syntax_error(f": invalid timeline {digits[:40]}")
        return timeline

    def _identifier(self) -> str:
        if self._next < len(self._tokens) and self._tokens[self._next].kind == "quoted":
            return self._take("quoted")
        return self._take("word").lower()

    def _accept(self, keyword: str) -> bool:
        if self._next == len(self._tokens):
            return False
        token = self._tokens[self._next]
        if token.kind != "word" or token.text.upper() != keyword:
            return False
        self._next += 1
        return True

    def _take(self, kind: str) -> str:
        if self._next == len(self._tokens):
            raise _syntax_error("at the end")
        token = self._tokens[self._next]
        if token.kind != kind:
            raise _syntax_error(f"at {token.text[:40]!r}")
        self._next += 1
        return token.text


def _refuse_known(name: str) -> None:
    if name in _UNSUPPORTED:
        raise SqlError(
            "0A000",
            f"{name} is not served here",
            hint="This WAL server only streams WAL, and keeps it for its standbys without slots.",
        )
    if name in _SQL:
        raise SqlError("0A000", "cannot execute SQL: this WAL server has no database")


def _syntax_error(where: str) -> SqlError:
    return SqlError("42601", f"not a replication command that this WAL server knows {where}")
