"""What a container was asked to be: the record behind ROOT/containers/<id>/config.json.

Pure data, docker's Config and HostConfig in one flat record. It is written once at create,
again at rename and update, and never changed by the life of the container; what happens to the
container is in state.json (:mod:`aruntime.container.state`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from aruntime.network.ports import PortRequest


class Mount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount the user asked for (``-v``, ``--mount``, ``--tmpfs``, VOLUME of the image)."""

    type: str
    """``bind``, ``volume`` or ``tmpfs``."""
    target: str
    """Absolute path inside the container."""
    source: str = ""
    """Host path (bind), volume name (volume; 64 hex digits if anonymous), empty (tmpfs)."""
    read_only: bool = False
    propagation: str = ""
    """Bind only: ``rprivate`` (when empty), ``rslave``, ``rshared``, and the plain forms."""
    recursive: bool = True
    """Bind only: take the submounts of the source along."""
    submounts_writable: bool = False
    """Bind only: ``read_only`` stops at the top mount (``bind-recursive=writable``)."""
    create_source: bool = False
    """Bind only: ``-v`` makes a missing host directory, ``--mount`` refuses it."""
    no_copy: bool = False
    """Volume only: do not fill a new volume with the image's content at the target."""
    options: tuple[str, ...] = ()
    """tmpfs only: ``size=64m``, ``mode=1777``, ``noexec`` and their like."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A host device made visible inside (``--device``)."""

    source: str
    target: str
    permissions: str = "rwm"


class Ulimit(msgspec.Struct, frozen=True, kw_only=True):
    """One resource limit of setrlimit(2); -1 means unlimited."""

    name: str
    soft: int
    hard: int


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """``--restart``: name is no, on-failure, always or unless-stopped."""

    name: str = "no"
    max_retries: int = 0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A health check; times in nanoseconds, 0 means docker's default."""

    test: tuple[str, ...]
    """``("CMD", arg…)``, ``("CMD-SHELL", text)`` or ``("NONE",)``."""
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``--log-opt``: rotation sizes in bytes, 0 means never rotate."""

    max_size: int = 0
    max_file: int = 1
    mode: str = "blocking"
    """``blocking``: a full disk stops the writer; ``non-blocking``: output is dropped, counted."""


class Connection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bridge network the container is in; empty texts leave the choice to the network."""

    network: str
    """Its name."""
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    """Further names of the container, valid in this network only."""


class ContainerConfig(msgspec.Struct, kw_only=True):
    """Everything ``create`` decides. Lists are in the user's order; times are Unix nanoseconds."""

    id: str
    """64 hex digits."""
    name: str
    created_ns: int
    image: str
    """The reference as the user typed it."""
    image_id: str
    """``sha256:…`` of the image configuration."""
    image_digest: str = ""
    layers: list[str] = []
    """Directories of the unpacked layers, lowest first."""
    args: list[str]
    """The program and its arguments: entrypoint, then command."""
    entrypoint: list[str] = []
    cmd: list[str] = []
    env: list[str] = []
    working_dir: str = "/"
    user: str = ""
    """As typed: ``uid[:gid]``, ``name[:group]`` or empty; names are resolved inside the rootfs."""
    group_add: list[str] = []
    hostname: str
    domainname: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    """``--annotation``: members of ``annotations`` in the OCI specification."""
    tenant: str = "default"
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    """Close the container's stdin when the first attached client goes (``-i`` without ``-d``)."""
    stop_signal: str = "SIGTERM"
    stop_timeout: int = 10
    """Seconds between the stop signal and SIGKILL."""

    userns_mode: str = "host"
    network_mode: str = "bridge"
    """``bridge``, ``host``, ``none``, ``container:ID`` or the name of a user's network."""
    connections: list[Connection] = []
    """The bridge networks it is in, in the order of its interfaces; that of ``network_mode`` first.
    Empty: the one that ``network_mode`` names, if it names one."""
    unconnected: bool = False
    """It was taken out of all its networks."""
    pid_mode: str = ""
    """Empty (own namespace), ``host`` or ``container:ID``; ipc and uts likewise."""
    ipc_mode: str = ""
    uts_mode: str = ""
    cgroupns_mode: str = "private"
    privileged: bool = False
    cap_add: list[str] = []
    cap_drop: list[str] = []
    no_new_privileges: bool = False
    seccomp: str = ""
    """Empty: the default profile; ``unconfined``; otherwise the JSON text of a profile."""
    systempaths_unconfined: bool = False
    read_only: bool = False
    init: bool = False
    mounts: list[Mount] = []
    devices: list[Device] = []
    device_cgroup_rules: list[str] = []
    ulimits: list[Ulimit] = []
    sysctls: dict[str, str] = {}
    shm_size: int = 64 << 20
    oom_score_adj: int = 0
    network_rate_bits: int = 0
    """Bits per second that each of its links carries in each direction; 0: no limit."""
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    ports: list[PortRequest] = []
    """What ``-p`` and ``-P`` ask for, in the user's order."""
    exposed_ports: list[str] = []
    """``80/tcp`` and the like, of the image and of ``--expose``; it means nothing by itself."""
    publish_all: bool = False
    extra_hosts: list[str] = []
    """``name:address`` lines for /etc/hosts."""

    resources: dict[str, Any] = {}
    """Limits as the OCI runtime specification's ``linux.resources`` (without devices)."""
    cpu_request_milli: int = 0
    restart: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    health: Health | None = None
    log: LogOptions = LogOptions()

    @property
    def networks(self) -> list[Connection]:
        """The bridge networks it is in, in the order of its interfaces."""
        mode = self.network_mode
        if (
            self.connections
            or self.unconnected
            or mode in ("host", "none")
            or mode.startswith("container:")
        ):
            return self.connections
        return [Connection(network=mode)]
