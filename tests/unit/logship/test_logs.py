"""What the logs look like, and that they keep secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from logship.logs import set_up_logs
from logship.lsn import Lsn
from logship.settings import LogSettings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_one_json_object_a_line_with_utc_time_when_nobody_watches() -> None:
    out = io.StringIO()
    set_up_logs(LogSettings(), stream=out)
    structlog.get_logger("x").info("connected", instance="main", lsn=Lsn(0x1_0000_0010), ok=True)
    (line,) = lines(out)
    stamp = line.pop("timestamp")
    assert datetime.fromisoformat(str(stamp)).utcoffset() == timedelta(0)
    assert line == {
        "event": "connected",
        "level": "info",
        "instance": "main",
        "lsn": "1/10",
        "ok": True,
    }


def test_a_terminal_gets_text() -> None:
    out = Terminal()
    set_up_logs(LogSettings(), stream=out)
    structlog.get_logger().warning("it is late", instance="main")
    assert "it is late" in out.getvalue()
    assert not out.getvalue().startswith("{")


@pytest.mark.parametrize(("format_", "is_json"), [("json", True), ("console", False)])
def test_the_format_can_be_chosen(format_: str, is_json: bool) -> None:
    out = Terminal()
    set_up_logs(LogSettings(format=format_), stream=out)  # type: ignore[arg-type]
    structlog.get_logger().info("hello")
    assert out.getvalue().startswith("{") is is_json


def test_what_is_below_the_level_is_not_written() -> None:
    out = io.StringIO()
    set_up_logs(LogSettings(level="warning"), stream=out)
    log = structlog.get_logger()
    log.info("no")
    log.error("yes")
    logging.getLogger("library").info("no")
    assert [line["event"] for line in lines(out)] == ["yes"]


def test_secrets_do_not_get_out() -> None:
    out = io.StringIO()
    set_up_logs(LogSettings(), stream=out)
    log = structlog.get_logger()
    log.info("connecting", conninfo="host=a password=hunter2", secret_key=b"hunter2")
    log.info("nested", settings={"password": "hunter2", "list": ["postgresql://u:hunter2@h"]})
    try:
        raise ValueError("bad: password=hunter2")
    except ValueError as error:
        log.exception("failed", error=error)
    logging.getLogger("library").warning("with %s", "password=hunter2")
    assert "hunter2" not in out.getvalue()
    assert [line["event"] for line in lines(out)][:3] == ["connecting", "nested", "failed"]
    assert "ValueError" in str(lines(out)[2]["exception"])


def test_libraries_logs_come_in_the_same_form() -> None:
    out = io.StringIO()
    set_up_logs(LogSettings(), stream=out)
    logging.getLogger("aiohttp.server").warning("odd %s", "request")
    (line,) = lines(out)
    assert (line["event"], line["level"], line["logger"]) == (
        "odd request",
        "warning",
        "aiohttp.server",
    )


def test_no_command_tells_where_aws_credentials_were_found() -> None:
    out = io.StringIO()
    set_up_logs(LogSettings(), stream=out)
    logging.getLogger("botocore.credentials").info("Found credentials in environment variables.")
    logging.getLogger("botocore.credentials").warning("they can't be renewed")
    assert [line["event"] for line in lines(out)] == ["they can't be renewed"]
