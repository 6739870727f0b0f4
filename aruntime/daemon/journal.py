"""The daemon's log: structlog to standard error, one line per event.

Loggers are made anywhere by ``structlog.get_logger()``; this module decides level and format
(``--log-level``, ``--log-format``) and may be called again on SIGHUP. Fields bound with
:func:`structlog.contextvars.bind_contextvars` (the container's id) are on every line of that
task. A command started with ``--debug`` gets a copy of what its own task logs, whatever the
level, through :func:`watched`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

import structlog
import trio
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
WATCHER_LINES = 256

_watcher: ContextVar[trio.MemorySendChannel[str] | None] = ContextVar("watcher", default=None)


class StderrLines:
    """Writes lines to standard error; a reader that has gone never fails the caller."""

    def msg(self, line: str) -> None:
        """Write one line in one write(2), so that lines of several processes do not mix."""
        try:
            os.write(2, line.encode(errors="surrogateescape") + b"\n")
        except OSError:
            pass  # `aruntimed 2>&1 | head`: the log is lost, the containers are not

    log = debug = info = warning = warn = error = critical = exception = fatal = msg


def configure(log_format: str, log_level: str) -> None:
    """Set format (``console`` or ``json``) and level of all loggers, also of existing ones."""
    renderer: list[Processor]
    if log_format == "json":
        # Locals stay out of the log: they hold the environments of users' containers.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderer = [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(),
        ]
    else:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr is not None and sys.stderr.isatty()
        renderer = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _Threshold(LEVELS[log_level]),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: StderrLines(),
        cache_logger_on_first_use=False,
    )


class _Threshold:
    """Drops events below the level, after showing them to the task's watcher if it has one."""

    def __init__(self, level: int) -> None:
        self.level = level

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        watcher = _watcher.get()
        if watcher is not None:
            try:
                watcher.send_nowait(watcher_line(event))
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client is slow or gone; the log itself misses nothing
        if LEVELS.get(event["level"], logging.ERROR) < self.level:
            raise structlog.DropEvent
        return event


def watcher_line(event: EventDict) -> str:
    """One event as `aruntime --debug` shows it: level, text, fields."""
    hidden = {"event", "level", "timestamp", "exc_info"}
    fields = "".join(f" {key}={value}" for key, value in event.items() if key not in hidden)
    return f"{event['level']}: {event['event']}{fields}\n"


@contextlib.contextmanager
def watched() -> Iterator[trio.MemoryReceiveChannel[str]]:
    """Copy every event logged by this task and by tasks it starts while the block runs."""
    sending, receiving = trio.open_memory_channel[str](WATCHER_LINES)
    token = _watcher.set(sending)
    try:
        yield receiving
    finally:
        _watcher.reset(token)
        sending.close()
