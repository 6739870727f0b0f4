"""Networks of containers: bridges, address leases, name files, rules, counters.

    Networks          which there are: the default one and those of users
      Network (attach)  composes  bridge  the link on the host               (pyroute2)
                                  nat     what leaves and enters             (nft)
                                  guard   what a container may send          (nft)
                                  ipam    who holds which address            (symbolic links)
                                  encode  what init sends on its start       (netlink)
      live              links of running containers, made and removed
      departed          links of ended ones that the kernel keeps too long
      definition, store what a network was asked to be; its file
      wanted            what a user asks of a new one
      subnets           which part of the address space is free
    publishing        published ports: holding binds them, port_table leads them,
                      conntrack lets flows go that lead past them
    endpoints         who stands where; listeners hear of changes
    redirect          questions for names, past another server of the host     (nft)
    names, dns        who is called what; questions for it and answers     (dnspython)
    files             /etc/hosts, /etc/hostname, /etc/resolv.conf of a container; pure
    counters          bytes and packets of every link in one netlink dump
    egress            what of it leaves the host, by named counters         (nft)

The only user of pyroute2 and of nftables. Imports of it are lazy: 135 ms that no start pays.
"""

from aruntime.network.attach import Network
from aruntime.network.definition import DEFAULT, default_definition
from aruntime.network.encode import without_network
from aruntime.network.endpoints import Attachment, Endpoint, Request
from aruntime.network.networks import Networks
from aruntime.network.wanted import Wanted

__all__ = [
    "DEFAULT",
    "Attachment",
    "Endpoint",
    "Network",
    "Networks",
    "Request",
    "Wanted",
    "default_definition",
    "without_network",
]
