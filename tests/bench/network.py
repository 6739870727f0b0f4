"""What a container's network carries: iperf3 from the inside of a container to the host.

The client runs in the network namespace of a container but is the host's own program, so that
every engine's network carries the same bytes, and none of its other limits has a say.
"""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any, NamedTuple

from tests.bench.engine import IDLE, Engine, find

SECONDS = 1


def missing() -> str:
    """Name the program that is not installed; empty if it is."""
    return "" if find("iperf3") else "iperf3 (apt-get install iperf3)"


class Carried(NamedTuple):
    """What one second of sending brought."""

    bits_per_second: float
    bits_per_cpu_second: float
    """Both ends' processor time, which other work on the machine does not change."""


def carried(each: Engine) -> Carried:
    """Measure once, from the engine's idle container to the host's address on its bridge.

    Raises:
        subprocess.CalledProcessError: iperf3 failed.
    """
    pid = int(each.runner.output(each.command("inspect", "-f", "{{.State.Pid}}", IDLE)))
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    routes = output([*inside, "ip", "-j", "route", "show", "default"])
    gateway = json.loads(routes)[0]["gateway"]
    port = free_port(gateway)
    iperf3 = str(find("iperf3"))
    server = subprocess.Popen(
        [iperf3, "--forceflush", "-s", "-1", "-B", gateway, "-p", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if b"listening" in line:
                break
        client = [*inside, iperf3, "-c", gateway, "-p", str(port), "-t", str(SECONDS), "-J"]
        found: Any = json.loads(output(client))
    finally:
        server.kill()
        server.stdout.close()
        server.wait()
    rate = float(found["end"]["sum_received"]["bits_per_second"])
    percent = found["end"]["cpu_utilization_percent"]
    return Carried(rate, rate * 100 / (percent["host_total"] + percent["remote_total"]))


def free_port(address: str) -> int:
    """Return a port of the host that nobody has."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def output(words: list[str]) -> bytes:
    """Return what a command prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
