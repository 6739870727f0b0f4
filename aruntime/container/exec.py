"""One more process in a running container, from a fresh child to execve.

The shim forked it into the container's PID namespace already. It joins the cgroups while it still
sees the host's tree, then every other namespace at once through the pidfd of the container's
init, so that no mixture of two containers can come about; from there on the container is hostile
ground and the rest is that of init (:mod:`aruntime.container.program`).
"""

from __future__ import annotations

from aruntime.container import joining, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aruntime.container.channel import Channel


def enter_container(payload: dict[str, Any], fds: dict[str, int], channel: Channel) -> None:
    """Join the container and execute the program; returns only by raising.

    Raises:
        OSError: the step in ``channel.step`` failed; ESRCH when the container has just ended.
        LookupError: there is no such user or group in the container.
    """
    joining.join_cgroups(payload["cgroups"], channel)
    joining.join_namespaces(payload["join"], fds, channel)
    program.run(payload, channel, {}, wait=False)
