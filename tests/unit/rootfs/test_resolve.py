"""Paths inside a root: what is found, what is made, what is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from aruntime.rootfs import resolve


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """Return the directory that is the root."""
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture(name="root_fd")
def _root_fd(root: Path) -> Iterator[int]:
    """Return its descriptor."""
    fd = os.open(root, os.O_PATH)
    yield fd
    os.close(fd)


def place(fd: int) -> str:
    """Return where a descriptor is, and close it."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


@pytest.mark.parametrize("path", ["/a/b", "a/b", "//a///b", "/a/../a/./b", "/../../a/b"])
def test_spellings_of_a_path(root: Path, root_fd: int, path: str) -> None:
    """Slashes and dots do not matter; dots end at the root."""
    (root / "a/b").mkdir(parents=True)

    assert place(resolve.open_in_root(root_fd, path)) == str(root / "a/b")


def test_root_itself(root: Path, root_fd: int) -> None:
    """The empty path and the slash are the root."""
    assert place(resolve.open_in_root(root_fd, "/")) == str(root)
    assert place(resolve.open_or_make(root_fd, "", directory=True)) == str(root)


def test_existing_file_is_not_touched(root: Path, root_fd: int) -> None:
    """What is there is opened as it is, whatever would have been made."""
    (root / "file").write_text("content")

    fd = resolve.open_or_make(root_fd, "/file", directory=True)

    assert place(fd) == str(root / "file")
    assert (root / "file").read_text() == "content"


@pytest.mark.parametrize("directory", [True, False])
def test_missing_parents_are_made(root: Path, root_fd: int, directory: bool) -> None:
    """Parents are directories of mode 755; the last is what was asked for."""
    fd = resolve.open_or_make(root_fd, "/a/b/../c/last", directory=directory)

    assert place(fd) == str(root / "a/c/last")
    assert (root / "a/c/last").is_dir() is directory
    assert stat.S_IMODE(os.stat(root / "a/c").st_mode) & 0o700 == 0o700
    # As in a shell, the part before the dots has to exist.
    assert (root / "a/b").is_dir()


@pytest.mark.parametrize(
    ("links", "path", "expected"),
    [
        ({"l": "/x/y"}, "/l/z", "x/y/z"),
        ({"l": "../../../x"}, "/l", "x"),
        ({"d/l": "../x"}, "/d/l/z", "x/z"),
        ({"l": "m", "m": "/x"}, "/l/z", "x/z"),
        ({"l": "/"}, "/l/z", "z"),
        ({"l": "x/../y/./z"}, "/l", "y/z"),
    ],
)
def test_links_lead_inside(
    root: Path, root_fd: int, links: dict[str, str], path: str, expected: str
) -> None:
    """Dangling links are followed as if the root were all there is, and their targets made."""
    for name, target in links.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(target)

    assert place(resolve.open_or_make(root_fd, path, directory=True)) == str(root / expected)


def test_strict_refuses_links(root: Path, root_fd: int) -> None:
    """With STRICT a link on the way is ELOOP, dangling or not, and nothing is made."""
    (root / "there").mkdir()
    (root / "good").symlink_to("there")
    (root / "dangling").symlink_to("nowhere")

    for path in ("/good", "/good/new", "/dangling", "/dangling/new"):
        with pytest.raises(OSError, match=path) as caught:
            resolve.open_or_make(root_fd, path, directory=True, resolve=resolve.STRICT)
        assert caught.value.errno == errno.ELOOP

    assert sorted(os.listdir(root)) == ["dangling", "good", "there"]
    assert os.listdir(root / "there") == []


def test_loop_of_dangling_links(root: Path, root_fd: int) -> None:
    """Links that never end are ELOOP as in the kernel."""
    (root / "a").symlink_to("missing/../b")
    (root / "b").symlink_to("missing/../a")

    with pytest.raises(OSError, match="/a") as caught:
        resolve.open_or_make(root_fd, "/a", directory=True)

    assert caught.value.errno == errno.ELOOP


def test_file_in_the_way(root: Path, root_fd: int) -> None:
    """A file where a directory is needed is ENOTDIR, with the whole path."""
    (root / "file").touch()

    with pytest.raises(NotADirectoryError) as caught:
        resolve.open_or_make(root_fd, "/file/below", directory=True)

    assert caught.value.filename == "/file/below"


def test_magic_links_are_refused(root: Path, root_fd: int) -> None:
    """Links of procfs that jump to other trees are ELOOP."""
    proc = os.open("/proc/self", os.O_PATH)

    with pytest.raises(OSError, match="root") as caught:
        resolve.open_in_root(proc, "root/etc")

    os.close(proc)
    assert caught.value.errno == errno.ELOOP


def test_parent_of_a_path(root: Path, root_fd: int) -> None:
    """The parent is made if missing; the name may be missing, or be a link."""
    (root / "link").symlink_to("/d")

    fd, name = resolve.open_parent(root_fd, "/link/sub/name/")

    assert (place(fd), name) == (str(root / "d/sub"), "name")
    assert os.listdir(root / "d/sub") == []


@pytest.mark.parametrize("path", ["/", "", "/a/..", "."])
def test_path_without_a_name(root_fd: int, path: str) -> None:
    """Some paths have no last component to make."""
    with pytest.raises(OSError, match="names no file"):
        resolve.open_parent(root_fd, path)
