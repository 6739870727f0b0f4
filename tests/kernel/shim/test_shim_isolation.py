"""What a container may and may not: users, capabilities, filters, namespaces joined and mapped."""

from __future__ import annotations

import base64
import errno
import ipaddress
import os
import resource
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aruntime.kernel import capabilities, namespaces
from aruntime.network import encode
from aruntime.rootfs import plan

pytestmark = pytest.mark.kernel

Shim = Any
CGROUPS = Path("/sys/fs/cgroup")


def status(text: str) -> dict[str, str]:
    """Return /proc/PID/status as a mapping."""
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def mask(*names: str) -> int:
    """Return the mask of capabilities."""
    return sum(1 << capabilities.NUMBERS[name] for name in names)


# --- user


@pytest.mark.parametrize(
    ("login", "groups", "expected"),
    [
        ("", [], "uid=0(root) gid=0(root)"),
        ("alice", [], "uid=1000(alice) gid=1000(alice) groups=29(audio)"),
        ("1000", [], "uid=1000(alice) gid=1000(alice) groups=29(audio)"),
        ("alice:audio", [], "uid=1000(alice) gid=29(audio)"),
        ("1234", [], "uid=1234 gid=0(root)"),
        ("1234:5678", [], "uid=1234 gid=5678"),
        ("alice:0", ["audio", "77"], "uid=1000(alice) gid=0(root) groups=29(audio),77"),
    ],
)
def test_user(shim: Shim, login: str, groups: list[str], expected: str) -> None:
    """Exactly the ids asked for, and no group of ours (CVE-2022-36109)."""
    _, out, _ = shim.run("c1", ["id"], login=login, groups=groups)
    uid, gid, *more = out.split()
    shown = {name for part in more for name in part.removeprefix("groups=").split(",")}
    wanted_uid, wanted_gid, *wanted_more = expected.split()
    assert (uid, gid) == (wanted_uid, wanted_gid)
    primary = gid.removeprefix("gid=")
    wanted = {name for part in wanted_more for name in part.removeprefix("groups=").split(",")}
    assert shown - {primary} == wanted


def test_numeric_user_of_the_specification(shim: Shim) -> None:
    """An OCI process.user is taken as it is, supplementary groups included."""
    user = {"uid": 5, "gid": 6, "additionalGids": [7, 8]}
    _, out, _ = shim.run("c1", ["grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status"], user=user)
    found = status(out)
    assert found["Uid"].split() == ["5"] * 4
    assert found["Gid"].split() == ["6"] * 4
    assert found["Groups"].split() == ["7", "8"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "link to a device", "link out"])
def test_hostile_passwd(shim: Shim, rootfs: Path, kind: str) -> None:
    """Whatever the image has in place of /etc/passwd, init neither hangs nor reads the host's."""
    path = rootfs / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        (rootfs / "x").write_text("x")
        path.symlink_to("/proc/self/root/../../../../../../etc/passwd")
    shim.send_launch("c1", ["true"], login="daemon")
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "find the user"
    assert shim.children() == []


def test_working_directory_of_the_user(shim: Shim, rootfs: Path) -> None:
    """A directory only the user may enter is entered as the user (root without DAC override)."""
    private = rootfs / "private"
    private.mkdir(mode=0o700)
    os.chown(private, 1000, 1000)
    code, out, _ = shim.run("c1", ["pwd"], cwd="/private", login="alice")
    assert (code, out) == (0, "/private\n")


# --- capabilities, no_new_privs, seccomp, limits


def test_capabilities_of_root(shim: Shim) -> None:
    """What was asked for in each set, nothing inheritable or ambient (CVE-2022-29162)."""
    names = ["CAP_CHOWN", "CAP_KILL"]
    _, out, _ = shim.run("c1", ["cat", "/proc/self/status"], capabilities=names)
    found = status(out)
    expected = f"{mask(*names):016x}"
    assert [found[f"Cap{kind}"] for kind in ("Bnd", "Prm", "Eff")] == [expected] * 3
    assert [found[f"Cap{kind}"] for kind in ("Inh", "Amb")] == ["0" * 16] * 2


def test_capabilities_of_a_user(shim: Shim) -> None:
    """A user gets none, unless they are ambient."""
    _, out, _ = shim.run("c1", ["cat", "/proc/self/status"], login="alice")
    assert status(out)["CapEff"] == "0" * 16
    one = ["CAP_NET_BIND_SERVICE"]
    sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), one)
    user = {"uid": 1000, "gid": 1000}
    _, out, _ = shim.run("c2", ["cat", "/proc/self/status"], user=user, capability_sets=sets)
    assert status(out)["CapEff"] == status(out)["CapAmb"] == f"{mask(*one):016x}"


def test_capabilities_we_lack_are_a_warning(shim: Shim) -> None:
    """All of them were asked for; what this host cannot grant is left out and named."""
    everything = list(capabilities.NAMES)
    ours = capabilities.bounding()
    lacking = [name for name, bit in capabilities.NUMBERS.items() if not ours >> bit & 1]
    created = shim.launch("c1", ["cat", "/proc/self/status"], capabilities=everything)
    found = status(shim.output("c1"))
    shim.reap("c1")
    assert int(found["CapEff"], 16) == ours
    for name in lacking:
        assert name in created["warnings"][0]
    assert bool(lacking) == bool(created["warnings"])


def test_no_new_privileges(shim: Shim) -> None:
    """The bit is set when asked for, and not otherwise."""
    script = ["grep", "NoNewPrivs", "/proc/self/status"]
    assert shim.run("c1", script)[1].split()[1] == "0"
    assert shim.run("c2", script, noNewPrivileges=True)[1].split()[1] == "1"


def deny(number: int, *, errno_value: int = errno.EPERM) -> bytes:
    """Return a filter that fails one system call and allows the rest."""
    instructions = [
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 1, number),  # equal?
        (0x06, 0, 0, 0x00050000 | errno_value),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in instructions)


MKDIR, GETCWD, EXECVE = 83, 79, 59
X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")


@X86
@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("login", ["", "alice"])
def test_seccomp(shim: Shim, login: str, no_new_privileges: bool) -> None:
    """The filter binds the program, with and without the privilege to load it."""
    options = {"login": login, "bpf": deny(MKDIR), "noNewPrivileges": no_new_privileges}
    code, out, err = shim.run(
        "c1", ["sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status"], **options
    )
    assert "not permitted" in err or "denied" in err
    assert out.split() == ["Seccomp:", "2"]
    assert code == 0


@X86
def test_filter_against_our_own_calls(shim: Shim) -> None:
    """A filter that denies getcwd and unshare does not hinder the setting up (engines.md R6)."""
    for place, number in enumerate((GETCWD, 272, 165, 160)):
        assert shim.run(f"c{place}", ["true"], bpf=deny(number), cwd="/tmp")[0] == 0


@X86
def test_filter_that_denies_execve(shim: Shim) -> None:
    """It is told as a failure of that step, after start."""
    shim.launch("c1", ["true"], bpf=deny(EXECVE), start=False)
    shim.daemon.send({"op": "start", "id": "c1"})
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["errno"]) == ("execve", errno.EPERM)
    assert shim.children() == []


def test_malformed_filter(shim: Shim) -> None:
    """The kernel's verdict is passed on."""
    shim.launch("c1", ["true"], bpf=b"\0" * 8, start=False)
    shim.daemon.send({"op": "start", "id": "c1"})
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["errno"]) == ("load the seccomp filter", errno.EINVAL)


def test_limit_above_ours(shim: Shim) -> None:
    """Raising a hard limit without CAP_SYS_RESOURCE fails and names the ulimit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    able = capabilities.capget()[0] >> capabilities.NUMBERS["CAP_SYS_RESOURCE"] & 1
    if able or hard == resource.RLIM_INFINITY:
        pytest.skip("this host may raise limits")
    limit = [{"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}]
    shim.send_launch("c1", ["true"], rlimits=limit)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "set ulimit"
    assert failed["errno"] == errno.EPERM
    assert f"nofile ({hard + 1}:{hard + 1})" in failed["strerror"]


def test_limits_that_would_hinder_ourselves(shim: Shim) -> None:
    """Three open files, no processes, no file growth: they bind the program, not init."""
    limits = [
        {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
        for name, value in (("NOFILE", 3), ("NPROC", 1), ("FSIZE", 0), ("STACK", 1 << 20))
    ]
    _, out, _ = shim.run("c1", ["sh", "-c", "ulimit -n; ulimit -f"], rlimits=limits, login="alice")
    assert out.split() == ["3", "0"]


# --- cgroups


@pytest.fixture
def groups() -> Iterator[list[str]]:
    """Return a cgroup of this test in every hierarchy."""
    name = f"aruntime-test-{os.getpid()}"
    made = []
    for hierarchy in sorted(CGROUPS.iterdir()):
        if hierarchy.is_dir() and not hierarchy.is_symlink():
            (hierarchy / name / "c1").mkdir(parents=True)
            made.append(str(hierarchy / name / "c1"))
            if hierarchy.name == "cpuset":
                for level in (hierarchy / name, hierarchy / name / "c1"):
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (level / file).write_text((hierarchy / file).read_text())
    yield made
    for path in made:
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))


def test_cgroups_are_joined_before_their_namespace(shim: Shim, groups: list[str]) -> None:
    """Every hierarchy, seen from outside as told and from inside as the root."""
    created = shim.launch(
        "c1", ["sh", "-c", "cat /proc/self/cgroup; read x"], cgroup_dirs=groups, stdin=True
    )
    outside = Path(f"/proc/{created['pid']}/cgroup").read_text().splitlines()
    assert len(outside) == len(groups)
    assert all(line.endswith(f"/aruntime-test-{os.getpid()}/c1") for line in outside)
    shim.execute("c1", "e1", ["cat", "/proc/self/cgroup"], cgroup_dirs=groups)
    inside = shim.output("c1", "e1").splitlines()
    assert shim.reap("c1", "e1")["code"] == 0
    assert all(line.endswith(":/") for line in inside)
    os.write(shim.fd("stdin_write", "c1"), b"\n")
    assert shim.output("c1").splitlines() == inside
    shim.reap("c1")


def test_born_in_a_unified_cgroup(shim: Shim, groups: list[str]) -> None:
    """With nothing but a cgroup2 tree the child is cloned into it; a missing one is named."""
    unified = [path for path in groups if (Path(path) / "cgroup.controllers").exists()]
    if not unified:
        pytest.skip("no cgroup2 tree is mounted")
    created = shim.launch("c1", ["sleep", "1000"], cgroup_dirs=unified)
    lines = Path(f"/proc/{created['pid']}/cgroup").read_text().splitlines()
    assert f"0::/aruntime-test-{os.getpid()}/c1" in lines
    shim.kill("c1")
    shim.reap("c1")
    shim.send_launch("c2", ["true"], cgroup_dirs=[f"{unified[0]}/none"])
    failed = shim.daemon.expect("failed", "c2")
    assert (failed["step"], failed["errno"]) == ("join the cgroup", errno.ENOENT)


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
    spec = shim.spec_of(["true"], namespaces=KINDS, linux=linux, **options)
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
