"""Named volumes on disk."""

from __future__ import annotations

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aruntime.errors import Conflict, InvalidParameter, VolumeNotFound
from aruntime.rootfs import volumes


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> str:
    """Return the directory of all volumes, which does not exist yet."""
    return str(tmp_path / "volumes")


def test_create_and_get(root: str) -> None:
    """A new volume is an empty directory that everybody may enter, with labels and a date."""
    before = time.time_ns()

    made = volumes.create(root, "data", {"tier": "gold"})

    assert made == volumes.get(root, "data")
    assert (made.name, made.path, made.labels) == ("data", f"{root}/data/_data", {"tier": "gold"})
    assert before <= made.created_ns <= time.time_ns()
    assert os.listdir(made.path) == []
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(root).st_mode) & 0o066 == 0
    assert stat.S_IMODE(os.stat(f"{root}/data").st_mode) & 0o077 == 0


def test_create_twice(root: str) -> None:
    """A name is taken once; ensure returns what is there, untouched."""
    made = volumes.create(root, "data", {"a": "b"})
    Path(made.path, "file").touch()

    with pytest.raises(Conflict, match="data exists already"):
        volumes.create(root, "data")

    assert volumes.ensure(root, "data", {"other": "labels"}) == made
    assert os.listdir(made.path) == ["file"]
    assert os.listdir(root) == ["data"]


def test_ensure_makes_one_volume_for_many_threads(root: str) -> None:
    """Containers that start at the same time share the volume."""
    barrier = threading.Barrier(8)

    def ensure(_: int) -> volumes.Volume:
        barrier.wait()
        return volumes.ensure(root, "shared")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ensure, range(8)))

    assert len({volume.created_ns for volume in found}) == 1
    assert os.listdir(root) == ["shared"]


@pytest.mark.parametrize(
    "name", ["", "a", ".a", "-a", "_a", "a/b", "../x", "a b", "a\n", "ä1", "a" * 256, "..", "a\0b"]
)
def test_invalid_names(root: str, name: str) -> None:
    """A name that could be a path, or is not docker's, is refused everywhere."""
    for operation in (volumes.create, volumes.ensure, volumes.get, volumes.exists, volumes.remove):
        with pytest.raises(InvalidParameter, match="is invalid"):
            operation(root, name)


def test_unknown_volume(root: str) -> None:
    """What does not exist is not found, and listed as nothing."""
    assert not volumes.exists(root, "data")
    assert volumes.list_volumes(root) == []
    with pytest.raises(VolumeNotFound, match="no such volume: data"):
        volumes.get(root, "data")
    with pytest.raises(VolumeNotFound):
        volumes.remove(root, "data")


def test_list_is_sorted_and_leaves_strangers_out(root: str) -> None:
    """Only volumes are listed: no half-made ones, no other files."""
    for name in ("zeta", "alpha"):
        volumes.create(root, name)
    os.mkdir(f"{root}/.new-x")
    os.mkdir(f"{root}/other")
    Path(root, "file.txt").touch()

    assert [volume.name for volume in volumes.list_volumes(root)] == ["alpha", "zeta"]


def test_remove_does_not_follow_links(root: str, tmp_path: Path) -> None:
    """A volume goes with all it holds, but not what its links point at."""
    made = volumes.create(root, "data")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    Path(made.path, "link").symlink_to(outside)
    Path(made.path, "sub").mkdir()

    volumes.remove(root, "data")

    assert os.listdir(root) == []
    assert (outside / "file").exists()


def test_leftovers_are_swept(root: str) -> None:
    """What a crash left of creating or removing goes at the next start; volumes stay."""
    volumes.remove_leftovers(root)
    volumes.create(root, "data")
    os.makedirs(f"{root}/.new-abc/_data")
    os.makedirs(f"{root}/.removed-abc/_data/x")

    volumes.remove_leftovers(root)

    assert os.listdir(root) == ["data"]


@pytest.mark.parametrize("record", [None, b"", b"{]", b'{"created_ns": "x"}'])
def test_damaged_record(root: str, record: bytes | None) -> None:
    """A volume without a readable record is still there with its data."""
    made = volumes.create(root, "data", {"a": "b"})
    file = Path(root, "data", volumes.RECORD)
    file.unlink()
    if record is not None:
        file.write_bytes(record)

    found = volumes.get(root, "data")

    assert (found.path, found.labels) == (made.path, {})


def test_anonymous_names() -> None:
    """A generated name is valid, new each time, and told from a user's."""
    first, second = volumes.new_name(), volumes.new_name()

    assert first != second
    assert volumes.check_name(first) == first
    assert volumes.is_anonymous(first)
    assert not volumes.is_anonymous("data")
    assert not volumes.is_anonymous(first.upper())


def test_populate_without_layers(root: str) -> None:
    """An image without layers has nothing to copy."""
    assert not volumes.populate(volumes.create(root, "data").path, [], "/data")


def test_populate_once_for_many_threads(root: str, tmp_path: Path) -> None:
    """Two containers that start with a new volume do not copy into each other's copy."""
    layer = tmp_path / "layer"
    (layer / "data").mkdir(parents=True)
    for number in range(200):
        (layer / f"data/{number}").write_text(str(number))
    path = volumes.create(root, "data").path

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: volumes.populate(path, [str(layer)], "/data"), range(4)))

    assert sorted(results) == [False, False, False, True]
    assert len(os.listdir(path)) == 200
