"""completion: scripts for bash and zsh, and the names they ask a running daemon for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aruntime.container.state import Status
from aruntime.daemon.commands.completion_bash import bash_script
from aruntime.daemon.commands.completion_words import SHELLS
from aruntime.daemon.commands.completion_zsh import zsh_script
from aruntime.daemon.commands.flags import PROGRAM, Command, Parsed
from aruntime.daemon.commands.registry import Registry
from aruntime.errors import InvalidParameter
from aruntime.images import reference
from aruntime.rootfs import volumes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aruntime.daemon.compose import Daemon
    from aruntime.daemon.record import Container
    from aruntime.daemon.session import Session

_STATES = {
    "running": {Status.RUNNING},
    "paused": {Status.PAUSED},
    "stopped": {Status.CREATED, Status.EXITED, Status.DEAD},
}


def script(shell: str, registry: Registry) -> str:
    """Write the completion script of a shell.

    Raises:
        InvalidParameter: there is none for this shell.
    """
    if shell not in SHELLS:
        raise InvalidParameter(f"no completion for '{shell}'; use {' or '.join(SHELLS)}")
    return bash_script(registry) if shell == "bash" else zsh_script(registry)


def container_names(containers: Iterable[Container], kind: str, typed: str) -> list[str]:
    """Return names of containers in the states asked for, or ids if no name begins so.

    Ids help who pastes one; beside names they would only be in the way.
    """
    chosen = [one for one in containers if one.state.status in _STATES.get(kind, Status)]
    names = sorted(one.config.name for one in chosen)
    if not typed or any(name.startswith(typed) for name in names):
        return names
    return sorted(one.id if len(typed) > len(one.short_id) else one.short_id for one in chosen)


def image_names(names: Iterable[str]) -> list[str]:
    """Return image names as users type them; ``:latest`` can be left out, so both forms."""
    found: set[str] = set()
    for name in names:
        familiar = reference.parse(name).familiar
        found |= {familiar, familiar.removesuffix(":latest")}
    return sorted(found)


async def run_completion(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Print a completion script."""
    await session.out(script(parsed.args[0], daemon.registry))
    return 0


async def run_complete(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Print the names that a script completes: ``__complete KIND [TYPED]``."""
    kind, typed = parsed.args[0], "".join(parsed.args[1:])
    if kind == "images":
        images = await trio.to_thread.run_sync(daemon.images.list)
        names = image_names(name for image in images for name in image.names)
    elif kind == "volumes":
        root = str(daemon.settings.root / "volumes")
        names = [one.name for one in await trio.to_thread.run_sync(volumes.list_volumes, root)]
    elif kind == "networks":
        own = (one for one in daemon.networks if one is not daemon.networks.default)
        names = sorted(network.name for network in own)
    elif kind == "cp":
        names = [f"{name}:" for name in container_names(daemon.supervisor, "", typed)]
    else:
        names = container_names(daemon.supervisor, kind, typed)
    await session.out("".join(f"{name}\n" for name in names))
    return 0


COMMANDS = [
    Command(
        "completion", "Print the completion script for a shell", run_completion, "bash|zsh",
        minimum=1, maximum=1, completes="shells",
        description=(
            f"bash:  source <({PROGRAM} completion bash)\n"
            f"zsh:   source <({PROGRAM} completion zsh)   (after compinit)"
        ),
    ),
    Command(
        "__complete", "Names for the completion scripts", run_complete, "KIND [TYPED]",
        minimum=1, maximum=2, hidden=True,
    ),
]  # fmt: skip
