"""A DNS server for tests that does as it is told, in the network namespace of whoever starts it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import dns.message
import dns.rrset

ENDING = frozenset({"04", "08", "09", "0B"})
"""FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING; not TIME_WAIT, which lasts a minute."""
Behaviour = Callable[[bytes], list[bytes]]
"""Returns the packets sent in answer to a query; none: silence."""


def told(address: str) -> Behaviour:
    """Return what answers every question with an address and a text record."""

    def answer(query: bytes) -> list[bytes]:
        message = dns.message.from_wire(query)
        reply = dns.message.make_response(message)
        question = message.question[0]
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
        return [reply.to_wire()]

    return answer


class DnsServer:
    """Listens on UDP and TCP at port 53 of an address until closed."""

    def __init__(self, address: str, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.asked: list[bytes] = []
        """Every query, as it came."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        self._udp.bind((address, 53))
        self._tcp = socket.create_server((address, 53), family=family)
        self._executor = ThreadPoolExecutor(max_workers=2)
        self._executor.submit(self._serve_udp)
        self._executor.submit(self._serve_tcp)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, source = self._udp.recvfrom(65535)
                if not query:
                    return
                self.asked.append(query)
                for packet in self.behaviour(query):
                    self._udp.sendto(packet, source)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                with connection, connection.makefile("rb") as stream:
                    query = stream.read(int.from_bytes(stream.read(2), "big"))
                    if not query:
                        return
                    self.asked.append(query)
                    for packet in self.behaviour(query):
                        connection.sendall(len(packet).to_bytes(2, "big") + packet)

    def close(self) -> None:
        """End the threads and close the sockets; call it where the server was started."""
        with socket.socket(self._udp.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._udp.getsockname())
        socket.create_connection(self._tcp.getsockname()[:2], 5).close()
        self._executor.shutdown()
        self._udp.close()
        self._tcp.close()
        # The kernel hears the answer to the last FIN a moment later: the port is taken until then.
        while _is_connected():
            time.sleep(0.002)


def _is_connected() -> bool:
    """Whether connections of port 53 are about to end (include/net/tcp_states.h)."""
    with open("/proc/thread-self/net/tcp", encoding="ascii") as table:
        rows = [row.split() for row in table.readlines()[1:]]
    return any(row[1].endswith(":0035") and row[3] in ENDING for row in rows)
