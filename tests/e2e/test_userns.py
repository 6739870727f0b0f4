"""``--userns auto``: root inside is an ordinary, otherwise unused user of the host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon
from tests.terminal import Terminal

pytestmark = pytest.mark.e2e

AUTO = ("--userns", "auto")
IDS = 65536


@pytest.fixture
def mapped(shared_daemon: RunningDaemon) -> Iterator[str]:
    """Yield the name of a container with a user namespace."""
    shared_daemon.run("run", "-d", "--name", "mapped", *AUTO, "busybox", "sleep", "999")
    yield "mapped"
    shared_daemon.run("rm", "-f", "mapped")


def pid_of(daemon: RunningDaemon, name: str) -> int:
    """Return the host's pid of a container's init."""
    return int(daemon.out("inspect", "-f", "{{.State.Pid}}", name))


def first_id(daemon: RunningDaemon, name: str) -> int:
    """Return the host's id of root inside."""
    inside, outside, count = map(
        int, Path(f"/proc/{pid_of(daemon, name)}/uid_map").read_text().split()
    )
    assert (inside, count) == (0, IDS)
    return outside


def upper(daemon: RunningDaemon, name: str) -> Path:
    """Return the directory of the host that holds what a container wrote."""
    container = daemon.out("inspect", "-f", "{{.Id}}", name)
    return daemon.root / "containers" / container / "upper"


def test_root_inside_is_nobody_outside(shared_daemon: RunningDaemon, mapped: str) -> None:
    """Inside uid 0 with docker's capabilities; on the host an id that no user has."""
    pid = pid_of(shared_daemon, mapped)
    outside = first_id(shared_daemon, mapped)
    status = Path(f"/proc/{pid}/status").read_text()

    assert outside >= IDS
    assert re.search(rf"^Uid:\t{outside}\t{outside}\t", status, re.MULTILINE)
    assert re.search(rf"^Gid:\t{outside}\t{outside}\t", status, re.MULTILINE)
    assert shared_daemon.out("exec", mapped, "id", "-u") == "0"
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    assert Path(f"/proc/{pid}/setgroups").read_text() == "allow\n"


def test_two_containers_share_no_id(shared_daemon: RunningDaemon, mapped: str) -> None:
    """Each has a range of its own: one that broke out could not touch the other's files."""
    shared_daemon.run("run", "-d", "--name", "other", *AUTO, "busybox", "sleep", "999")
    one, other = first_id(shared_daemon, mapped), first_id(shared_daemon, "other")
    shared_daemon.run("rm", "-f", "other")

    assert abs(one - other) >= IDS


def test_files_belong_to_the_mapped_ids(shared_daemon: RunningDaemon, mapped: str) -> None:
    """What is written belongs to the range; the image's own files appear with their owners."""
    outside = first_id(shared_daemon, mapped)
    shared_daemon.run("exec", mapped, "sh", "-c", "touch /new; touch /other; chown 5:6 /other")
    new, other = (upper(shared_daemon, mapped) / name for name in ("new", "other"))

    assert (new.stat().st_uid, new.stat().st_gid) == (outside, outside)
    assert (other.stat().st_uid, other.stat().st_gid) == (outside + 5, outside + 6)
    assert shared_daemon.out("exec", mapped, "stat", "-c", "%u:%g", "/bin/busybox") == "0:0"
    shared_daemon.run("exec", mapped, "chown", str(IDS), "/new", code=1)


def test_ids_stay_over_a_restart(shared_daemon: RunningDaemon, mapped: str) -> None:
    """After stop and start the range is the same, so the files are still its own."""
    before = first_id(shared_daemon, mapped)
    shared_daemon.run("exec", mapped, "sh", "-c", "echo kept > /root/file")
    shared_daemon.run("stop", "-t", "0", mapped)
    shared_daemon.run("start", mapped)

    assert first_id(shared_daemon, mapped) == before
    assert shared_daemon.out("exec", mapped, "cat", "/root/file") == "kept"
    assert shared_daemon.out("exec", mapped, "stat", "-c", "%u", "/root/file") == "0"


def test_files_of_the_host_are_nobodys(shared_daemon: RunningDaemon, tmp_path: Path) -> None:
    """A bound directory of root is neither owned nor writable, whatever the capabilities."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o600)
    script = "stat -c %u /v/secret; cat /v/secret; touch /v/new; chmod 777 /v"
    done = shared_daemon.run(
        "run", "--rm", *AUTO, "--cap-add", "ALL", "-v", f"{tmp_path}:/v", "busybox", "sh", "-c",
        script, code=1,
    )  # fmt: skip

    assert done.stdout == "65534\n"
    assert done.stderr.count("denied") + done.stderr.count("not permitted") == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


PRIVILEGED_ACTS = {
    "open a device": "mknod /n b 7 0 && : < /n",
    "mount a disk": "mknod /n b 254 0; mount -t ext4 /n /mnt",
    "lift its own limit": "mount -t cgroup -o memory x /mnt; echo -1 > /mnt/memory.limit_in_bytes",
    "leave its own cgroup": "mount -t cgroup -o pids x /mnt; mkdir /mnt/new",
    "set a parameter of the host": "umount /proc/sys; echo 1 > /proc/sys/vm/swappiness",
    "set the clock": "date -s @0 2>/dev/null; [ $(date +%s) -lt 1000 ]",
    "raise priority": "nice -n -19 true && exit 1; exit 1",
    "load a module": "insmod /etc/passwd",
    "read the kernel's log": "dmesg | grep .",
    "trace the keeper of the host": "cat /proc/1/root/etc/shadow",
    "switch swap off": "swapoff -a && swapoff /dev/x",
}


@pytest.mark.parametrize("act", PRIVILEGED_ACTS)
def test_capabilities_count_for_nothing_outside(shared_daemon: RunningDaemon, act: str) -> None:
    """With every capability and no filter, what concerns the host is refused all the same."""
    flags = (*AUTO, "--cap-add", "ALL", "--security-opt", "seccomp=unconfined")
    before = Path("/proc/sys/vm/swappiness").read_text()
    done = shared_daemon.run(
        "run", "--rm", *flags, "busybox", "sh", "-c", PRIVILEGED_ACTS[act], code=None
    )

    assert done.returncode != 0
    assert Path("/proc/sys/vm/swappiness").read_text() == before


def test_capabilities_count_inside(shared_daemon: RunningDaemon) -> None:
    """The same container may mount, name its host and configure its own network."""
    script = (
        "mount -t tmpfs x /mnt && hostname new && ip address add 10.99.0.1/32 dev lo && hostname"
    )
    flags = (*AUTO, "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN")

    assert shared_daemon.out("run", "--rm", *flags, "busybox", "sh", "-c", script) == "new"


def test_terminal_network_and_limits_work_as_without(shared_daemon: RunningDaemon) -> None:
    """A pty, the bridge and the cgroup limits are no different."""
    with Terminal(
        shared_daemon, "run", "-it", "--rm", *AUTO, "-m", "64m", "busybox", "sh"
    ) as terminal:
        terminal.expect("# ")
        terminal.type("tty; cat /sys/fs/cgroup/memory/memory.limit_in_bytes\n")
        terminal.expect("/dev/pts/0")
        terminal.expect(str(64 << 20))
        terminal.type("ping -c 1 -W 5 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')\n")
        terminal.expect("1 packets received")
        terminal.type("cat /proc/sys/net/ipv6/conf/eth0/accept_ra; id -u; exit 3\n")
        terminal.expect("\n0\r\n0\r\n")
        assert terminal.wait() == 3


def test_volumes_have_the_ids_seen_inside(shared_daemon: RunningDaemon) -> None:
    """A named volume written by one range is readable as the same users by another."""
    volume = ("-v", "shared:/v")
    write = "echo 1 > /v/root; echo 2 > /v/user; chown 1000:1000 /v/user; chmod 600 /v/*"
    shared_daemon.run("run", "--rm", *AUTO, *volume, "busybox", "sh", "-c", write)

    for flags in (AUTO, ()):
        seen = shared_daemon.out(
            "run", "--rm", *flags, *volume, "-u", "1000", "busybox", "sh", "-c",
            "stat -c %u /v/root /v/user; cat /v/user; cat /v/root || echo refused",
        )  # fmt: skip
        assert seen.split() == ["0", "1000", "2", "refused"]


def test_users_of_the_image(shared_daemon: RunningDaemon, mapped: str) -> None:
    """``-u`` and exec ``-u`` mean users inside, mapped into the range."""
    outside = first_id(shared_daemon, mapped)
    shared_daemon.run("exec", "-d", "-u", "user", mapped, "sleep", "998")
    pids = shared_daemon.cgroup_file(
        "pids", "cgroup.procs", shared_daemon.out("inspect", "-f", "{{.Id}}", mapped)
    ).split()
    owners = {os.stat(f"/proc/{pid}").st_uid for pid in pids}

    assert owners == {outside, outside + 1000}


@pytest.mark.parametrize(
    "flags",
    [
        ("--privileged",),
        ("--pid", "host"),
        ("--ipc", "host"),
        ("--network", "host"),
        ("--network", "container:mapped"),
        ("--pid", "container:mapped"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    shared_daemon: RunningDaemon, mapped: str, flags: tuple[str, ...]
) -> None:
    """Namespaces of the host or of others belong to another user namespace: one line, 125."""
    done = shared_daemon.run("run", "--rm", *AUTO, *flags, "busybox", "true", code=125)

    assert "user namespace" in done.stderr
    assert done.stderr.count("\n") == 1
