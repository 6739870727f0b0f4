"""Own namespaces: what a container names, counts, sees and changes is its own, unless shared.

``--userns`` is tested in test_userns.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import mounts
from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "time", "uts")
"""What every container has for itself; the user namespace is the host's by default."""


def namespaces_of(pid: int | str) -> dict[str, str]:
    """Return kind to ``kind:[number]`` of a process of the host."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in (*KINDS, "user")}


def namespaces_in(daemon: RunningDaemon, *flags: str) -> dict[str, str]:
    """Return the namespaces of a new container with these flags, as it sees them itself."""
    links = " ".join(f"/proc/self/ns/{kind}" for kind in (*KINDS, "user"))
    script = f"for link in {links}; do readlink $link; done"
    listing = daemon.out("run", "--rm", *flags, "busybox", "sh", "-c", script)
    return dict(zip((*KINDS, "user"), listing.split(), strict=True))


def shared_with_host(daemon: RunningDaemon, *flags: str) -> set[str]:
    """Return which namespaces a container with these flags has in common with the host."""
    inside = namespaces_in(daemon, *flags)
    return {kind for kind, name in namespaces_of("self").items() if inside[kind] == name}


@pytest.fixture
def target(shared_daemon: RunningDaemon) -> Iterator[str]:
    """Yield the name of a container that does nothing, for others to join."""
    shared_daemon.run("run", "-d", "--name", "target", "busybox", "sleep", "999")
    yield "target"
    shared_daemon.run("rm", "-f", "target")


def inspected(daemon: RunningDaemon, field: str, name: str = "target") -> str:
    """Return a field of inspect."""
    return daemon.out("inspect", "-f", f"{{{{.{field}}}}}", name)


def test_all_namespaces_are_own(shared_daemon: RunningDaemon) -> None:
    """By default only the user namespace is the host's."""
    assert shared_with_host(shared_daemon) == {"user"}


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (("--pid", "host"), "pid"),
        (("--ipc", "host"), "ipc"),
        (("--uts", "host"), "uts"),
        (("--network", "host"), "net"),
        (("--cgroupns", "host"), "cgroup"),
    ],
)
def test_one_namespace_is_shared_when_asked(
    shared_daemon: RunningDaemon, flags: tuple[str, ...], kind: str
) -> None:
    """``--pid host`` and its like share that namespace and no other."""
    assert shared_with_host(shared_daemon, *flags) == {"user", kind}


def test_exec_is_in_every_namespace_of_its_container(
    shared_daemon: RunningDaemon, target: str
) -> None:
    """A process brought by exec is where the container's init is, seen from the host."""
    init = int(inspected(shared_daemon, "State.Pid"))
    links = " ".join(f"/proc/self/ns/{kind}" for kind in (*KINDS, "user"))
    seen = shared_daemon.out(
        "exec", target, "sh", "-c", f"for link in {links}; do readlink $link; done"
    ).split()

    assert seen == list(namespaces_of(init).values())


def test_mounts_inside_are_invisible_outside(shared_daemon: RunningDaemon) -> None:
    """What a container mounts is gone with it and was never seen by the host."""
    before = mounts()
    name = "mounter"
    shared_daemon.run("run", "-d", "--name", name, "--privileged", "busybox", "sleep", "999")
    shared_daemon.run("exec", name, "mount", "-t", "tmpfs", "own", "/mnt")

    assert "own /mnt " in shared_daemon.out("exec", name, "cat", "/proc/mounts")
    assert [line for line in mounts() if str(shared_daemon.base) in line] == [
        line for line in before if str(shared_daemon.base) in line
    ]
    shared_daemon.run("rm", "-f", name)


def test_nothing_of_the_hosts_mounts_is_seen_inside(shared_daemon: RunningDaemon) -> None:
    """After pivot_root no mount of the host's tree is left in the container's namespace."""
    table = shared_daemon.out("run", "--rm", "busybox", "cat", "/proc/self/mountinfo")
    places = [line.split()[4] for line in table.splitlines()]
    allowed = ("/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

    assert places[0] == "/"
    assert [p for p in places[1:] if not p.startswith(allowed)] == []


def test_host_and_domain_name_stay_inside(debian_daemon: RunningDaemon) -> None:
    """The names asked for are set; changing them inside changes nothing on the host."""
    before = os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()
    script = "hostname; domainname; hostname other; domainname else; hostname; domainname"
    flags = ("-h", "box", "--domainname", "example.org", "--cap-add", "SYS_ADMIN")

    assert debian_daemon.out("run", "--rm", *flags, "debian", "sh", "-c", script).split() == [
        "box",
        "example.org",
        "other",
        "else",
    ]
    assert (os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()) == before


def test_host_name_cannot_be_changed_without_privilege(shared_daemon: RunningDaemon) -> None:
    """Root inside without CAP_SYS_ADMIN cannot rename even its own container."""
    done = shared_daemon.run("run", "--rm", "busybox", "hostname", "other", code=1)

    assert "not permitted" in done.stderr.lower() or "must be root" in done.stderr


def test_uts_host_has_the_hosts_name(shared_daemon: RunningDaemon) -> None:
    """``--uts host`` shows the host's name and refuses another."""
    assert shared_daemon.out("run", "--rm", "--uts", "host", "busybox", "hostname") == (
        os.uname().nodename
    )
    refused = shared_daemon.run(
        "run", "--rm", "--uts", "host", "-h", "other", "busybox", "true", code=125
    )
    assert "UTS" in refused.stderr


MAKE_IPC = (
    "shmget(7777, 4096, 0600 | 01000) // die; "  # IPC_CREAT
    "my $name = 'own'; my $queue = syscall(240, $name, 0102, 0600, 0);"  # mq_open, O_CREAT|O_RDWR
    "die $! if $queue < 0; $| = 1; print 'made'; sleep 999"
)


def test_ipc_objects_are_own(debian_daemon: RunningDaemon) -> None:
    """SysV shared memory and POSIX queues of a container are unknown to host and others."""
    name = "maker"
    debian_daemon.run("run", "-d", "--name", name, "debian", "perl", "-e", MAKE_IPC)
    wait_until(lambda: debian_daemon.out("logs", name) == "made")
    key = f"0x{7777:08x}"

    assert key in debian_daemon.out("exec", name, "ipcs", "-m")
    assert debian_daemon.out("exec", name, "ls", "/dev/mqueue") == "own"
    assert key not in debian_daemon.out("run", "--rm", "debian", "ipcs", "-m")
    assert debian_daemon.out("run", "--rm", "debian", "ls", "/dev/mqueue") == ""
    assert str(7777) not in Path("/proc/sysvipc/shm").read_text().split()
    debian_daemon.run("rm", "-f", name)


def test_ipc_none_and_host(shared_daemon: RunningDaemon) -> None:
    """``--ipc none`` has no /dev/shm, ``--ipc host`` has the host's, an own one has its size."""
    shown = "grep ' /dev/shm ' /proc/mounts; ls -d /dev/shm"
    none = shared_daemon.run("run", "--rm", "--ipc", "none", "busybox", "sh", "-c", shown, code=1)
    assert none.stdout == ""
    own = shared_daemon.out("run", "--rm", "--shm-size", "1m", "busybox", "sh", "-c", shown)
    assert "size=1024k" in own
    probe = Path(f"/dev/shm/aruntime-test-{os.getpid()}")
    probe.write_text("of the host")
    try:
        host = shared_daemon.out("run", "--rm", "--ipc", "host", "busybox", "cat", str(probe))
        assert host == "of the host"
        shared_daemon.run("run", "--rm", "busybox", "cat", str(probe), code=1)
    finally:
        probe.unlink()


def test_processes_of_the_host_are_invisible(shared_daemon: RunningDaemon) -> None:
    """Inside, PID 1 is the program and nothing but the container's processes is listed."""
    listing = shared_daemon.out("run", "--rm", "busybox", "ps", "-o", "pid,args").splitlines()

    assert [line.split(None, 1) for line in listing[1:]] == [["1", "ps -o pid,args"]]
    shared_daemon.run("run", "--rm", "busybox", "kill", "-0", str(os.getpid()), code=1)


def test_pid_host_sees_the_hosts_processes(shared_daemon: RunningDaemon) -> None:
    """``--pid host``: this test is a process like any other."""
    own = f"/proc/{os.getpid()}/comm"

    assert shared_daemon.out("run", "--rm", "--pid", "host", "busybox", "cat", own) == (
        Path(own).read_text().strip()
    )


def test_pid_of_another_container(shared_daemon: RunningDaemon, target: str) -> None:
    """``--pid container:NAME``: its processes are seen, its init is PID 1; the rest is own."""
    flags = ("--pid", f"container:{target}")
    listing = shared_daemon.out("run", "--rm", *flags, "busybox", "ps", "-o", "pid,args")
    init = namespaces_of(inspected(shared_daemon, "State.Pid"))
    inside = namespaces_in(shared_daemon, *flags)

    assert "1 sleep 999" in [" ".join(line.split()) for line in listing.splitlines()]
    assert {kind for kind in init if init[kind] == inside[kind]} == {"pid", "user"}
    assert shared_daemon.out("ps", "-q", "--filter", f"name={target}") != ""


def test_a_container_that_joins_does_not_end_the_other(
    shared_daemon: RunningDaemon, target: str
) -> None:
    """The end of a container in another's PID and network namespaces ends neither."""
    flags = ("--pid", f"container:{target}", "--network", f"container:{target}")
    shared_daemon.run("run", "--rm", *flags, "busybox", "true")

    assert inspected(shared_daemon, "State.Running") == "true"
    assert "eth0" in shared_daemon.out("exec", target, "ip", "link")


def test_cgroup_paths_show_nothing_of_the_host(shared_daemon: RunningDaemon) -> None:
    """Own cgroup namespace: every path in /proc/self/cgroup is /; with the host's it is whole."""
    own = shared_daemon.out("run", "--rm", "busybox", "cat", "/proc/self/cgroup").splitlines()
    assert {line.split(":", 2)[2] for line in own} == {"/"}

    flags = ("--cgroupns", "host")
    whole = shared_daemon.out("run", "--rm", *flags, "busybox", "cat", "/proc/self/cgroup")
    paths = {line.split(":", 2)[2] for line in whole.splitlines()}
    assert {path.rpartition("/")[0] for path in paths} == {shared_daemon.cgroup_parent}


def test_clocks_start_where_the_hosts_are(shared_daemon: RunningDaemon) -> None:
    """The time namespace is own but has no offset: uptime is the host's."""
    offsets = shared_daemon.out("run", "--rm", "busybox", "cat", "/proc/self/timens_offsets")
    inside = float(shared_daemon.out("run", "--rm", "busybox", "cat", "/proc/uptime").split()[0])
    outside = float(Path("/proc/uptime").read_text().split()[0])

    assert [line.split()[1:] for line in offsets.splitlines()] == [["0", "0"], ["0", "0"]]
    assert 0 <= outside - inside < 10
