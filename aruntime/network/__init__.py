"""Networks of containers: one bridge per daemon, address leases, name files, counters.

    Network (attach)  composes  bridge  the link on the host             (pyroute2)
                                nat     the table that lets packets out  (nft)
                                ipam    who holds which address          (symbolic links)
                                encode  what init sends on its start     (netlink, ready to send)
    files             /etc/hosts, /etc/hostname, /etc/resolv.conf of a container; pure
    counters          bytes and packets of every link in one netlink dump

The only user of pyroute2 and of nftables. Imports of it are lazy: 135 ms that no start pays.
"""

from aruntime.network.attach import Attachment, Endpoint, Network, without_network

__all__ = ["Attachment", "Endpoint", "Network", "without_network"]
