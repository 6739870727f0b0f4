"""A container runtime that knows, to the nanosecond and the byte, what each container used.

General layout (an import may only go down; see docs/design.md):

    cli        the thin client
    daemon     aruntimed: supervisor, command socket, commands
    shim       the process that forks and parents every container's init
    container  state, launch protocol, init, exec      metering  sampler, totals
    cgroups | rootfs | images | network
    spec | wire
    errors | kernel

This file is on the start-up path of the client, the shim and every container:
it imports nothing.
"""

__version__ = "0.1.0"
