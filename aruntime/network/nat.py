"""The nftables tables of one network: containers reach out, nobody new reaches in.

A table per bridge in family ip, and one in family ip6 where the network has IPv6, both named after
the bridge. Only these are touched.

What leaves one network does not enter another: the other's table drops whatever it did not ask
for. An internal network has no way out and none in: its containers reach each other and, of the
host, the gateway's address alone.

A packet passes the chains of every table: another table that drops forwarded packets (docker's
``iptables -P FORWARD DROP``, a firewalld zone) still drops ours, an accept here cannot undo it.
``foreign_drops`` names such chains so that the daemon can say so.

What a published port led to the network (port_table) is let in. 127.0.0.1 of the host passes the
bridge in one direction only: packets of the host's own that were led to a container.

Out of scope: where published ports lead, traffic counters, frames that stay on the bridge (guard).
"""

from __future__ import annotations

from collections.abc import Collection

from aruntime.network import nft
from aruntime.network.definition import Definition


def families(definition: Definition) -> list[str]:
    """Return the families in which the network has a table of packets."""
    return ["ip", "ip6"] if definition.subnet6 else ["ip"]


def ruleset(definition: Definition) -> str:
    """Return the statements that make or repair the tables, in nft's language.

    The chains are emptied and filled again; other chains, sets and counters of the tables stay.
    """
    return "".join(_table(definition, family) for family in families(definition))


def _table(definition: Definition, family: str) -> str:
    bridge = definition.bridge
    table = f"{family} {bridge}"
    subnet = definition.subnet if family == "ip" else definition.subnet6
    gateway = definition.gateway if family == "ip" else definition.gateway6
    head = [
        f"add table {table}",
        f"add chain {table} postrouting {{ type nat hook postrouting priority srcnat;"
        " policy accept; }",
        f"add chain {table} forward {{ type filter hook forward priority filter; policy accept; }}",
        f"flush chain {table} postrouting",
        f"flush chain {table} forward",
    ]
    if definition.internal:
        # Frames of the bridge come by here where br_netfilter is loaded.
        head.append(
            f"add chain {table} input {{ type filter hook input priority filter; policy accept; }}"
        )
        head.append(f"flush chain {table} input")
        rules = [
            f'forward iifname "{bridge}" oifname "{bridge}" accept',
            f'forward iifname "{bridge}" drop',
            f'forward oifname "{bridge}" drop',
            f'input iifname "{bridge}" {family} daddr != {gateway} '
            f"{family} daddr != {MULTICAST[family]} drop",
        ]
    else:
        if family == "ip":
            head.append(
                f"add chain {table} loopback {{ type filter hook prerouting priority raw;"
                " policy accept; }"
            )
            head.append(f"flush chain {table} loopback")
        rules = [
            f'postrouting {family} saddr {subnet} oifname != "{bridge}" masquerade',
            f'forward iifname "{bridge}" accept',
            f'forward oifname "{bridge}" ct state established,related accept',
            *(_published(bridge, subnet) if family == "ip" else ()),
            f'forward oifname "{bridge}" drop',
        ]
    return "".join(f"{line}\n" for line in [*head, *(f"add rule {table} {rule}" for rule in rules)])


def _published(bridge: str, subnet: str) -> list[str]:
    """Return the rules for what published ports led into the network.

    A container that reaches a published port of its own network, perhaps its own, takes the host's
    address: the answer would not come by the host otherwise, and its address not be given back.
    So does the host where it used 127.0.0.1, from which no answer could come.
    """
    return [
        f'loopback iifname "{bridge}" ip saddr 127.0.0.0/8 drop',
        f'loopback iifname "{bridge}" ip daddr 127.0.0.0/8 drop',
        f'postrouting ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade',
        f'postrouting ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade',
        f'forward oifname "{bridge}" ct status dnat accept',
    ]


MULTICAST = {"ip": "224.0.0.0/4", "ip6": "ff00::/8"}
"""Neighbour discovery is sent to groups."""


def removal(bridge: str, families: Collection[str]) -> str:
    """Return the statements that remove the network's tables, there or not."""
    # `add` first: deleting a table that is not there would fail.
    return "".join(
        f"add table {family} {bridge}\ndelete table {family} {bridge}\n" for family in families
    )


def foreign_drops(bridge: str) -> list[str]:
    """Return the base chains of other tables that drop forwarded packets by policy.

    Each is named as nft lists it: family, table, chain.

    Raises:
        Unavailable: nft is missing or failed.
    """
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in nft.chains()
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in {"ip", "inet"}
        and (chain["family"], chain["table"]) != ("ip", bridge)
    ]
