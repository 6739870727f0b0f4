"""The way from a client's ``run`` or ``create`` to a configuration: files, image, name.

What blocks or asks the client happens here; the decisions are
:mod:`aruntime.daemon.commands.run_config`'s.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from aruntime.daemon.commands.names import check_name, new_id, random_name
from aruntime.daemon.commands.pull import wanted_image
from aruntime.daemon.commands.run_config import (
    Request,
    container_config,
    looks_at_host,
    named_files,
)
from aruntime.daemon.commands.run_env import parse_key_values
from aruntime.errors import InvalidParameter

if TYPE_CHECKING:
    from aruntime.container.config import ContainerConfig
    from aruntime.daemon.commands.flags import Parsed
    from aruntime.daemon.compose import Daemon
    from aruntime.daemon.session import Session

MAX_FILE_BYTES = 4 << 20
"""Of an env file, label file or profile: they are kept whole in memory."""


async def requested_config(
    session: Session, parsed: Parsed, daemon: Daemon
) -> tuple[ContainerConfig, list[str]]:
    """Return the configuration of the container a client asks for, and warnings for it.

    Raises:
        ImageNotFound: there is no such image, here or where ``--pull`` lets it be looked for.
        InvalidParameter: a flag or a file that it names is wrong.
    """
    taken = daemon.supervisor.is_name_taken
    name = parsed.string("name")
    name = check_name(name) if name else random_name(taken)
    files = {path: await read_file(session, path) for path in named_files(parsed)}
    image = await wanted_image(session, parsed, daemon)
    request = Request(
        container_id=new_id(),
        name=name,
        created_ns=time.time_ns(),
        cwd=session.cwd or "/",
        env=session.env,
        files=files,
        host_name=os.uname().nodename,
        gateway=str(daemon.network.gateway.ip),
        find_network=lambda reference: daemon.networks.find(reference).definition,
        cpu_count=os.cpu_count() or 1,
        new_volume=lambda: secrets.token_hex(32),
    )
    if not looks_at_host(parsed):
        return container_config(parsed, image, request)
    # A dead network mount must not stop the daemon.
    return await trio.to_thread.run_sync(container_config, parsed, image, request)


async def read_env_files(session: Session, paths: Iterable[str]) -> list[str]:
    """Return the variables of env files; a NAME alone takes the client's value.

    Raises:
        InvalidParameter: a file cannot be read or a line of it is wrong.
    """
    lines: list[str] = []
    for path in paths:
        lines += parse_key_values(path, await read_file(session, path), session.env)
    return lines


async def read_file(session: Session, path: str) -> bytes:
    """Return the content of a client's file, opened at the client's rights.

    Raises:
        InvalidParameter: ``open PATH: reason``, or it is too large.
    """
    try:
        fd = await session.open(path, os.O_RDONLY)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise InvalidParameter(f"open {path}: {reason}") from None
    # A pipe (`--env-file <(…)`) may make us wait; a client that has gone is not waited for.
    return await trio.to_thread.run_sync(_read_all, fd, path, abandon_on_cancel=True)


def _read_all(fd: int, path: str) -> bytes:
    """Read a descriptor to its end and close it."""
    with open(fd, "rb", buffering=0) as file:
        content = bytearray()
        while len(content) <= MAX_FILE_BYTES:
            try:
                chunk = file.read(1 << 16)
            except OSError as error:
                reason = os.strerror(error.errno or errno.EIO).lower()
                raise InvalidParameter(f"read {path}: {reason}") from None
            if not chunk:
                return bytes(content)
            content += chunk
    raise InvalidParameter(f"{path} is longer than {MAX_FILE_BYTES} bytes")
