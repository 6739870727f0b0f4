"""``diff`` against real overlays: what it says of a writable layer is what a look at both tells."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.images.difference import changes, mount_points_of_ours
from aruntime.kernel import mounts
from aruntime.rootfs import overlay

pytestmark = pytest.mark.kernel

State = dict[str, tuple[int, str]]


@contextmanager
def merged(base: Path, lower: list[str]) -> Iterator[Path]:
    """Mount layers with a writable one on top."""
    for name in ("upper", "work", "merged"):
        (base / name).mkdir()
    fd = overlay.mount_writable(
        lower, str(base / "upper"), str(base / "work"), str(base / "merged")
    )
    try:
        yield base / "merged"
    finally:
        os.close(fd)
        mounts.umount2(str(base / "merged"), 0)


def layers_of(base: Path) -> list[str]:
    """Make two layers; the upper one takes something of the lower one away."""
    one, two = base / "one", base / "two"
    for path in ("dir/deep", "etc", "gone", "empty", "replaced"):
        (one / path).mkdir(parents=True)
    for path in ("dir/a", "dir/deep/b", "etc/passwd", "gone/x", "top", "replaced/y"):
        (one / path).write_text(path)
    (one / "link").symlink_to("top")
    (two / "dir").mkdir(parents=True)
    (two / "dir/two").write_text("two")
    (two / "replaced").mkdir()
    os.setxattr(two / "replaced", "trusted.overlay.opaque", b"y")
    os.mknod(two / "gone", stat.S_IFCHR)
    return [str(one), str(two)]


def state(root: Path) -> State:
    """Return mode and content of everything below a directory."""
    found: State = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_text()
        found[str(path.relative_to(root))] = (status.st_mode, content)
    return found


def expected(before: State, after: State) -> dict[str, str]:
    """Return what two looks tell: A, C and D by path."""
    found = {path: "A" for path in after if path not in before}
    found |= {path: "C" for path in after if path in before and after[path] != before[path]}
    for path in before:
        parent = os.path.dirname(path)
        if path not in after and (not parent or stat.S_ISDIR(after.get(parent, (0, ""))[0])):
            found[path] = "D"
    for path in list(found):
        while path := os.path.dirname(path):
            found.setdefault(path, "C")
    return found


PATHS = st.sampled_from(
    ["dir", "dir/a", "dir/deep", "dir/deep/b", "dir/two", "dir/new", "etc/passwd", "etc", "gone",
     "gone/x", "top", "link", "empty", "empty/new", "fresh", "fresh/f", "replaced", "replaced/y"]
)  # fmt: skip
STEPS = st.tuples(st.sampled_from(["write", "mkdir", "remove", "chmod", "link"]), PATHS)


def do(root: Path, number: int, action: str, path: str) -> bool:
    """Do something to the tree if it can be done; whether it was."""
    target = root / path
    try:
        match action:
            case "write":
                target.write_text(f"written {number}")
            case "mkdir":
                target.mkdir()
            case "remove" if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            case "remove":
                target.unlink()
            case "chmod":
                target.chmod(target.lstat().st_mode ^ 0o010)
            case _:
                target.symlink_to(f"to {number}")
    except OSError:
        return False
    return True


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=8))
def test_diff_tells_what_happened(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    """Whatever was written, made, removed and made again."""
    base = tmp_path_factory.mktemp("diff")
    lower = layers_of(base)
    touched: set[str] = set()
    with merged(base, lower) as root:
        before = state(root)
        for number, (action, path) in enumerate(steps):
            if do(root, number, action, path):
                touched |= {path, *map(str, Path(path).parents)}
        after = state(root)
    found = {one.path.decode()[1:]: one.kind for one in changes(str(base / "upper"), lower, ())}
    wanted = expected(before, after)
    for kind in "AD":
        assert {path for path in found if found[path] == kind} == {
            path for path in wanted if wanted[path] == kind
        }, (steps, found, wanted)
    # What was written and put back, or made anew as it was, counts as changed all the same.
    assert {path for path in wanted if wanted[path] == "C"} <= set(found)
    assert set(found) - set(wanted) <= touched | {"top"}
    shutil.rmtree(base)


def test_mount_points_of_ours_are_no_change(tmp_path: Path) -> None:
    """Only where no layer has them, and only while nothing is in them."""
    lower = layers_of(tmp_path)
    ours = mount_points_of_ours(lower, ("etc/hosts", "etc/passwd", "proc", "gone/x"))
    assert ours == ["etc/hosts", "proc", "gone/x"]
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "proc").mkdir()
    (upper / "etc/hosts").touch()
    paths = [os.fsencode(path) for path in ours]
    assert changes(str(upper), lower, paths) == []
    (upper / "etc/hosts").write_text("own")
    (upper / "proc/file").touch()
    assert [(one.kind, one.path) for one in changes(str(upper), lower, paths)] == [
        ("C", b"/etc"), ("A", b"/etc/hosts"), ("C", b"/proc"), ("A", b"/proc/file"),
    ]  # fmt: skip


def test_ids_of_a_user_namespace_are_no_change(tmp_path: Path) -> None:
    """A directory that was only copied up has the ids of the range in the writable layer."""
    lower = layers_of(tmp_path)
    (tmp_path / "upper/dir").mkdir(parents=True)
    os.chown(tmp_path / "upper/dir", 100_000, 100_000)
    assert changes(str(tmp_path / "upper"), lower, (), (100_000, 65_536)) == []
    assert len(changes(str(tmp_path / "upper"), lower, ())) == 1
