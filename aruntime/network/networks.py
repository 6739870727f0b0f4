"""All networks of a daemon: the default one and those that users made.

    ROOT/networks/<bridge>/leases/            the default network, made from the daemon's settings
    ROOT/networks/<name>/{config.json,leases/}

A network is made in the order record (marked unfinished), links and tables, record; removed in the
order record (marked unfinished), tables and links, directory. So whatever a daemon that dies in
between leaves on the host is named by a record, and the next daemon removes it.

Out of scope: how one network works (attach), links of running containers (live).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from aruntime.errors import AruntimeError, Conflict, NetworkNotFound
from aruntime.network import definition as checks
from aruntime.network import store
from aruntime.network.attach import Network
from aruntime.network.counters import LinkStats
from aruntime.network.definition import DEFAULT, Definition
from aruntime.network.egress import Egress
from aruntime.network.endpoints import Attachment, Endpoint, Endpoints, Request
from aruntime.network.nfnetlink import NfTables
from aruntime.network.port_table import PortTable
from aruntime.network.publishing import Publisher
from aruntime.network.wanted import Wanted, define

CHOICES = 8
"""How many subnets are tried when others take them while we choose."""


class Networks:
    """The networks by name, and who stands in them.

    Owns every :class:`Network` (``close``). Every method blocks; any thread may call any method.

    Attributes:
        default: the network that every daemon has; its name is ``bridge``.
        endpoints: where the running containers stand.
        tables: the connection to nftables that all of them share.
        ports: the published ports of the running containers.
        root: the directory of all of them.

    Args:
        default: the definition of the default network.
        root: the daemon's directory.

    Raises:
        InvalidParameter: the default network cannot be used.
        OSError: the directories cannot be made or read.
    """

    def __init__(self, default: Definition, root: str | Path) -> None:
        self.root = Path(root) / "networks"
        directory = self.root / default.bridge / store.LEASES_NAME
        self.endpoints = Endpoints()
        self._lock = threading.RLock()
        """Orders creating and removing; look-ups go without."""
        self.tables = NfTables()
        self.default = Network(default, directory, self.tables)
        self._by_name: dict[str, Network] = {DEFAULT: self.default}
        self.ports = Publisher(PortTable(default.bridge, self.tables))
        self._egress = Egress(default.bridge, self.tables, self._standing)

    def open(self) -> list[str]:
        """Take over the networks on disk: make or repair each, remove what is unfinished.

        Returns:
            What was changed and what stands in the way, in words, for the log; a network that
            cannot be made now stays known, and is tried again when a container needs it.
        """
        with self._lock:
            store.remove_leftovers(self.root)
            found, broken = store.load_all(self.root)
            said = [str(error) for error in broken]
            try:
                self._egress.ensure()
            except (AruntimeError, OSError) as error:
                said.append(f"traffic that leaves the host cannot be counted: {error}")
            for definition in found:
                try:
                    said += self._take_over(definition)
                except (AruntimeError, OSError) as error:
                    said.append(f"network {definition.name} is not ready: {error}")
            return said

    def _take_over(self, definition: Definition) -> list[str]:
        network = self._open(definition)
        if definition.unfinished:
            self._erase(network)
            return [f"removed network {definition.name}: its creation or removal was cut off"]
        self._by_name[definition.name] = network
        self.ports.keep_resolver(str(network.gateway.ip))
        return [f"network {definition.name}: {change}" for change in network.ensure()]

    def __iter__(self) -> Iterator[Network]:
        """Iterate over the networks, the default one first, then by age."""
        return iter(list(self._by_name.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Network:
        """Return the network of this name.

        Raises:
            NetworkNotFound: there is none.
        """
        network = self._by_name.get(name)
        if network is None:
            raise NetworkNotFound(f"network {name} not found; see 'aruntime network ls'")
        return network

    def find(self, reference: str) -> Network:
        """Return the network of this name, id or unambiguous prefix of an id.

        Raises:
            NetworkNotFound: there is none, or there are several.
        """
        network = self._by_name.get(reference)
        if network is not None:
            return network
        found = [one for one in self if reference and one.definition.id.startswith(reference)]
        if len(found) == 1:
            return found[0]
        if found:
            raise NetworkNotFound(
                f"network id prefix {reference} is ambiguous: give more digits of the id"
            )
        raise NetworkNotFound(f"network {reference} not found; see 'aruntime network ls'")

    def create(self, wanted: Wanted) -> tuple[Network, list[str]]:
        """Make a network; returns it and what was changed on the host, in words.

        Raises:
            Conflict: name, bridge or subnet are taken; says by what.
            InvalidParameter: a value cannot be used.
            AddressPoolExhausted: no subnet is free.
            Unavailable, OSError: the host refused; nothing is left then.
        """
        checks.check_name(wanted.name)
        with self._lock:
            if wanted.name in self._by_name or wanted.name in checks.RESERVED_NAMES:
                raise Conflict(f"network with name {wanted.name} already exists")
            if wanted.name == self.default.bridge:
                raise Conflict(f"network name {wanted.name} is the default bridge's own")
            for attempt in range(1, CHOICES + 1):
                definition = define(wanted, self)
                try:
                    return self._make(definition)
                except Conflict:
                    # Another daemon may have taken the subnet that we chose.
                    if wanted.subnet or attempt == CHOICES:
                        raise
            raise AssertionError("unreachable")

    def remove(self, network: Network) -> None:
        """Remove a network that no container stands in.

        Raises:
            Conflict: it is in use, or is the default network.
            Unavailable, OSError: the host refused; the next daemon ends what was begun.
        """
        with self._lock:
            if network is self.default:
                raise Conflict(f"{DEFAULT} is a pre-defined network and cannot be removed")
            if holders := network.holders():
                names = sorted(self._name_of(network, holder) for holder in holders)
                raise Conflict(
                    f"network {network.name} has active endpoints: {', '.join(names)}; "
                    "stop or disconnect them first"
                )
            del self._by_name[network.name]
            unfinished = msgspec.structs.replace(network.definition, unfinished=True)
            store.save(self._directory_of(network.name), unfinished)
            self._erase(network)

    def attach(self, requests: Mapping[str, Request]) -> list[Attachment]:
        """Lease addresses in several networks for one start of a container.

        Args:
            requests: what is asked of each network, by name.

        Raises:
            NetworkNotFound: a network is gone.
            AruntimeError, OSError: as ``Network.attach``; no address is held then that was not
                before.
        """
        made: list[Attachment] = []
        try:
            for name, request in requests.items():
                made.append(self._attach(name, request))
        except BaseException:
            for attachment in made:
                self.detach(attachment.container_id, attachment.network)
            raise
        return made

    def _attach(self, name: str, request: Request) -> Attachment:
        network = self.get(name)
        attachment = network.attach(request)
        if self._by_name.get(name) is not network:  # removed meanwhile: it saw no lease of ours
            network.release(request.container_id)
            raise NetworkNotFound(f"network {name} not found: it was removed just now")
        endpoint = _endpoint(attachment)
        try:
            self._egress.begin(endpoint, network.bridge)
        except BaseException:
            network.release(request.container_id)
            raise
        self.endpoints.add(endpoint)
        return attachment

    def detach(self, container_id: str, name: str) -> None:
        """Release a container's address in one network; nothing happens when it holds none."""
        endpoint = self.endpoints.remove(container_id, name)
        network = self._by_name.get(name)
        if network is not None:
            network.release(container_id)
        if endpoint is not None:
            self._egress.end(endpoint)

    def release(self, container_id: str) -> None:
        """Release all ports and addresses of a container; nothing happens when it holds none."""
        endpoints = self.endpoints.of(container_id)
        try:
            self.ports.release(container_id)
        finally:
            for endpoint in endpoints:
                self.endpoints.remove(container_id, endpoint.network)
            for network in self:
                network.release(container_id)
            for endpoint in endpoints:
                self._egress.end(endpoint)

    def resume(self, requests: Mapping[str, Request]) -> list[Endpoint]:
        """Know a running container's endpoints again after a daemon's restart, by its leases.

        Args:
            requests: what it asked of each network, by name.
        """
        found = []
        for name, request in requests.items():
            network = self._by_name.get(name)
            endpoint = network.lookup(request.container_id) if network is not None else None
            if endpoint is not None:
                known = replace(endpoint, name=request.name, aliases=request.aliases)
                self.endpoints.add(known)
                found.append(known)
        return found

    def reconcile(self, live: Mapping[str, Collection[str]]) -> list[str]:
        """Free what containers hold that do not run, or not in that network (any more).

        The link of a running container in a network it was taken out of, or not yet put into, when
        a daemon died, is removed.

        Args:
            live: the networks of each running container, by its id.

        Returns:
            The containers that held something, by id.

        Raises:
            Unavailable, OSError: the kernel refused.
        """
        self._egress.settle()
        freed = []
        for network in self:
            for container_id in network.holders():
                if network.name not in live.get(container_id, ()):
                    if container_id in live:
                        network.unlink(container_id)
                    network.release(container_id)
                    freed.append(container_id)
        return freed

    def is_sweep_due(self) -> bool:
        """Whether links of ended containers may have to be removed."""
        return any(network.departed.is_due() for network in self)

    def sweep(self) -> list[str]:
        """Remove the links of ended containers that the kernel keeps; returns their names.

        Raises:
            OSError: the kernel refused.
        """
        return [link for network in self for link in network.departed.sweep()]

    def counters(self, container_id: str) -> dict[str, LinkStats] | None:
        """Return what a container received and sent by interface inside (``Network.counters``).

        Raises:
            OSError: the kernel refused.
        """
        found: dict[str, LinkStats] = {}
        for endpoint in self.endpoints.of(container_id):
            network = self._by_name.get(endpoint.network)
            found |= (network.counters(container_id) if network is not None else None) or {}
        return {name: self._with_egress(container_id, name, found[name]) for name in found} or None

    def _with_egress(self, container_id: str, interface: str, stats: LinkStats) -> LinkStats:
        left = self._egress.read(container_id, interface)
        return (
            stats._replace(egress_bytes=left.bytes, egress_packets=left.packets) if left else stats
        )

    def _standing(self) -> list[tuple[Endpoint, str]]:
        """Return the endpoints of running containers, each with its bridge."""
        return [
            (endpoint, network.bridge)
            for network in self
            for endpoint in self.endpoints.on(network.name)
        ]

    def close(self) -> None:
        """Close what the networks hold open; links, tables and leases stay."""
        for network in self:
            network.close()
        self.ports.close()
        self.tables.close()

    def _open(self, definition: Definition) -> Network:
        directory = self._directory_of(definition.name) / store.LEASES_NAME
        return Network(definition, directory, self.tables)

    def _make(self, definition: Definition) -> tuple[Network, list[str]]:
        directory = self._directory_of(definition.name)
        store.save(directory, definition)
        network = self._open(msgspec.structs.replace(definition, unfinished=False))
        try:
            changes = network.ensure()
            store.save(directory, network.definition)
        except BaseException:
            self._erase(network)
            raise
        self._by_name[definition.name] = network
        self.ports.keep_resolver(str(network.gateway.ip))
        return network, changes

    def _erase(self, network: Network) -> None:
        """Remove all of a network: tables, bridge, directory.

        Raises:
            Unavailable, OSError: the host refused.
        """
        network.remove()
        self.ports.keep_resolver(str(network.gateway.ip), wanted=False)
        self._egress.forget(network.bridge)
        network.close()
        store.remove(self._directory_of(network.name))

    def leases_directory(self, network: Network) -> Path:
        """Return where a network's leases lie."""
        own = network.bridge if network is self.default else network.name
        return self.root / own / store.LEASES_NAME

    def _directory_of(self, name: str) -> Path:
        return self.root / name

    def _name_of(self, network: Network, container_id: str) -> str:
        for endpoint in self.endpoints.of(container_id):
            if endpoint.network == network.name and endpoint.name:
                return endpoint.name
        return container_id[:12]


def _endpoint(attachment: Attachment) -> Endpoint:
    """Return what stays of an attachment once it is made."""
    fields = {name: getattr(attachment, name) for name in Endpoint.__slots__}
    return Endpoint(**fields)
