"""`version`, `info` and `daemon`: about the runtime itself, not about containers.

Field names are docker's where docker has the field; ours stand beside them.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aruntime import __version__
from aruntime.daemon import settings
from aruntime.daemon.commands import template
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.template_values import render
from aruntime.errors import UsageError

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon
    from aruntime.daemon.session import Session

FORMAT = Flag("format", "f", "string", None, "string", "'json' or a Go template")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""uname's names of machines as Go and docker spell them."""


def formatted(value: dict[str, Any], chosen: str, text: str) -> str:
    """A value as ``--format`` wants it: the text without, JSON, or a template's output.

    Raises:
        UsageError: the template is wrong.
    """
    if not chosen:
        return text
    if chosen == "json":
        return json.dumps(value, separators=(",", ":")) + "\n"
    return render(template.parse(chosen), value) + "\n"


def text_block(fields: dict[str, Any], indent: str = "") -> str:
    """``Name: value`` lines, nested dicts indented; lists on one line."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:\n{text_block(value, indent + ' ')}")
        else:
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}\n")
    return "".join(lines)


def architecture() -> str:
    """This machine's architecture as docker spells it."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def version_fields(daemon: Daemon) -> dict[str, Any]:
    """What `aruntime version` shows; client and server have the same version by construction."""
    started = datetime.fromtimestamp(daemon.started_ns / 1e9, UTC)
    common = {"Version": __version__, "Os": "linux", "Arch": architecture()}
    server = {
        "KernelVersion": os.uname().release,
        "PythonVersion": platform.python_version(),
        "Pid": os.getpid(),
        "StartedAt": started.isoformat(timespec="seconds"),
    }
    return {"Client": common, "Server": common | server}


async def version(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Run `aruntime version`."""
    fields = version_fields(daemon)
    await session.out(formatted(fields, parsed.string("format"), text_block(fields)))
    return 0


async def daemon_in_foreground(_session: Session, _parsed: Parsed, _daemon: Daemon) -> int:
    """Refuse: the client runs this command itself, and only as its first word."""
    raise UsageError("write 'aruntime daemon' without global options; see 'aruntime daemon --help'")


VERSION = Command(
    "version", "Show the versions of client and daemon", version, flags=(FORMAT,), maximum=0
)
DAEMON = Command(
    "daemon",
    "Run the daemon in the foreground (also installed as aruntimed)",
    daemon_in_foreground,
    flags=settings.FLAGS,
    maximum=0,
    section="management",
)
COMMANDS = [VERSION, DAEMON]
