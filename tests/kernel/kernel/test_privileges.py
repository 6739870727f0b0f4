"""Capabilities, seccomp, namespaces and id maps."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

Isolated = Callable[..., str]


def test_dropping_capabilities(isolated: Isolated) -> None:
    """Bounding, permitted and ambient sets end as asked, as /proc shows."""
    output = isolated("""
        keep = 1 << capabilities.NUMBERS["CAP_CHOWN"] | 1 << capabilities.NUMBERS["CAP_KILL"]
        capabilities.drop_bounding(keep)
        capabilities.capset(keep, keep, keep)
        capabilities.set_ambient(1 << capabilities.NUMBERS["CAP_KILL"])
        print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")))
        assert capabilities.bounding() == keep
        try:
            os.mknod("/tmp/aruntime-never", 0o020666, os.makedev(1, 3))
        except PermissionError:
            print("no mknod")
        try:
            capabilities.capset(1 << 21, keep, keep)
        except PermissionError:
            print("no way back")
        try:
            capabilities.set_ambient(1 << 21)
        except PermissionError:
            print("no ambient")
    """)

    sets, *refusals = output.splitlines()
    keep = "0000000000000021"
    assert sets == f"{keep} {keep} {keep} {keep} 0000000000000020"
    assert refusals == ["no mknod", "no way back", "no ambient"]


def test_capset_keeps_high_and_low_words_apart(isolated: Isolated) -> None:
    """A capability above 31 (CAP_BPF) lands in the second word of each set."""
    output = isolated("""
        mask = 1 << capabilities.NUMBERS["CAP_BPF"] | 1
        capabilities.capset(mask, mask, 0)
        print(capabilities.capget() == (mask, mask, 0))
    """)

    assert output == "True\n"


def test_seccomp_filter(isolated: Isolated) -> None:
    """A loaded filter decides about system calls: one that allows all but uname(2)."""
    # if syscall number == SYS_uname: errno EPERM (63 on x86_64, 160 elsewhere); else allow
    program = """
        import struct
        number = 63 if os.uname().machine == "x86_64" else 160
        process.set_no_new_privs()
        instructions = (
            (0x20, 0, 0, 0),            # A = nr
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x00050001),   # SECCOMP_RET_ERRNO | EPERM
            (0x06, 0, 0, 0x7FFF0000),   # SECCOMP_RET_ALLOW
        )
        seccomp.load_filter(b"".join(struct.pack("=HBBI", *one) for one in instructions))
        print(process.prctl(process.PR_GET_SECCOMP), os.getpid() > 0)
        try:
            os.uname()
        except PermissionError:
            print("uname refused")
    """
    assert isolated(program) == "2 True\nuname refused\n"


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("=HBBI", 0xFFFF, 0, 0, 0)])
def test_malformed_seccomp_filter(isolated: Isolated, content: bytes) -> None:
    """What is no filter is an OSError, and nothing is loaded."""
    output = isolated(
        """
        process.set_no_new_privs()
        try:
            seccomp.load_filter(bytes.fromhex(sys.argv[1]))
        except OSError as error:
            print(error.errno, process.prctl(process.PR_GET_SECCOMP))
        """,
        content.hex(),
    )

    assert output == "22 0\n"


def test_user_namespace_with_maps(isolated: Isolated) -> None:
    """A clone into a user namespace is root inside with the ids its maps give it."""
    output = isolated("""
        read_fd, write_fd = os.pipe()
        pid, pidfd = namespaces.clone3(namespaces.CLONE_NEWUSER)
        if pid == 0:
            os.read(read_fd, 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            print(open("/proc/self/uid_map").read().split(), os.getuid(), flush=True)
            os._exit(0)
        namespaces.write_uid_map(pid, [(0, 300000, 1000), (5000, 400000, 1)])
        namespaces.write_gid_map(pid, [[0, 300000, 1000]])
        try:
            namespaces.write_gid_map(pid, [[0, 300000, 1000]])
        except OSError as error:
            print(error.filename == f"/proc/{pid}/gid_map", error.strerror, flush=True)
        os.write(write_fd, b"x")
        os.waitpid(pid, 0)
    """)

    assert output.splitlines() == [
        "True Operation not permitted",
        "['0', '300000', '1000', '5000', '400000', '1'] 0",
    ]


def test_setns_by_pidfd(isolated: Isolated) -> None:
    """Several namespaces of a process are joined by one descriptor of the process."""
    output = isolated("""
        read_fd, write_fd = os.pipe()
        flags = namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC
        pid, pidfd = namespaces.clone3(flags)
        if pid == 0:
            process.sethostname("joined")
            os.write(write_fd, b"x")
            import time
            while True:
                time.sleep(60)
        os.read(read_fd, 1)
        namespaces.setns(pidfd, flags)
        print(os.uname().nodename)
        print(os.stat("/proc/self/ns/ipc").st_ino == os.stat(f"/proc/{pid}/ns/ipc").st_ino)
        process.pidfd_send_signal(pidfd, process.SIGKILL)
        os.waitpid(pid, 0)
    """)

    assert output == "joined\nTrue\n"


def test_mounts_by_descriptor(isolated: Isolated, tmp_path: Path) -> None:
    """A file system is configured, mounted and attached; bad parameters are explained."""
    output = isolated(
        """
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        target = sys.argv[1]
        context = mounts.fsopen("tmpfs")
        mounts.fsconfig_string(context, "size", "64k")
        mounts.fsconfig_flag(context, "ro")
        mounts.fsconfig_create(context)
        fd = mounts.fsmount(context, attr_flags=mounts.MOUNT_ATTR_NOSUID)
        mounts.move_mount(fd, "", mounts.AT_FDCWD, target)
        found = [info for info in mounts.mountinfo() if info.mount_point == target][0]
        print(found.fstype, "nosuid" in found.options, found.super_options)
        copy = mounts.open_tree(mounts.AT_FDCWD, target, mounts.OPEN_TREE_CLONE)
        mounts.mount_setattr(copy, attr_set=mounts.MOUNT_ATTR_RDONLY)
        mounts.move_mount(copy, "", fd, "")
        print(["ro" in info.options for info in mounts.mountinfo() if info.mount_point == target])
        print(mounts.fstatfs_type(copy) == mounts.TMPFS_MAGIC)
        bad = mounts.fsopen("tmpfs")
        try:
            mounts.fsconfig_string(bad, "colour", "red")
        except OSError as error:
            print(error.errno, mounts.fsopen_log(bad))
        try:
            mounts.fsopen("no-such-fs")
        except OSError as error:
            print(error.strerror, error.filename)
    """,
        str(tmp_path),
    )

    assert output.splitlines() == [
        "tmpfs True ['ro', 'size=64k']",
        "[False, True]",
        "True",
        "22 tmpfs: Unknown parameter 'colour'",
        "No such device no-such-fs",
    ]


def test_pivot_root(isolated: Isolated, tmp_path: Path) -> None:
    """pivot_root with the same directory twice stacks the old root, ready to be let go."""
    output = isolated(
        """
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        root = sys.argv[1]
        mounts.mount("tmpfs", root, "tmpfs")
        open(root + "/here", "w").close()
        os.chdir(root)
        mounts.pivot_root(".", ".")
        mounts.umount2(".", mounts.MNT_DETACH)
        os.chdir("/")
        os.write(1, repr(os.listdir("/")).encode())
    """,
        str(tmp_path),
    )

    assert output == "['here']"
