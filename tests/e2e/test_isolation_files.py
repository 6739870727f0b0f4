"""The file tree of a container: /proc, /sys, /dev as the OCI lists them, masks, volumes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e

DEFAULT_MOUNTS = {
    "/proc": ("proc", {"nosuid", "nodev", "noexec"}),
    "/dev": ("tmpfs", {"nosuid", "mode=755", "size=65536k"}),
    "/dev/pts": ("devpts", {"nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"}),
    "/dev/shm": ("tmpfs", {"nosuid", "nodev", "noexec", "size=65536k"}),
    "/dev/mqueue": ("mqueue", {"nosuid", "nodev", "noexec"}),
    "/sys": ("sysfs", {"ro", "nosuid", "nodev", "noexec"}),
    "/sys/fs/cgroup": ("tmpfs", {"ro", "nosuid", "nodev", "noexec"}),
}
"""config-linux.md, Default Filesystems, with docker's options."""

DEFAULT_DEVICES = {
    "/dev/null": "1:3",
    "/dev/zero": "1:5",
    "/dev/full": "1:7",
    "/dev/random": "1:8",
    "/dev/urandom": "1:9",
    "/dev/tty": "5:0",
}
LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
}

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def mount_table(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return mount point to type and options, from /proc/mounts; the last mount counts."""
    rows = [line.split() for line in text.splitlines()]
    return {row[1]: (row[2], set(row[3].split(","))) for row in rows}


def test_default_file_systems(shared_daemon: RunningDaemon) -> None:
    """What the runtime specification lists is mounted, with docker's options."""
    table = mount_table(shared_daemon.out("run", "--rm", "busybox", "cat", "/proc/mounts"))

    for place, (kind, options) in DEFAULT_MOUNTS.items():
        assert table[place][0] == kind
        assert table[place][1] >= options, place
    assert table["/"][0] == "overlay"


def test_default_devices_and_links(shared_daemon: RunningDaemon) -> None:
    """The specification's nodes and links, and no other node."""
    script = (
        "for d in $(find /dev -type c -o -type b); do"
        " echo $d $(stat -c '%t:%T:%a:%u:%g' $d); done;"
        f"for l in {' '.join(LINKS)}; do readlink $l; done"
    )
    lines = shared_daemon.out("run", "--rm", "busybox", "sh", "-c", script).splitlines()
    nodes = dict(line.split() for line in lines[: -len(LINKS)])

    assert nodes.pop("/dev/pts/ptmx", "5:2:666:0:0") == "5:2:666:0:0"
    assert nodes == {path: f"{number}:666:0:0" for path, number in DEFAULT_DEVICES.items()}
    assert lines[-len(LINKS) :] == list(LINKS.values())


def test_the_terminal_is_the_console(shared_daemon: RunningDaemon) -> None:
    """With a terminal /dev/console is its own pty, of the container's own devpts."""
    name = shared_daemon.out("run", "-d", "-t", "busybox", "sleep", "999")
    seen = shared_daemon.out(
        "exec", name, "sh", "-c", "stat -c '%t:%T' /dev/console /dev/pts/0; readlink /proc/1/fd/0"
    )

    assert seen.split() == ["88:0", "88:0", "/dev/pts/0"]
    shared_daemon.run("rm", "-f", name)


def test_masked_paths(shared_daemon: RunningDaemon) -> None:
    """A masked file reads empty, a masked directory is empty; neither can be written."""
    script = f"for p in {' '.join(MASKED)}; do [ -e $p ] && echo $p; done"
    present = shared_daemon.out(
        "run", "--rm", "--privileged", "busybox", "sh", "-c", script
    ).split()
    assert present  # this kernel has some of them
    look = "; ".join(
        f"echo {path} $(cat {path} 2>/dev/null | wc -c) $(ls -A {path})" for path in present
    )
    for line in shared_daemon.out("run", "--rm", "busybox", "sh", "-c", look).splitlines():
        path, size, *entries = line.split()
        assert size == "0", path
        assert entries in ([], [path]), path
    for path in present:
        if Path(path).is_dir():
            shared_daemon.run("run", "--rm", "busybox", "touch", f"{path}/new", code=1)


def test_read_only_paths(shared_daemon: RunningDaemon) -> None:
    """What lets a container speak to the kernel is read-only."""
    table = mount_table(shared_daemon.out("run", "--rm", "busybox", "cat", "/proc/mounts"))
    present = [path for path in READ_ONLY if Path(path).exists()]
    assert present
    for path in present:
        assert "ro" in table[path][1], path
    refused = shared_daemon.run(
        "run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/domainname", code=1
    )
    assert "Read-only file system" in refused.stderr
    refused = shared_daemon.run(
        "run", "--rm", "busybox", "sh", "-c", "echo > /sys/kernel/x", code=1
    )
    assert "Read-only" in refused.stderr or "nonexistent" in refused.stderr


def test_masks_cannot_be_taken_off(debian_daemon: RunningDaemon) -> None:
    """Without CAP_SYS_ADMIN nothing can be unmounted or made writable again."""
    for command in (
        ["umount", "/proc/sys"],
        ["umount", "/sys/firmware"],
        ["mount", "-o", "remount,rw", "/sys"],
        ["mount", "-o", "remount,bind,rw", "/proc/sys"],
    ):
        done = debian_daemon.run("run", "--rm", "debian", *command, code=None)
        assert done.returncode != 0
        assert re.search("permission denied|not permitted|must be superuser", done.stderr)


def test_systempaths_unconfined(shared_daemon: RunningDaemon) -> None:
    """``--security-opt systempaths=unconfined`` leaves /proc as it is."""
    flags = ("--security-opt", "systempaths=unconfined")
    table = mount_table(shared_daemon.out("run", "--rm", *flags, "busybox", "cat", "/proc/mounts"))

    assert [place for place in table if place.startswith("/proc/")] == []


def openable_device() -> tuple[str, str]:
    """Return a device of the host that is none of a container's, and its numbers for mknod."""
    for path in ("/dev/fuse", "/dev/net/tun", "/dev/loop0", "/dev/zram0", "/dev/kmsg"):
        if Path(path).exists():
            number = Path(path).stat().st_rdev
            kind = "b" if Path(path).is_block_device() else "c"
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                continue
            return path, f"{kind} {os.major(number)} {os.minor(number)}"
    pytest.skip("no device to try on this host")


def test_only_listed_devices_can_be_used(shared_daemon: RunningDaemon) -> None:
    """A node made with CAP_MKNOD is of no use: the device cgroup refuses to open it."""
    path, numbers = openable_device()
    make = f"mknod /node {numbers} && : < /node"
    refused = shared_daemon.run("run", "--rm", "busybox", "sh", "-c", make, code=1)
    assert "can't open /node: Operation not permitted" in refused.stderr
    shared_daemon.run("run", "--rm", "--device", path, "busybox", "sh", "-c", f": < {path}")
    kind, major, minor = numbers.split()
    rule = ("--device-cgroup-rule", f"{kind} {major}:{minor} r")
    shared_daemon.run("run", "--rm", *rule, "busybox", "sh", "-c", make)
    refused = shared_daemon.run(
        "run", "--rm", *rule, "busybox", "sh", "-c", f"mknod /node {numbers} && : > /node", code=1
    )
    assert "Operation not permitted" in refused.stderr


def test_read_only_root_and_what_stays_writable(shared_daemon: RunningDaemon) -> None:
    """``--read-only``: /, /etc/hosts and what is below are, /dev/shm and ``--tmpfs`` are not."""
    script = (
        "for p in /new /etc/new /root/new /etc/hosts /dev/shm/new /run/new; do"
        " (echo x > $p) 2>/dev/null && echo $p; done; true"
    )
    seen = shared_daemon.out(
        "run", "--rm", "--read-only", "--tmpfs", "/run", "busybox", "sh", "-c", script
    )
    assert seen.split() == ["/dev/shm/new", "/run/new"]


def test_tmpfs_options(shared_daemon: RunningDaemon) -> None:
    """``--tmpfs PATH:OPTIONS``: docker's defaults, and the user's own over them."""
    flags = ("--tmpfs", "/a", "--tmpfs", "/b:size=1m,mode=700,exec,uid=7")
    text = shared_daemon.out("run", "--rm", *flags, "busybox", "cat", "/proc/mounts")
    table = mount_table(text)
    assert table["/a"][1] >= {"rw", "nosuid", "nodev", "noexec"}
    assert table["/b"][1] >= {"rw", "nosuid", "nodev", "size=1024k", "mode=700", "uid=7"}
    assert "noexec" not in table["/b"][1]


@pytest.fixture
def shared_mount(tmp_path: Path) -> Iterator[Path]:
    """Yield a mount point of the host that passes mounts on, with a directory sub."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "aruntime-test", str(place)], check=True)
    subprocess.run(["mount", "--make-shared", str(place)], check=True)
    (place / "sub").mkdir()
    yield place
    subprocess.run(["umount", "-R", str(place)], check=True)


@pytest.mark.parametrize(
    ("propagation", "inwards", "outwards"),
    [("", False, False), (":rslave", True, False), (":rshared", True, True)],
)
def test_propagation(
    shared_daemon: RunningDaemon,
    shared_mount: Path,
    propagation: str,
    inwards: bool,
    outwards: bool,
) -> None:
    """Mounts made later on one side appear on the other as asked: by default on neither."""
    name = "propagator"
    flags = ("--privileged", "-v", f"{shared_mount}:/v{propagation}")
    shared_daemon.run("run", "-d", "--name", name, *flags, "busybox", "sleep", "999")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "x", str(shared_mount / "sub")], check=True)
        (shared_mount / "sub/host").touch()
        assert shared_daemon.out("exec", name, "ls", "/v/sub") == ("host" if inwards else "")
        subprocess.run(["umount", str(shared_mount / "sub")], check=True)
        shared_daemon.run("exec", name, "mount", "-t", "tmpfs", "x", "/v/sub")
        shared_daemon.run("exec", name, "touch", "/v/sub/container")
        found = [entry.name for entry in (shared_mount / "sub").iterdir()]
        assert found == (["container"] if outwards else [])
    finally:
        shared_daemon.run("rm", "-f", name)


def test_read_only_holds_for_mounts_below(shared_daemon: RunningDaemon, shared_mount: Path) -> None:
    """``:ro`` of a tree with another mount in it is read-only all the way down."""
    subprocess.run(["mount", "-t", "tmpfs", "x", str(shared_mount / "sub")], check=True)
    bind = f"{shared_mount}:/v:ro"
    for path in ("/v/new", "/v/sub/new"):
        done = shared_daemon.run("run", "--rm", "-v", bind, "busybox", "touch", path, code=1)
        assert "Read-only file system" in done.stderr


def test_layers_are_never_written(shared_daemon: RunningDaemon) -> None:
    """What a container changes or deletes is unchanged for the next one of the same image."""
    script = "echo changed > /etc/passwd; rm /etc/group; rm -r /bin; :"
    shared_daemon.run("run", "--rm", "busybox", "sh", "-c", script)

    assert shared_daemon.out("run", "--rm", "busybox", "head", "-n1", "/etc/passwd") == (
        "root:x:0:0:root:/root:/bin/sh"
    )
    assert shared_daemon.out("run", "--rm", "busybox", "ls", "/etc/group") == "/etc/group"
