"""Watching a tree of directories as the watch does with cgroups: nothing missed, nothing twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.kernel import inotify
from aruntime.metering.foreign.mark import begin, forget, read
from aruntime.metering.foreign.patterns import Selection, parse_all
from aruntime.metering.foreign.watch import CgroupWatch, Change

ID = "0123456789abcdef" * 4
OTHER = "f" * 64


class Tree:
    """Two hierarchies of plain directories and a watch over them."""

    def __init__(self, base: Path, patterns: str) -> None:
        self.root = base / "cpuacct"
        self.unified = base / "unified"
        self.root.mkdir()
        self.unified.mkdir()
        selection = Selection(parse_all([patterns]), excluded=["/aruntime"])
        self.watch = CgroupWatch(str(self.root), str(self.unified), selection)

    def add(self, path: str, *, unified: bool = False) -> None:
        """Make a group as an engine does: with its parents, in one tree or both."""
        for tree in (self.unified, self.root) if unified else (self.root,):
            directory = tree / path.strip("/")
            directory.mkdir(parents=True)
            for name in ("cgroup.procs", "cgroup.events"):
                (directory / name).touch()

    def remove(self, path: str) -> None:
        """Remove a group."""
        for tree in (self.root, self.unified):
            directory = tree / path.strip("/")
            if directory.exists():
                for entry in directory.iterdir():
                    if entry.is_file():
                        entry.unlink()
                directory.rmdir()

    def seen(self) -> list[tuple[str, str]]:
        """Kind and path of what has happened since."""
        return [(change.kind, change.path) for change in self.watch.read()]

    def scanned(self) -> list[tuple[str, str]]:
        """Kind and path of what a look through everything shows, in order of the paths."""
        return sorted((change.kind, change.path) for change in self.watch.scan())


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Yield a tree whose containers of docker and jobs below /batch are metered."""
    made = Tree(tmp_path, "/docker,/batch/*,/kubepods")
    yield made
    made.watch.close()
    made.watch.close()


def test_what_was_there_is_found(tree: Tree) -> None:
    """The first look finds all groups that fit, and not their neighbours."""
    tree.add(f"/docker/{ID}")
    tree.add(f"/docker/nested/{OTHER}")
    tree.add("/batch/a")
    tree.add("/other/b")
    tree.add(f"/aruntime/{ID}")
    assert tree.scanned() == [
        ("found", "/batch/a"),
        ("found", f"/docker/{ID}"),
        ("found", f"/docker/nested/{OTHER}"),
    ]
    assert tree.seen() == []


def test_a_parent_that_did_not_exist_yet(tree: Tree) -> None:
    """Groups below parents that are made later, several levels at once, are noticed."""
    assert tree.scanned() == []
    tree.add(f"/kubepods/burstable/pod1/{ID}")
    assert tree.seen() == [("appeared", f"/kubepods/burstable/pod1/{ID}")]
    tree.remove(f"/kubepods/burstable/pod1/{ID}")
    assert tree.seen() == [("vanished", f"/kubepods/burstable/pod1/{ID}")]
    tree.remove("/kubepods/burstable/pod1")
    tree.remove("/kubepods/burstable")
    tree.remove("/kubepods")
    assert tree.seen() == []
    tree.add(f"/kubepods/{ID}")
    assert tree.seen() == [("appeared", f"/kubepods/{ID}")]


def test_gone_before_it_could_be_looked_at(tree: Tree) -> None:
    """Made and removed between two looks: said so, once."""
    (tree.root / "batch").mkdir()
    tree.scanned()
    tree.add("/batch/short")
    tree.remove("/batch/short")
    assert tree.seen() == [("missed", "/batch/short")]
    assert tree.seen() == []


def test_made_again_under_the_same_name(tree: Tree) -> None:
    """Another inode is another group; events of the first do not end the second."""
    (tree.root / "batch").mkdir()
    tree.scanned()
    tree.add("/batch/a")
    tree.remove("/batch/a")
    tree.add("/batch/a")
    assert tree.seen() == [("appeared", "/batch/a")]
    # An open directory keeps its inode number, which this file system may use again.
    held = os.open(tree.root / "batch/a", os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree.remove("/batch/a")
        tree.add("/batch/a")
        assert tree.seen() == [("vanished", "/batch/a"), ("appeared", "/batch/a")]
    finally:
        os.close(held)


def test_processes_that_enter_are_told(tree: Tree) -> None:
    """A write to cgroup.procs and a change of cgroup.events touch the group, others do not."""
    tree.add(f"/docker/{ID}", unified=True)
    tree.scanned()
    (tree.root / "docker" / ID / "cgroup.procs").write_text("1")
    assert set(tree.seen()) == {("touched", f"/docker/{ID}")}
    (tree.unified / "docker" / ID / "cgroup.events").write_text("populated 0")
    assert set(tree.seen()) == {("touched", f"/docker/{ID}")}
    (tree.root / "docker" / ID / "cpu.shares").write_text("2")
    assert tree.seen() == []


def test_a_directory_in_the_cgroup2_tree_that_came_later(tree: Tree) -> None:
    """Engines make the trees' directories one after the other."""
    tree.add(f"/docker/{ID}")
    tree.scanned()
    (tree.unified / "docker" / ID).mkdir(parents=True)
    events = tree.unified / "docker" / ID / "cgroup.events"
    events.write_text("populated 0")
    assert tree.seen() == []
    tree.watch.watch_again(f"/docker/{ID}")
    events.write_text("populated 1")
    assert set(tree.seen()) == {("touched", f"/docker/{ID}")}


def test_renamed_groups(tree: Tree) -> None:
    """A rename ends the old name; what comes from elsewhere brings its counters along."""
    tree.add("/batch/a")
    tree.scanned()
    (tree.root / "batch/a").rename(tree.root / "batch/b")
    assert tree.seen() == [("vanished", "/batch/a"), ("renamed", "/batch/b")]
    (tree.root / "batch").rename(tree.root / "elsewhere")
    assert tree.seen() == [("vanished", "/batch/b")]
    tree.add("/elsewhere/c")
    assert tree.seen() == []
    (tree.root / "elsewhere").rename(tree.root / "batch")
    assert sorted(tree.seen()) == [("renamed", "/batch/b"), ("renamed", "/batch/c")]


def test_overflow_looks_again(tree: Tree) -> None:
    """When the kernel's queue overflows nothing stays unseen and nothing comes twice."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    tree.add("/batch/old")
    tree.add("/batch/stays")
    tree.scanned()
    procs = [tree.root / "batch/stays/cgroup.procs", tree.root / "batch/stays/cgroup.events"]
    fds = [os.open(path, os.O_WRONLY) for path in procs]
    for _ in range(limit // 2 + 1):  # equal events in a row are merged
        for fd in fds:
            os.pwrite(fd, b"1", 0)
    tree.remove("/batch/old")
    tree.add("/batch/new")
    for fd in fds:
        os.close(fd)
    seen = [each for each in tree.seen() if each[0] != "touched"]
    assert sorted(seen) == [("appeared", "/batch/new"), ("vanished", "/batch/old")]
    tree.add("/batch/later")
    assert tree.seen() == [("appeared", "/batch/later")]


def test_ends_when_the_root_is_gone(tmp_path: Path) -> None:
    """A hierarchy that is not there has no groups."""
    watch = CgroupWatch(str(tmp_path / "absent"), None, Selection(parse_all(["/docker"])))
    assert watch.scan() == []
    watch.close()


def test_watches_do_not_pile_up(tree: Tree) -> None:
    """Each group that goes takes its watches along."""

    def count() -> int:
        return Path(f"/proc/self/fdinfo/{tree.watch.fd}").read_text().count("inotify wd")

    (tree.root / "batch").mkdir()
    tree.scanned()
    before = count()
    for number in range(20):
        tree.add(f"/batch/{number}", unified=True)
        assert tree.seen() == [("appeared", f"/batch/{number}")]
        tree.remove(f"/batch/{number}")
        assert ("vanished", f"/batch/{number}") in tree.seen()
    tree.seen()
    assert count() == before


steps = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "look"]), st.integers(0, 3)), max_size=40
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(steps)
def test_any_history_ends_with_the_truth(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
) -> None:
    """After any interleaving the groups that appeared and did not vanish are those that exist."""
    tree = Tree(tmp_path_factory.mktemp("history"), "/batch/*")
    try:
        there: dict[str, int] = {}

        def take(changes: list[Change]) -> None:
            for change in changes:
                if change.kind in ("appeared", "found"):
                    assert change.path not in there
                    there[change.path] = change.inode
                elif change.kind == "vanished":
                    assert there.pop(change.path) == change.inode

        take(tree.watch.scan())
        for action, number in history:
            path = f"/batch/{number}"
            exists = (tree.root / path.strip("/")).exists()
            if action == "add" and not exists:
                tree.add(path)
            elif action == "remove" and exists:
                tree.remove(path)
            elif action == "look":
                take(tree.watch.read())
        take(tree.watch.read())
        batch = tree.root / "batch"
        names = [each.name for each in batch.iterdir()] if batch.exists() else []
        assert there.keys() == {f"/batch/{name}" for name in names}
    finally:
        tree.watch.close()


def test_marks_tell_old_groups_from_new_ones(tmp_path: Path) -> None:
    """A pattern's mark is set once, outlives the daemon, and goes with the pattern or the boot."""
    path = str(tmp_path / "marks")
    first = begin(path, "boot", ["/a", "/b"], 100)
    assert first.is_older(100, ["/a"])
    assert not first.is_older(101, ["/a"])
    second = begin(path, "boot", ["/b", "/c"], 200)
    assert not second.is_older(150, ["/b"])
    assert second.is_older(150, ["/c"])
    assert not second.is_older(150, ["/b", "/c"])
    assert begin(path, "boot", ["/a"], 300).is_older(150, ["/a"])
    assert begin(path, "next", ["/a"], 50).is_older(50, ["/a"])
    forget(path)
    forget(path)
    assert read(path, "next") == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"boot_id": "boot", "highest": {"/a": "x"}}'])
def test_damaged_marks_are_none(tmp_path: Path, content: bytes) -> None:
    """Then everything that is there counts as older, and nothing is billed twice."""
    path = tmp_path / "marks"
    path.write_bytes(content)
    assert begin(str(path), "boot", ["/a"], 10).is_older(10, ["/a"])


def test_inotify_errors_name_their_path(tmp_path: Path) -> None:
    """What cannot be watched is named; an unknown watch cannot be ended."""
    fd = inotify.inotify_init()
    try:
        with pytest.raises(FileNotFoundError) as caught:
            inotify.add_watch(fd, str(tmp_path / "absent"), inotify.IN_CREATE)
        assert caught.value.filename == str(tmp_path / "absent")
        with pytest.raises(OSError, match="Invalid argument"):
            inotify.rm_watch(fd, 77)
        assert inotify.read_events(fd) == []
    finally:
        os.close(fd)
