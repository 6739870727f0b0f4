"""What a container's processes may do: capabilities, system calls, limits, privileges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e

DOCKERS = 0x00000000A80425FB
"""The default capability set of docker, as /proc/PID/status shows it."""

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NET_ADMIN = 1 << 12
CHOWN = 1
NET_RAW = 1 << 13


def status(daemon: RunningDaemon, *flags: str) -> dict[str, str]:
    """Return /proc/self/status of a new container's program."""
    text = daemon.out("run", "--rm", *flags, "busybox", "cat", "/proc/self/status")
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.split("\n"))
    }


def capabilities(daemon: RunningDaemon, *flags: str) -> list[int]:
    """Return the five capability sets of a new container's program."""
    found = status(daemon, *flags)
    return [int(found[kind], 16) for kind in SETS]


def own_capabilities() -> int:
    """Return the bounding set of this process, which started the daemon."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("CapBnd:")[2].split()[0], 16)


def test_default_capabilities_are_dockers(shared_daemon: RunningDaemon) -> None:
    """Permitted, effective and bounding are docker's set; inheritable and ambient are empty."""
    assert capabilities(shared_daemon) == [0, DOCKERS, DOCKERS, DOCKERS, 0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--cap-add", "NET_ADMIN"), DOCKERS | NET_ADMIN),
        (("--cap-add", "cap_net_admin"), DOCKERS | NET_ADMIN),
        (("--cap-drop", "NET_RAW"), DOCKERS & ~NET_RAW),
        (("--cap-drop", "ALL"), 0),
        (("--cap-drop", "ALL", "--cap-add", "CHOWN"), CHOWN),
        (("--cap-drop", "NET_RAW", "--cap-add", "NET_RAW"), DOCKERS),
    ],
)
def test_capabilities_are_added_and_dropped(
    shared_daemon: RunningDaemon, flags: tuple[str, ...], expected: int
) -> None:
    """``--cap-add`` and ``--cap-drop`` change what the kernel reports, bounding set included."""
    assert capabilities(shared_daemon, *flags) == [0, expected, expected, expected, 0]


def test_all_capabilities_are_those_the_daemon_has(shared_daemon: RunningDaemon) -> None:
    """``--cap-add ALL`` gives what the daemon has itself."""
    held = own_capabilities()

    assert capabilities(shared_daemon, "--cap-add", "ALL") == [0, held, held, held, 0]


def test_an_unknown_capability_is_refused(shared_daemon: RunningDaemon) -> None:
    """A misspelt name is an error, not silently less or more."""
    done = shared_daemon.run("run", "--rm", "--cap-drop", "NET_RAV", "busybox", "true", code=125)

    assert "CAP_NET_RAV" in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_user_has_no_capability(shared_daemon: RunningDaemon) -> None:
    """A user other than root has none in effect; the bounding set stays for setuid programs."""
    assert capabilities(shared_daemon, "-u", "1000") == [0, 0, 0, DOCKERS, 0]


def test_exec_has_the_containers_capabilities(shared_daemon: RunningDaemon) -> None:
    """exec gives what the container has, exec --privileged all that the daemon has."""
    name = shared_daemon.out("run", "-d", "--cap-drop", "NET_RAW", "busybox", "sleep", "999")

    def effective(*flags: str) -> int:
        line = shared_daemon.out("exec", *flags, name, "grep", "CapEff", "/proc/self/status")
        return int(line.split()[1], 16)

    assert effective() == DOCKERS & ~NET_RAW
    assert effective("-u", "1000") == 0
    assert effective("--privileged") == own_capabilities()


def test_dropped_capabilities_are_missed(shared_daemon: RunningDaemon) -> None:
    """Not only shown: without CAP_CHOWN chown fails, without CAP_NET_RAW a raw socket."""
    shared_daemon.run("run", "--rm", "busybox", "chown", "1:1", "/tmp")
    for dropped, command in (
        ("CHOWN", "chown 1:1 /tmp"),
        ("NET_RAW", "traceroute -I -m 1 127.0.0.1"),
    ):
        done = shared_daemon.run(
            "run", "--rm", "--cap-drop", dropped, "busybox", "sh", "-c", command, code=1
        )
        assert "not permitted" in done.stderr or "denied" in done.stderr


def test_no_new_privileges(shared_daemon: RunningDaemon) -> None:
    """``--security-opt no-new-privileges`` sets the bit, also for exec; by default it is not."""
    assert status(shared_daemon)["NoNewPrivs"] == "0"
    flags = ("--security-opt", "no-new-privileges")
    assert status(shared_daemon, *flags)["NoNewPrivs"] == "1"
    name = shared_daemon.out("run", "-d", *flags, "busybox", "sleep", "999")
    seen = shared_daemon.out("exec", name, "grep", "NoNewPrivs", "/proc/self/status")
    assert seen.split() == ["NoNewPrivs:", "1"]


def test_seccomp_filter_is_on(shared_daemon: RunningDaemon) -> None:
    """Mode 2 is a filter; unconfined and privileged containers have none."""
    assert status(shared_daemon)["Seccomp"] == "2"
    assert status(shared_daemon, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"
    assert status(shared_daemon, "--privileged")["Seccomp"] == "0"


CALLS = {
    "mount": 'syscall(165, my $s = "x", my $t = "/mnt", my $f = "tmpfs", 0, 0)',
    "unshare user": "syscall(272, 0x10000000)",
    "setns": "syscall(308, 0, 0)",
    "keyctl": "syscall(250, 0, -3, 0)",
    "add_key": 'syscall(248, my $k = "user", my $d = "d", my $p = "p", 1, -3)',
    "bpf": "syscall(321, 0, 0, 0)",
    "perf_event_open": "syscall(298, 0, 0, -1, -1, 0)",
    "open_by_handle_at": "syscall(304, 0, 0, 0)",
    "kexec_load": "syscall(246, 0, 0, 0, 0)",
    "init_module": "syscall(175, 0, 0, 0)",
    "swapon": 'syscall(167, my $s = "/x", 0)',
    "reboot": "syscall(169, 0, 0, 0, 0)",
    "pivot_root": 'syscall(155, my $n = "/tmp", my $o = "/tmp")',
    "userfaultfd": "syscall(323, 0)",
    "io_uring_setup": "syscall(425, 1, 0)",
}
"""Numbers of x86-64; EPERM is 1."""

with_numbers = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")


@with_numbers
@pytest.mark.parametrize("call", CALLS)
def test_default_filter_refuses(debian_daemon: RunningDaemon, call: str) -> None:
    """Docker's profile answers EPERM before the kernel looks at the arguments."""
    script = f"{CALLS[call]}; print 0 + $!"

    assert debian_daemon.out("run", "--rm", "debian", "perl", "-e", script) == "1"


@with_numbers
def test_default_filter_allows_what_programs_need(debian_daemon: RunningDaemon) -> None:
    """The same profile lets chroot, ptrace and sockets of the usual families through."""
    script = (
        "chroot('/') or die; syscall(101, 0, 0, 0, 0) == 0 or die;"
        "for (1, 2, 10) { socket(my $s, $_, 2, 0) or die $_ } print 'fine'"
    )

    assert debian_daemon.out("run", "--rm", "debian", "perl", "-e", script) == "fine"


def test_new_user_namespaces_are_refused(debian_daemon: RunningDaemon) -> None:
    """CVE-2022-0492: no privileges by unshare -Ur, with which a cgroup could be mounted."""
    done = debian_daemon.run("run", "--rm", "debian", "unshare", "-Urm", "true", code=1)

    assert "Operation not permitted" in done.stderr


def test_own_profile_is_used(shared_daemon: RunningDaemon, tmp_path: Path) -> None:
    """``--security-opt seccomp=FILE``: the user's own profile instead of docker's."""
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW",'
        ' "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    flags = ("--security-opt", f"seccomp={profile}")
    done = shared_daemon.run("run", "--rm", *flags, "busybox", "mkdir", "/new", code=1)

    assert "Operation not permitted" in done.stderr
    shared_daemon.run("run", "--rm", *flags, "busybox", "touch", "/new")


def test_privileged(shared_daemon: RunningDaemon) -> None:
    """All capabilities the daemon has, the host's devices, nothing masked, mounts allowed."""
    held = own_capabilities()
    script = "mount -t tmpfs x /mnt && cat /sys/fs/cgroup/devices/devices.list; ls /dev"
    devices, *nodes = shared_daemon.out(
        "run", "--rm", "--privileged", "busybox", "sh", "-c", script
    ).splitlines()

    assert capabilities(shared_daemon, "--privileged") == [0, held, held, held, 0]
    assert devices == "a *:* rwm"
    assert {path.name for path in Path("/dev").iterdir() if path.is_block_device()} <= set(nodes)
    table = shared_daemon.out("run", "--rm", "--privileged", "busybox", "cat", "/proc/mounts")
    assert [line for line in table.splitlines() if line.split()[1].startswith("/proc/")] == []


def test_privileged_less_than_all_is_told(shared_daemon: RunningDaemon) -> None:
    """Where the daemon itself lacks a capability, its log says which container does without."""
    shared_daemon.run("run", "--rm", "--privileged", "busybox", "true")
    highest = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    lacks = own_capabilities() != (1 << highest + 1) - 1

    assert ("the daemon itself lacks CAP_" in shared_daemon.log) == lacks


def test_ulimits(shared_daemon: RunningDaemon) -> None:
    """``--ulimit NAME=SOFT:HARD`` is what the program has, also in exec."""
    flags = ("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "stack=1048576")
    name = shared_daemon.out("run", "-d", *flags, "busybox", "sleep", "999")
    for limits in (
        shared_daemon.out("run", "--rm", *flags, "busybox", "cat", "/proc/self/limits"),
        shared_daemon.out("exec", name, "cat", "/proc/self/limits"),
    ):
        assert "Max open files            100                  200 " in limits
        assert "Max core file size        0                    0 " in limits
        assert "Max stack size            1048576              1048576 " in limits


@pytest.mark.parametrize(
    "limit", ["nofile", "nofile=x", "nosuch=1", "nofile=20:10", "nofile=1:2:3"]
)
def test_wrong_ulimits_are_refused(shared_daemon: RunningDaemon, limit: str) -> None:
    """A limit that makes no sense is one line and 125."""
    done = shared_daemon.run("run", "--rm", "--ulimit", limit, "busybox", "true", code=125)

    assert done.stderr.count("\n") == 1


def test_sysctls_of_own_namespaces(shared_daemon: RunningDaemon) -> None:
    """``--sysctl`` sets what belongs to the container's namespaces, invisible outside."""
    before = Path("/proc/sys/kernel/shmmax").read_text()
    flags = ("--sysctl", "net.core.somaxconn=77", "--sysctl", "kernel.shmmax=12345")
    files = ("/proc/sys/net/core/somaxconn", "/proc/sys/kernel/shmmax")

    assert shared_daemon.out("run", "--rm", *flags, "busybox", "cat", *files) == "77\n12345"
    assert Path("/proc/sys/kernel/shmmax").read_text() == before


@pytest.mark.parametrize("name", ["kernel.core_pattern", "vm.swappiness", "net/../vm/swappiness"])
def test_sysctls_of_the_host_are_refused(shared_daemon: RunningDaemon, name: str) -> None:
    """What is no namespace's own cannot be set, by whatever spelling."""
    path = Path("/proc/sys/vm/swappiness")
    before = path.read_text()
    done = shared_daemon.run("run", "--rm", "--sysctl", f"{name}=3", "busybox", "true", code=125)

    assert done.stderr.count("\n") == 1
    assert path.read_text() == before


def test_oom_score_adj(shared_daemon: RunningDaemon) -> None:
    """``--oom-score-adj`` is the program's, not the shim's."""
    shim = Path(f"/proc/{shared_daemon.shim_pid}/oom_score_adj")
    before = shim.read_text()

    assert (
        shared_daemon.out(
            "run", "--rm", "--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj"
        )
        == "500"
    )
    assert shim.read_text() == before
