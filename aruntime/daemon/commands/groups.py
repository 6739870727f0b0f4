"""docker's groups: ``aruntime image ls`` is ``aruntime images``, ``container stop`` is ``stop``.

A command that has a name of its own gets the one in its group as an alias; a command that exists
in its group only (``image prune``, ``volume ls``) has two words as its name and is not here. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aruntime.daemon.commands.flags import Command

MEMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    "container": {
        "attach": ("attach",),
        "commit": ("commit",),
        "cp": ("cp",),
        "create": ("create",),
        "diff": ("diff",),
        "exec": ("exec",),
        "export": ("export",),
        "kill": ("kill",),
        "logs": ("logs",),
        "pause": ("pause",),
        "port": ("port",),
        "ps": ("ls", "list", "ps"),
        "rename": ("rename",),
        "restart": ("restart",),
        "resume": ("resume", "unpause"),
        "rm": ("rm", "remove"),
        "run": ("run",),
        "start": ("start",),
        "stats": ("stats",),
        "stop": ("stop",),
        "top": ("top",),
        "update": ("update",),
        "wait": ("wait",),
    },
    "image": {
        "history": ("history",),
        "images": ("ls", "list"),
        "import": ("import",),
        "load": ("load",),
        "pull": ("pull",),
        "push": ("push",),
        "rmi": ("rm", "remove"),
        "save": ("save",),
        "tag": ("tag",),
    },
    "system": {
        "events": ("events",),
        "info": ("info",),
    },
}
"""Second words by group and command; the first one is what lists and help show."""


def with_groups(commands: Iterable[Command]) -> list[Command]:
    """Give each command its names in the groups."""
    return [_with_groups(command) for command in commands]


def _with_groups(command: Command) -> Command:
    names = [
        f"{group} {word}"
        for group, members in MEMBERS.items()
        for word in members.get(command.name, ())
    ]
    return replace(command, aliases=(*command.aliases, *names)) if names else command
