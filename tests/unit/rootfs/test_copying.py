"""Copying a tree, as far as an ordinary user can see."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from aruntime.rootfs import copying


def copy(source: Path, destination: Path) -> None:
    """Copy one directory into another."""
    destination.mkdir()
    fds = [os.open(path, copying.OPEN_DIRECTORY) for path in (source, destination)]
    try:
        copying.copy_tree(*fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_tree(tmp_path: Path) -> None:
    """Files, directories and links arrive with mode and times; links are not followed."""
    source, destination = tmp_path / "a", tmp_path / "b"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("text")
    (source / "sub/file").chmod(0o640)
    (source / "link").symlink_to("/etc/passwd")
    (source / "sub").chmod(0o700)
    os.utime(source / "sub", ns=(10**18, 10**18 + 1))

    copy(source, destination)

    assert os.readlink(destination / "link") == "/etc/passwd"
    assert (destination / "sub/file").read_text() == "text"
    assert os.stat(destination / "sub/file").st_mode & 0o7777 == 0o640
    assert os.stat(destination / "sub").st_mtime_ns == 10**18 + 1


def test_hard_links_across_directories(tmp_path: Path) -> None:
    """Names of one file stay names of one file, links included."""
    source, destination = tmp_path / "a", tmp_path / "b"
    (source / "x/y").mkdir(parents=True)
    (source / "x/y/one").write_text("text")
    os.link(source / "x/y/one", source / "two")
    (source / "three").symlink_to("nowhere")
    os.link(source / "three", source / "x/four", follow_symlinks=False)

    copy(source, destination)

    assert os.stat(destination / "two").st_nlink == 2
    assert os.path.samefile(destination / "two", destination / "x/y/one")
    assert os.lstat(destination / "three").st_ino == os.lstat(destination / "x/four").st_ino


@pytest.mark.parametrize("layout", ["", "hole", "data", "hole data", "data hole", "data hole data"])
def test_holes(tmp_path: Path, layout: str) -> None:
    """Content is the same and holes take no space, wherever they lie."""
    source, destination = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    size = 1 << 20
    with open(source / "file", "wb") as file:
        for part in layout.split():
            if part == "data":
                file.write(os.urandom(size))
            else:
                file.seek(size, os.SEEK_CUR)
        file.truncate(file.tell())

    copy(source, destination)

    assert (destination / "file").read_bytes() == (source / "file").read_bytes()
    used = os.stat(destination / "file").st_blocks * 512
    assert used <= layout.count("data") * size + (64 << 10)


def test_copy_between_file_systems(tmp_path: Path) -> None:
    """Where the kernel cannot copy by itself (procfs to disk) plain reads and writes do."""
    fd = os.memfd_create("source")
    os.write(fd, b"x" * 100_000)
    target = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)

    copying.copy_content(fd, target)

    os.close(fd)
    os.close(target)
    assert (tmp_path / "file").read_bytes() == b"x" * 100_000


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Names are bytes."""
    source, destination = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    (Path(os.fsdecode(os.fsencode(source) + b"/\xff\xfe"))).write_text("x")

    copy(source, destination)

    assert os.listdir(os.fsencode(destination)) == [b"\xff\xfe"]


def test_depth_is_bounded(tmp_path: Path) -> None:
    """A tree nested without end is an error, not a crash; descriptors are closed."""
    source, destination = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    deep = "/".join(["d"] * (copying.MAX_DEPTH + 1))
    subprocess.run(["mkdir", "-p", deep], cwd=source, check=True)

    with pytest.raises(OSError, match="nested deeper") as caught:
        copy(source, destination)

    assert caught.value.errno == errno.ELOOP


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """The destination belongs to the copy alone; what is there is an error."""
    source, destination = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    destination.mkdir()
    (source / "file").write_text("new")
    (destination / "file").symlink_to(tmp_path / "victim")
    fds = [os.open(path, copying.OPEN_DIRECTORY) for path in (source, destination)]

    with pytest.raises(FileExistsError):
        copying.copy_tree(*fds)

    for fd in fds:
        os.close(fd)
    assert not (tmp_path / "victim").exists()
