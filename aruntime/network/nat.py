"""The nftables table of one bridge: containers reach out, nobody new reaches in.

One table per bridge, family ip, named after the bridge, written by the nft program in one atomic
transaction (pyroute2's nftables support knows neither masquerade nor chain flushing, and the rule
text below is what ``nft list ruleset`` shows). Only this table is touched.

A packet passes the chains of every table: another table that drops forwarded packets (docker's
``iptables -P FORWARD DROP``, a firewalld zone) still drops ours, an accept here cannot undo it.
``foreign_drops`` names such chains so that the daemon can say so.

Out of scope: published ports, isolation between networks of one daemon, traffic counters.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from ipaddress import IPv4Network

from aruntime.errors import Unavailable

SEARCH_PATH = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"))
ERROR_MISSING_NFT = (
    "the nft program is missing and bridge networking needs it: apt-get install nftables"
)

NETLINK_NETFILTER = 12
NFT_MSG_GETTABLE = 0x0A01
"""NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE of linux/netfilter/nf_tables.h."""
NFT_MSG_NEWTABLE = 0x0A00
NLM_F_REQUEST = 0x1
NFTA_TABLE_NAME = 1

_GETTABLE = struct.Struct("=IHHIIBBHHH16s")
"""nlmsghdr, nfgenmsg (family, version, resource), one attribute: the name, padded with NUL."""


def ruleset(bridge: str, subnet: IPv4Network) -> str:
    """Return the transaction that makes or repairs the table, in nft's language.

    The chains are emptied and filled again; other chains, sets and counters of the table stay.
    """
    table = f"ip {bridge}"
    return f"""\
add table {table}
add chain {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
add chain {table} forward {{ type filter hook forward priority filter; policy accept; }}
flush chain {table} postrouting
flush chain {table} forward
add rule {table} postrouting ip saddr {subnet} oifname != "{bridge}" masquerade
add rule {table} forward iifname "{bridge}" accept
add rule {table} forward oifname "{bridge}" ct state established,related accept
add rule {table} forward oifname "{bridge}" drop
"""


def ensure(bridge: str, subnet: IPv4Network) -> None:
    """Write the table.

    Raises:
        Unavailable: nft is missing, or refused the rules.
    """
    _nft("-f", "-", script=ruleset(bridge, subnet))


def present(bridge: str) -> bool:
    """Return whether the table is there: reloading a firewall's own rules often flushes all.

    Asked of the kernel directly, some 15 µs where starting nft takes 5 ms: part of every start.
    """
    request = _GETTABLE.pack(
        _GETTABLE.size,
        NFT_MSG_GETTABLE,
        NLM_F_REQUEST,
        0,
        0,
        socket.AF_INET,
        0,
        0,
        4 + 16,
        NFTA_TABLE_NAME,
        bridge.encode("ascii"),
    )
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.send(request)
            kind: int = struct.unpack_from("=4xH", netlink.recv(4096))[0]
    except OSError:
        return False  # a kernel that has not loaded nftables yet: nft will, or say why not
    return kind == NFT_MSG_NEWTABLE


def remove(bridge: str) -> None:
    """Remove the table, if it is there.

    Raises:
        Unavailable: nft is missing or failed.
    """
    # `add` first: deleting a table that is not there would fail.
    _nft("-f", "-", script=f"add table ip {bridge}\ndelete table ip {bridge}\n")


def foreign_drops(bridge: str) -> list[str]:
    """Return the base chains of other tables that drop forwarded packets by policy.

    Each is named as nft lists it: family, table, chain.
    """
    listing = json.loads(_nft("--json", "list", "chains"))
    chains = [entry["chain"] for entry in listing["nftables"] if "chain" in entry]
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in {"ip", "inet"}
        and (chain["family"], chain["table"]) != ("ip", bridge)
    ]


def _nft(*arguments: str, script: str | None = None) -> str:
    """Run nft and return its output; one failing statement undoes the whole script."""
    program = shutil.which("nft") or shutil.which("nft", path=SEARCH_PATH)
    if program is None:
        raise Unavailable(ERROR_MISSING_NFT)
    finished = subprocess.run(
        [program, *arguments],
        input=script if script is not None else "",
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        reason = next(iter(finished.stderr.splitlines()), f"exit code {finished.returncode}")
        raise Unavailable(f"nft refused the rules of the bridge: {reason}")
    return finished.stdout
