"""Namespaces that are joined, mapped, given clocks, and linked to a bridge."""

from __future__ import annotations

import base64
import ipaddress
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aruntime.kernel import namespaces
from aruntime.network import encode
from aruntime.rootfs import plan
from tests.kernel.shim.commander import Shim
from tests.kernel.shim.specs import spec_of

pytestmark = pytest.mark.kernel


def status(text: str) -> dict[str, str]:
    """Return /proc/PID/status as a mapping."""
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


# --- namespaces that exist


def test_network_of_another_container(shim: Shim) -> None:
    """Joined through a descriptor; the other container's end does not matter."""
    first = shim.launch("c1", ["sleep", "1000"])
    netns = os.open(f"/proc/{first['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    options = {
        "join": {"network": "fd:net", "ipc": f"/proc/{first['pid']}/ns/ipc"},
        "fds": {"net": netns},
    }
    script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc"
    _, out, _ = shim.run("c2", ["sh", "-c", script], **options)
    os.close(netns)
    theirs = [os.readlink(f"/proc/{first['pid']}/ns/{kind}") for kind in ("net", "ipc")]
    assert out.split() == theirs
    shim.kill("c1")
    shim.reap("c1")


def test_pids_of_another_container(shim: Shim) -> None:
    """One PID namespace for two: they see each other, and the second is not PID 1."""
    first = shim.launch("c1", ["sleep", "1000"])
    join = {"pid": f"/proc/{first['pid']}/ns/pid"}
    _, out, _ = shim.run("c2", ["sh", "-c", "echo $$; cat /proc/1/cmdline"], join=join)
    pid, _, command = out.partition("\n")
    assert int(pid) > 1
    assert command == "sleep\0" + "1000\0"
    assert os.readlink(f"/proc/{shim.process.pid}/ns/pid_for_children") == os.readlink(
        "/proc/self/ns/pid"
    )
    shim.kill("c1")
    shim.reap("c1")


def test_namespaces_of_the_host(shim: Shim) -> None:
    """Types the specification does not name are the host's."""
    script = "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; hostname"
    kinds = ("pid", "mount", "ipc", "cgroup")
    created = shim.launch("c1", ["sh", "-c", script], namespaces=kinds)
    out = shim.output("c1")
    shim.reap("c1")
    assert out.split() == [
        os.readlink("/proc/self/ns/net"),
        os.readlink("/proc/self/ns/uts"),
        os.uname().nodename,
    ]
    assert "netns" not in shim.daemon.fds[("c1", "")]
    assert created["warnings"] == []


@pytest.mark.parametrize("place", ["/proc/1/ns/none", "fd:missing", "/dev/null"])
def test_namespace_that_cannot_be_joined(shim: Shim, place: str) -> None:
    """The step and the place are named."""
    shim.send_launch("c1", ["true"], join={"network": place})
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "join a namespace"
    assert failed["path"] == place
    assert shim.children() == []


def test_time_offsets(shim: Shim) -> None:
    """The clock of boot is ahead inside, by an intermediate process that leaves no trace."""
    kinds = ("pid", "mount", "uts", "ipc", "network", "cgroup", "time")
    linux = {"timeOffsets": {"boottime": {"secs": 1_000_000, "nanosecs": 5}}}
    shim.launch("c1", ["cat", "/proc/uptime"], namespaces=kinds, linux=linux)
    assert float(shim.output("c1").split()[0]) > 1_000_000
    assert len(shim.children()) == 1
    shim.reap("c1")
    assert shim.children() == []
    assert shim.run("c2", ["true"], namespaces=kinds)[0] == 0


# --- network


def test_netns_descriptor_outlives_init(shim: Shim) -> None:
    """The network namespace is there until the reap, although init is a zombie."""
    shim.launch("c1", ["true"])
    shim.wait_exit("c1")
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    namespaces.setns(shim.fd("netns", "c1"), namespaces.CLONE_NEWNET)
    try:
        names = [name for _, name in socket.if_nameindex()]
    finally:
        namespaces.setns(before, namespaces.CLONE_NEWNET)
        os.close(before)
    assert "lo" in names
    shim.reap("c1")


# --- user namespace

IDS = [{"containerID": 0, "hostID": 200000, "size": 65536}]
KINDS = ("pid", "mount", "uts", "ipc", "network", "cgroup", "user")


def mapped(shim: Shim, **options: Any) -> dict[str, Any]:
    """Return launch options of a container with ids of its own over an overlay."""
    base = shim.run_dir.parent
    for name in ("upper", "work", "staging"):
        (base / name).mkdir(exist_ok=True)
    linux = {"uidMappings": IDS, "gidMappings": IDS}
    spec = spec_of(["true"], namespaces=KINDS, linux=linux, **options)
    ops = plan.plan(
        spec,
        lower=[str(shim.rootfs)],
        upper=str(base / "upper"),
        work=str(base / "work"),
        staging=str(base / "staging"),
    )
    return {"namespaces": KINDS, "linux": linux, "mounts": ops, **options}


def test_ids_of_its_own(shim: Shim) -> None:
    """Root inside is nobody outside; files of the image are root's, what it writes is its own."""
    script = "id -u; stat -c %u /bin/busybox; touch /made; stat -c %u /made; hostname; echo $$"
    created = shim.launch("c1", ["sh", "-c", f"{script}; read x"], stdin=True, **mapped(shim))
    status_file = Path(f"/proc/{created['pid']}/status")
    assert status(status_file.read_text())["Uid"].split() == ["200000"] * 4
    assert Path(f"/proc/{created['pid']}/uid_map").read_text().split() == ["0", "200000", "65536"]
    os.write(shim.fd("stdin_write", "c1"), b"\n")
    assert shim.output("c1").split() == ["0", "0", "0", "box", "1"]
    assert (shim.run_dir.parent / "upper/made").stat().st_uid == 200000
    assert len(shim.children()) == 1
    assert shim.reap("c1")["code"] == 0


def test_exec_into_mapped_ids(shim: Shim) -> None:
    """It joins the user namespace too and has the container's root's rights there, no more."""
    shim.launch("c1", ["sleep", "1000"], **mapped(shim))
    linux = {"uidMappings": IDS, "gidMappings": IDS}
    script = "id -u; touch /x && stat -c %u /x; cat /proc/self/uid_map; tty"
    shim.execute("c1", "e1", ["sh", "-c", script], namespaces=KINDS, linux=linux, tty=True)
    assert shim.output("c1", "e1").split() == ["0", "0", "0", "200000", "65536", "/dev/pts/0"]
    assert shim.reap("c1", "e1")["code"] == 0
    shim.kill("c1")
    shim.reap("c1")


def test_terminal_with_mapped_ids(shim: Shim) -> None:
    """A pty of the container's devpts, owned by its root."""
    shim.launch("c1", ["sh", "-c", "tty; stat -c %u $(tty)"], tty=True, **mapped(shim))
    assert shim.output("c1").split() == ["/dev/pts/0", "0"]
    shim.reap("c1")


def test_user_with_mapped_ids_and_offsets(shim: Shim) -> None:
    """A user by name, in user and time namespaces at once."""
    options = mapped(shim)
    options["namespaces"] = (*KINDS, "time")
    options["linux"] = {**options["linux"], "timeOffsets": {"monotonic": {"secs": 99}}}
    script = "id -un; cat /proc/self/timens_offsets"
    _, out, _ = shim.run("c1", ["sh", "-c", script], login="alice", **options)
    assert out.split()[:4] == ["alice", "monotonic", "99", "0"]


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]}, "make the user namespace"),
        ({"mounts": "own"}, "set up the root file system (own)"),
        ({"mounts": "rebind"}, "set up the root file system (mount)"),
    ],
)
def test_failures_with_an_intermediate_process(
    shim: Shim, change: dict[str, Any], step: str
) -> None:
    """Whichever of the two processes fails, both are reaped and the step is told once."""
    options = mapped(shim)
    if "mounts" not in change:
        options["linux"] = {**options["linux"], **change}
    else:
        broken: dict[str, list[Any]] = {
            "own": ["own", "/nowhere", 0, 0],
            "rebind": ["mount", "/x", "nofs", "x", 0, [], 0, False],
        }
        for place, op in enumerate(options["mounts"]):
            if op[0] == change["mounts"]:
                options["mounts"][place] = broken[op[0]]
    before = shim.descriptors()
    shim.send_launch("c1", ["true"], **options)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == step
    assert shim.children() == []
    assert shim.descriptors() == before


# --- network on a bridge


@pytest.fixture
def bridge() -> Iterator[tuple[str, int]]:
    """Return name and index of a bridge of this test."""
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin")
    if ip is None:
        pytest.skip("ip is missing: apt-get install iproute2")
    name = f"arts{os.getpid()}"
    subprocess.run([ip, "link", "add", name, "type", "bridge"], check=True)
    subprocess.run([ip, "addr", "add", "10.213.7.1/24", "dev", name], check=True)
    subprocess.run([ip, "link", "set", name, "up"], check=True)
    yield name, socket.if_nametoindex(name)
    subprocess.run([ip, "link", "del", name], check=True)


def wired(bridge: tuple[str, int], *, host_index: int = 77001) -> dict[str, Any]:
    """Return launch options of a container with an address on the bridge."""
    host = encode.encode_host(
        host_ifname=f"{bridge[0]}v",
        host_ifindex=host_index,
        bridge_ifindex=bridge[1],
        mac=b"\x02\x42\x0a\xd5\x07\x02",
        mtu=1500,
        group=1,
    )
    inside = encode.encode_inside(ipaddress.IPv4Interface("10.213.7.2/24"), 0x0AD50701)
    entry = {
        "host": base64.b64encode(host).decode(),
        "inside": base64.b64encode(inside).decode(),
        "netns_fd": encode.NETNS_FD,
    }
    return {"netlink": [entry]}


@pytest.mark.parametrize("user_namespace", [False, True])
def test_link_to_a_bridge(shim: Shim, bridge: tuple[str, int], user_namespace: bool) -> None:
    """Both batches are sent from where they belong; the link goes with the reap."""
    options = {**wired(bridge), **(mapped(shim) if user_namespace else {})}
    script = "ip -4 -o addr show eth0; ip route; ping -c1 -W5 10.213.7.1 >/dev/null && echo reached"
    shim.launch("c1", ["sh", "-c", script], **options)
    out = shim.output("c1")
    assert "inet 10.213.7.2/24" in out
    assert "default via 10.213.7.1" in out
    assert out.endswith("reached\n")
    assert f"{bridge[0]}v" in [name for _, name in socket.if_nameindex()]
    shim.reap("c1")
    shim.daemon.forget("c1")
    shim.wait_for(lambda: f"{bridge[0]}v" not in [name for _, name in socket.if_nameindex()])


@pytest.mark.parametrize("user_namespace", [False, True])
def test_link_that_cannot_be_made(
    shim: Shim, bridge: tuple[str, int], user_namespace: bool
) -> None:
    """The kernel's answer is passed on, nothing stays."""
    options = {
        **wired((bridge[0], 999_999)),
        **(mapped(shim) if user_namespace else {}),
    }
    shim.send_launch("c1", ["true"], **options)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "configure the host side of the network"
    assert failed["errno"] > 0
    assert shim.children() == []


def test_inside_batch_that_fails(shim: Shim, bridge: tuple[str, int]) -> None:
    """A link made already goes with the namespace."""
    options = wired(bridge)
    options["netlink"][0]["inside"] = options["netlink"][0]["host"]
    shim.send_launch("c1", ["true"], **options)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "configure the network inside"
    shim.wait_for(lambda: f"{bridge[0]}v" not in [name for _, name in socket.if_nameindex()])
