"""Which namespaces a container has for itself, and the conflicts between those choices. Pure."""

from __future__ import annotations

from typing import Any

from aruntime.daemon.commands.flags import Parsed
from aruntime.daemon.commands.run_networks import FindNetwork, requested_networks
from aruntime.errors import InvalidParameter

_SHORT_ID = 12


def requested_modes(
    parsed: Parsed, host_name: str, container_id: str, find_network: FindNetwork
) -> dict[str, Any]:
    """Return the modes, the networks, the host name and the domain name of a new container.

    Args:
        parsed: the flags.
        host_name: this host's name, which a container on its network keeps.
        container_id: its first digits are the host name when nothing else says one.
        find_network: looks a network up.

    Raises:
        InvalidParameter: an unknown mode, or modes that exclude each other.
        NetworkNotFound: there is no such network.
    """
    network, connections = requested_networks(parsed, find_network)
    modes = {
        "userns_mode": _one_of(parsed, "userns", "USER", {"": "host", "host": "host"}, "auto"),
        "pid_mode": _joinable(parsed, "pid", "PID"),
        "ipc_mode": _ipc(parsed),
        "uts_mode": _one_of(parsed, "uts", "UTS", {"": "", "host": "host"}),
        "cgroupns_mode": _one_of(
            parsed, "cgroupns", "CGROUP", {"": "private", "private": "private"}, "host"
        ),
        "network_mode": network,
    }
    _check_hostname(parsed, modes)
    _check_user_namespace(parsed, modes)
    _check_sysctls(parsed, modes)
    default = host_name if "host" in (network, modes["uts_mode"]) else ""
    return {
        **modes,
        "connections": connections,
        "hostname": parsed.string("hostname") or default or container_id[:_SHORT_ID],
        "domainname": parsed.string("domainname"),
    }


def _one_of(parsed: Parsed, flag: str, shown: str, values: dict[str, str], *more: str) -> str:
    value = parsed.string(flag)
    if value in more:
        return value
    if value not in values:
        known = ", ".join(sorted({*filter(None, values), *more}))
        raise InvalidParameter(f"--{flag}: invalid {shown} mode {value!r}; use {known}")
    return values[value]


def _joinable(parsed: Parsed, flag: str, shown: str) -> str:
    value = parsed.string(flag)
    if value.startswith("container:") and value != "container:":
        return value
    if value not in {"", "private", "host"}:
        raise InvalidParameter(
            f"--{flag}: invalid {shown} mode {value!r}; use host or container:NAME"
        )
    return "" if value == "private" else value


def _ipc(parsed: Parsed) -> str:
    value = parsed.string("ipc")
    if value.startswith("container:") or value == "shareable":
        raise InvalidParameter(
            f"--ipc {value} is not supported: /dev/shm lives in the mount namespace of one "
            "container; use host, or a tmpfs volume"
        )
    if value not in {"", "private", "host", "none"}:
        raise InvalidParameter(f"--ipc: invalid IPC mode {value!r}; use private, host or none")
    return "" if value == "private" else value


def _check_hostname(parsed: Parsed, modes: dict[str, str]) -> None:
    if modes["uts_mode"] == "host":
        for flag in ("hostname", "domainname"):
            if parsed.string(flag):
                raise InvalidParameter(f"conflicting options: {flag} and the UTS mode")
    if not modes["network_mode"].startswith("container:"):
        return
    for flag, name in (
        ("hostname", "hostname"),
        ("dns", "dns"),
        ("add-host", "custom host-to-IP mapping"),
    ):
        if parsed[flag]:
            raise InvalidParameter(f"conflicting options: {name} and the network mode")


def _check_user_namespace(parsed: Parsed, modes: dict[str, str]) -> None:
    """A namespace of the host belongs to the host's user namespace: root inside has no say."""
    if modes["userns_mode"] != "auto":
        return
    if parsed.boolean("privileged"):
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces: "
            "leave --userns auto or --privileged out"
        )
    for mode, shown in (("network_mode", "network"), ("pid_mode", "PID"), ("ipc_mode", "IPC")):
        if modes[mode] == "host" or modes[mode].startswith("container:"):
            raise InvalidParameter(
                f"cannot share the host's or another container's {shown} namespace "
                "when user namespaces are enabled"
            )


def _check_sysctls(parsed: Parsed, modes: dict[str, str]) -> None:
    for name, value in parsed["sysctl"]:
        network = name.startswith("net.")
        mode = modes["network_mode" if network else "ipc_mode"]
        if mode == "host":
            shown = "network" if network else "ipc"
            raise InvalidParameter(
                f"sysctl '{name}={value}' is not allowed in host {shown} namespace"
            )
