"""mountinfo, openat2 and what needs no privilege."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from aruntime.kernel import mounts

# proc_pid_mountinfo(5), with two optional fields, none, and escaped characters
LINES = (
    rb"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue",
    rb"40 36 0:42 / /a\040b\134c\011d ro - tmpfs none rw,size=4k",
)


def test_mountinfo_line() -> None:
    """Every field of a line is found, however many optional fields stand before the dash."""
    info = mounts.MountInfo(LINES[0])

    assert (info.mount_id, info.parent_id, info.device) == (36, 35, os.makedev(98, 0))
    assert (info.root, info.mount_point, info.options) == ("/mnt1", "/mnt2", ["rw", "noatime"])
    assert info.propagation == ["master:1", "shared:7"]
    assert (info.fstype, info.source) == ("ext3", "/dev/root")
    assert info.super_options == ["rw", "errors=continue"]


def test_mountinfo_escapes() -> None:
    """Blanks, tabs and backslashes of a mount point are what they were."""
    info = mounts.MountInfo(LINES[1])

    assert info.mount_point == "/a b\\c\td"
    assert info.propagation == []


def test_mountinfo_of_this_process() -> None:
    """The real file parses whole; its root mount is there."""
    assert any(info.mount_point == "/" for info in mounts.mountinfo())


def test_mountinfo_from_another_file(tmp_path: Path) -> None:
    """The file is an argument: that of another process, or of a test."""
    file = tmp_path / "mountinfo"
    file.write_bytes(b"\n".join(LINES) + b"\n")

    found = mounts.mountinfo(str(file))

    assert [info.mount_id for info in found] == [36, 40]


def test_openat2_in_root(tmp_path: Path) -> None:
    """With RESOLVE_IN_ROOT an absolute link leads to a place below the descriptor."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("inside")
    (tmp_path / "link").symlink_to("/etc/passwd")
    root = os.open(tmp_path, os.O_PATH)

    fd = mounts.openat2(root, "link", os.O_RDONLY, 0, mounts.RESOLVE_IN_ROOT)

    assert os.read(fd, 10) == b"inside"
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(root)


def test_openat2_no_symlinks(tmp_path: Path) -> None:
    """With RESOLVE_NO_SYMLINKS any link is ELOOP."""
    (tmp_path / "link").symlink_to("/etc")

    with pytest.raises(OSError, match="symbolic") as caught:
        mounts.openat2(
            mounts.AT_FDCWD, str(tmp_path / "link"), os.O_PATH, 0, mounts.RESOLVE_NO_SYMLINKS
        )

    assert caught.value.errno == errno.ELOOP


def test_fstatfs_type_of_proc() -> None:
    """A procfs is known by its magic number, which nothing else can have."""
    fd = os.open("/proc/self", os.O_PATH)

    kind = mounts.fstatfs_type(fd)

    os.close(fd)
    assert kind == mounts.PROC_SUPER_MAGIC
