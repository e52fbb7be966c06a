"""Logging of the long-running commands: structlog, to standard error.

Readable on a terminal, one JSON object a line otherwise; times are UTC in ISO 8601.  Every
value passes through `logship.redaction`, so a connection string can be logged.  What
libraries say through the standard library's `logging` comes out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from logship.redaction import REDACTED, names_a_secret, redact
from logship.settings import LogSettings


def set_up_logs(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Configure structlog and `logging` for this process.  Call once, before anything logs.

    `stream`: where to write, standard error by default; it also decides what "auto" means.
    """
    out = sys.stderr if stream is None else stream
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Tracebacks become text first, for the text to be redacted as well.
        structlog.processors.format_exc_info,
        redact_event,
    ]
    render: Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if console
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[*before, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    logging.captureWarnings(True)
    # Where it found credentials, at each start of each command.
    logging.getLogger("botocore.credentials").setLevel(logging.WARNING)


def redact_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: the event without secrets."""
    for name, value in event.items():
        event[name] = REDACTED if _is_hidden(name, value) else _redacted(value)
    return event


def _is_hidden(name: object, value: object) -> bool:
    return isinstance(name, str) and names_a_secret(name) and not isinstance(value, bool | None)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {k: REDACTED if _is_hidden(k, v) else _redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(each) for each in value]
    if value is None or type(value) in (bool, int, float):
        return value
    # Anything else, an Lsn or an exception, is shown as its str(): look at what that says.
    return redact(str(value))
