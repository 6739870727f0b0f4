"""The log of a container's run, as the daemon has it open: made, and changed after a rotation."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aruntime.container import logfile
from aruntime.daemon.pump import LogSink
from aruntime.errors import ShimUnavailable

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container


def open_sink(parts: Parts, container: Container) -> LogSink:
    """Return the log of the present or the next run, open; who attaches before start needs it.

    Raises:
        OSError: the log cannot be opened (disk full, permission).
    """
    return container.sink or make_sink(parts, container, *logfile.open_log(container.directory))


def make_sink(parts: Parts, container: Container, log_fd: int, index_fd: int) -> LogSink:
    """Make the log of a container from descriptors, which are the sink's from now on.

    After a rotation the shim gets the new files.
    """
    container.sink = LogSink(
        container.directory,
        container.config.log,
        log_fd=log_fd,
        index_fd=index_fd,
        on_rotate=lambda sink: parts.spawn(_replace_logs, parts, container, sink),
    )
    return container.sink


async def _replace_logs(parts: Parts, container: Container, sink: LogSink) -> None:
    if container.held_by_shim and sink.log_fd >= 0:
        with contextlib.suppress(ShimUnavailable):  # the next hello brings the new files along
            await parts.shim.client.replace_logs(container.id, sink.log_fd, sink.index_fd)
