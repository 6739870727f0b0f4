"""The daemon's log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import structlog
import trio

from aruntime.daemon import journal


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put structlog's configuration back after each test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def logged(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The JSON lines on standard error."""
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_json_lines_carry_bound_fields(capfd: pytest.CaptureFixture[str]) -> None:
    """The container's id, bound to the task, is on every line, with level and time."""
    journal.configure("json", "info")
    with structlog.contextvars.bound_contextvars(container="c0ffee"):
        structlog.get_logger().info("started", pid=7)
    (line,) = logged(capfd)
    assert (line["event"], line["level"], line["container"], line["pid"]) == (
        "started", "info", "c0ffee", 7,
    )  # fmt: skip
    assert str(line["timestamp"]).endswith("Z")


def test_level_can_be_changed_at_run_time(capfd: pytest.CaptureFixture[str]) -> None:
    """A logger made before the change obeys it."""
    log = structlog.get_logger()
    journal.configure("json", "warning")
    log.info("hidden")
    journal.configure("json", "debug")
    log.debug("shown")
    assert [line["event"] for line in logged(capfd)] == ["shown"]


def test_traceback_keeps_variables_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """A logged bug has its frames, but not the values of variables (users' secrets)."""
    journal.configure("json", "info")
    try:
        password = "hunter2".upper()
        raise KeyError(password.lower()[:3])
    except KeyError:
        structlog.get_logger().exception("failed")
    text = capfd.readouterr().err
    assert "KeyError" in text
    assert "test_traceback_keeps_variables" in text
    assert "HUNTER2" not in text


def test_console_lines_are_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    """The console format is one readable line without colours when stderr is no terminal."""
    journal.configure("console", "info")
    structlog.get_logger().info("ready", socket="/run/x")
    text = capfd.readouterr().err
    assert "ready" in text
    assert "socket=/run/x" in text
    assert "\x1b[" not in text


def test_reader_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`aruntimed 2>&1 | head` must not take the daemon down."""
    journal.configure("json", "info")
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        structlog.get_logger().info("into the void")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)


async def test_watcher_sees_what_its_own_task_logs(capfd: pytest.CaptureFixture[str]) -> None:
    """`--debug` shows a command's events below the level, and nobody else's."""
    journal.configure("json", "info")
    log = structlog.get_logger()

    async def stranger() -> None:
        log.debug("of another task")

    async def child() -> None:
        log.debug("of a child", step=2)

    async with trio.open_nursery() as outer:
        with journal.watched() as lines:
            log.debug("planned", step=1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
        outer.start_soon(stranger)
        seen = [line async for line in lines]
    assert seen == ["debug: planned step=1\n", "debug: of a child step=2\n"]
    assert logged(capfd) == []


def test_slow_watcher_loses_lines_but_never_blocks() -> None:
    """A client that does not read its --debug lines cannot stop the daemon."""
    journal.configure("json", "error")
    with journal.watched() as lines:
        for number in range(journal.WATCHER_LINES + 10):
            structlog.get_logger().debug("n", number=number)
        assert lines.statistics().current_buffer_used == journal.WATCHER_LINES
