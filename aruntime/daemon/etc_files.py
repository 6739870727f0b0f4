"""A container's /etc/hosts, /etc/hostname and /etc/resolv.conf: written, shared, kept true.

Their texts are :mod:`aruntime.network.files`'s; here is where they stand, and what of the host and
of the container's networks goes into them. They are made anew at each start, and when a running
container's networks change unless somebody inside has changed them (docker's rule). Synchronous;
called in worker threads, but for :func:`servers`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from aruntime.container.config import ContainerConfig
from aruntime.errors import ContainerNotFound, NetworkNotFound
from aruntime.network import DEFAULT, Endpoint
from aruntime.network import files as network_files

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

ETC_NAMES = ("hostname", "hosts", "resolv.conf")
JOINED = "container:"


def joined_network(parts: Parts, config: ContainerConfig) -> Container | None:
    """Return the running container whose network this one joins, None if it joins none.

    Raises:
        ContainerNotFound, Conflict: it is gone, or does not run.
    """
    if not config.network_mode.startswith(JOINED):
        return None
    reference = config.network_mode.removeprefix(JOINED)
    parts.pid_of(reference)
    return parts.find(reference)


def etc_paths(container: Container) -> dict[str, str]:
    """Return path inside to path on the host of what :func:`write_etc_files` writes."""
    return {f"/etc/{name}": f"{container.directory}/{name}" for name in ETC_NAMES}


def write_etc_files(parts: Parts, container: Container) -> None:
    """Write /etc/hosts, hostname and resolv.conf, once it is known where the container stands.

    Who joins a network shares the files of its owner: what one writes there the other reads.

    Raises:
        ContainerNotFound, Conflict: the container whose network it joins does not run.
        InvalidParameter: ``--add-host`` cannot be written.
        OSError: the disk refused.
    """
    config, directory = container.config, container.directory
    joined = joined_network(parts, config)
    if joined is not None:
        for name in ETC_NAMES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}")
            os.link(f"{joined.directory}/{name}", f"{directory}/{name}")
        return
    for name, content in contents(parts, container).items():
        write_file(f"{directory}/{name}", content)


def contents(parts: Parts, container: Container) -> dict[str, bytes]:
    """Return what the files of a container say now, by name.

    Raises:
        InvalidParameter: ``--add-host`` cannot be written.
        OSError: a file of the host cannot be read.
    """
    config = container.config
    own_network = config.network_mode != "host"
    endpoints = parts.networks.endpoints.of(container.id)
    texts = {
        "hostname": network_files.hostname_file(config.hostname),
        "hosts": network_files.hosts(
            config.hostname,
            domainname=config.domainname,
            addresses=[ip for one in endpoints for ip in (one.ip, one.ip6) if ip],
            extra_hosts=config.extra_hosts,
            host_gateway=str(parts.network.gateway.ip),
            host_text="" if own_network else network_files.host_hosts(),
        ),
        "resolv.conf": network_files.resolv_conf(
            network_files.host_resolv_conf(),
            resolver=resolver_of(endpoints),
            dns=config.dns,
            search=config.dns_search,
            options=config.dns_options,
            host_network=not own_network,
        ),
    }
    return {name: text.encode(errors="surrogateescape") for name, text in texts.items()}


def resolver_of(endpoints: Sequence[Endpoint]) -> str:
    """Return where a container that stands there asks for names; empty: at the host's servers."""
    return next((one.gateway for one in endpoints if one.network != DEFAULT), "")


def refresh(parts: Parts, container: Container, before: dict[str, bytes]) -> None:
    """Write the files of a running container whose networks have changed.

    A file that somebody inside has changed stays as it is. The files are bound into the container,
    so they are written in place.

    Args:
        before: their :func:`contents` before the change.

    Raises:
        InvalidParameter, OSError: as :func:`contents`, or the disk refused.
    """
    for name, content in contents(parts, container).items():
        path = f"{container.directory}/{name}"
        if content == before[name]:
            continue
        with open(path, "rb") as file:
            untouched = file.read() == before[name]
        if untouched:
            write_file(path, content)


def servers(parts: Parts, container_id: str) -> list[str]:
    """Return the DNS servers that questions of a container are passed on to.

    Those of ``--dns``, else the host's. None for a container that has no way out: names would be
    one (CVE-2024-29018). Quick: the event loop calls it.
    """
    try:
        config = parts.find(container_id).config
        if all(parts.networks.get(one.network).definition.internal for one in config.networks):
            return []
    except (ContainerNotFound, NetworkNotFound):
        return []  # it is being removed
    if config.dns:
        # Its own loopback is not ours to ask: such a server stands in its resolv.conf.
        found = [server for server in config.dns if not ip_address(server).is_loopback]
    else:
        try:
            found = network_files.host_servers()
        except OSError:
            return []  # as for the host itself
    own = {str(gateway.ip) for network in parts.networks for gateway in network.gateways}
    return [server for server in found if server not in own]  # never ourselves, in circles


def write_file(path: str, content: bytes) -> None:
    """Write a file that a restart makes anew.

    Raises:
        OSError: the disk refused; the file is named.
    """
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        error.filename = path  # write(2) knows none
        raise
