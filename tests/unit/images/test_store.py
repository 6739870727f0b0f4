"""The store: names and ids, removal, collection, crashes, two daemons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aruntime.daemon import children
from aruntime.errors import (
    ImageInUse,
    ImageNotFound,
    InvalidArchive,
    InvalidParameter,
    InvalidReference,
    Unavailable,
)
from aruntime.images import store as stores
from aruntime.images.collection import Collected
from aruntime.images.image import Image
from aruntime.images.store import Store
from aruntime.images.untag import Holder
from aruntime.kernel import storage
from tests import archives
from tests.harness import wait_until

Import = Callable[..., Image]


def rootfs(text: bytes) -> bytes:
    """Return a root file system with one file."""
    return archives.tar(archives.file("file", text))


def nobody() -> list[Holder]:
    """No container."""
    return []


def blobs(store: Store) -> set[str]:
    """Names of all blobs."""
    return set(os.listdir(f"{store.base}/blobs/sha256"))


def test_names_and_ids_lead_to_an_image(store: Store, import_tar: Import) -> None:
    """By familiar and normalised name, id, short id and digest of the manifest."""
    image = import_tar(rootfs(b"1"), "me/tool:1")

    for text in (
        "me/tool:1", "docker.io/me/tool:1", image.id, image.id[7:], image.id[7:19], image.id[:15],
        image.digest,
    ):  # fmt: skip
        assert store.resolve(text) == image


def test_what_is_not_there_is_said_so(store: Store) -> None:
    """A missing image is an error that says what to do; nonsense is another."""
    with pytest.raises(ImageNotFound, match="no such image: tool:2;"):
        store.resolve("tool:2")
    with pytest.raises(ImageNotFound):
        store.resolve("abcdef")
    with pytest.raises(InvalidReference):
        store.resolve("../../etc")


def test_a_beginning_of_two_ids_is_ambiguous(store: Store, import_tar: Import) -> None:
    """It is refused rather than guessed."""
    ids: set[str] = set()
    for number in range(17):  # of 17 ids two begin alike
        ids.add((import_tar(rootfs(b"%d" % number))).id[7:8])

    ambiguous = [
        first for first in ids
        if sum(image.id.startswith(f"sha256:{first}") for image in store.list()) > 1
    ]  # fmt: skip

    with pytest.raises(InvalidParameter, match="ambiguous"):
        store.resolve(ambiguous[0])


def test_a_name_moves_to_the_newer_image(store: Store, import_tar: Import) -> None:
    """The older one stays, nameless; both are listed, newest first."""
    old = import_tar(rootfs(b"1"), "tool")
    new = import_tar(rootfs(b"2"), "tool")

    assert store.resolve("tool").id == new.id
    assert [(one.id, one.names) for one in store.list()] == [
        (new.id, ("docker.io/library/tool:latest",)),
        (old.id, ()),
    ]


def test_everything_is_there_after_a_restart(
    store: Store, import_tar: Import, reopen: Callable[[], Store]
) -> None:
    """A new daemon finds what the old one had."""
    image = import_tar(rootfs(b"1"), "tool")
    store.tag("tool", "other:1")

    found = reopen().resolve("other:1")

    assert found.id == image.id
    assert found.names == ("docker.io/library/other:1", "docker.io/library/tool:latest")
    assert found.layers == image.layers


def test_a_tag_with_a_digest_is_refused(store: Store, import_tar: Import) -> None:
    """A digest is computed, not given."""
    import_tar(rootfs(b"1"), "tool")

    with pytest.raises(InvalidReference):
        store.tag("tool", f"other@sha256:{'0' * 64}")
    with pytest.raises(ImageNotFound):
        store.tag("missing", "other")


def test_removal_and_collection_leave_nothing(
    store: Store, import_tar: Import, is_empty: Callable[[], bool]
) -> None:
    """The last name takes image, blobs and layers along."""
    image = import_tar(rootfs(b"1"), "tool")
    store.tag("tool", "other")

    first = store.remove("tool", False, nobody)
    second = store.remove("other", False, nobody)
    collected = store.collect(nobody)

    assert list(map(str, first)) == ["Untagged: tool:latest"]
    assert list(map(str, second)) == [
        "Untagged: other:latest",
        f"Deleted: {image.id}",
        f"Deleted: {image.diff_ids[0]}",
    ]
    assert collected == Collected(blobs=3, layers=1)
    assert is_empty()


def test_images_share_layers(store: Store, import_tar: Import) -> None:
    """One archive under two configurations is unpacked once and goes with the last image."""
    one = import_tar(rootfs(b"1"), "one")
    two = import_tar(rootfs(b"1"), "two", change=["USER 1"])

    assert one.id != two.id
    assert one.layers == two.layers
    removed = store.remove("one", False, nobody)
    assert store.collect(nobody).layers == 0
    assert [line.subject for line in removed] == ["one:latest", one.id]
    assert Path(two.layers[0], "file").exists()


def test_collection_spares_what_a_container_holds(store: Store, import_tar: Import) -> None:
    """rmi -f of a stopped container's image leaves the layers the container stands on."""
    image = import_tar(rootfs(b"1"), "tool")
    holder = Holder(id="c" * 64, name="web", image_id=image.id, layers=image.layers, running=False)

    with pytest.raises(ImageInUse):
        store.remove("tool", False, lambda: [holder])
    store.remove("tool", True, lambda: [holder])
    store.collect(lambda: [holder])

    assert store.list() == []
    assert Path(image.layers[0], "file").read_bytes() == b"1"
    assert store.collect(nobody) == Collected(blobs=0, layers=1)


def test_collection_spares_what_is_being_created(store: Store, import_tar: Import) -> None:
    """Between finding an image and recording a container its layers are held."""
    image = import_tar(rootfs(b"1"), "tool")
    with store.hold(image):
        store.remove("tool", False, nobody)
        store.collect(nobody)
        assert Path(image.layers[0], "file").exists()

    assert store.collect(nobody).layers == 1


def test_collection_waits_for_imports(store: Store, import_tar: Import) -> None:
    """What an import that is under way found in the store stays until it has ended."""
    import_tar(rootfs(b"1"), "tool")
    store.remove("tool", False, nobody)

    with store.ingest():
        assert store.collect(nobody) == Collected(0, 0)

    assert store.collect(nobody).layers == 1


def test_the_directories_are_closed_to_others(store: Store, import_tar: Import) -> None:
    """No host user reaches the setuid programs of an image (CVE-2021-41091)."""
    image = import_tar(rootfs(b"1"), "tool")

    def mode(path: str) -> int:
        return os.stat(path).st_mode & 0o777

    assert mode(store.base) == 0o700
    assert mode(f"{store.base}/layers") == 0o700
    assert mode(image.layers[0]) == 0o755
    listed = subprocess.run(
        ["ls", image.layers[0]], user=65534, group=65534, extra_groups=[], capture_output=True
    )
    assert listed.returncode != 0


def test_each_ingest_begins_somewhere_else_on_the_disk(store: Store) -> None:
    """What others removed lately is not in the way of what comes (ext4; others know no flag)."""
    fd = os.open(store.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        storage.set_top_directory(fd)
    except OSError:
        pytest.skip("the temporary directory is on a file system without this flag")
    finally:
        os.close(fd)
    listed = subprocess.run(
        ["lsattr", "-d", f"{store.base}/ingest"], capture_output=True, text=True, check=True
    )
    assert "T" in listed.stdout.split()[0]


def test_a_store_may_be_on_any_file_system() -> None:
    """Memory knows nothing of where on a disk things are."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        store = Store(root)
        with store.ingest() as ingest:
            assert os.path.isdir(ingest.path)
        store.close()


def test_a_second_daemon_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two daemons on one root would collect each other's work."""
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.0)

    with pytest.raises(Unavailable, match="another daemon"):
        Store(os.path.dirname(store.base))


def test_a_killed_import_leaves_a_clean_store(tmp_path: Path) -> None:
    """SIGKILL of the daemon in the middle: the next one finds nothing of it."""
    script = (
        "import os, sys, trio\n"
        "from aruntime.images.store import Store\n"
        "from aruntime.daemon.unpacking import import_image\n"
        "trio.run(import_image, Store(sys.argv[1]), os.dup(0))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        cwd=children.PACKAGES,
    ) as daemon:
        assert daemon.stdin is not None
        daemon.stdin.write(rootfs(b"x" * 100_000)[:60_000])
        daemon.stdin.flush()
        ingest = tmp_path / "images/ingest"
        wait_until(lambda: any(ingest.glob("*/unpacking/file")), what="the child unpacks")
        daemon.kill()
        daemon.wait()
        daemon.stdin.close()

    # The child sees that its daemon is gone and lets go of the lock; this waits for it.
    again = Store(str(tmp_path))
    again.close()

    assert os.listdir(ingest) == []
    assert os.listdir(f"{again.base}/layers") == []
    assert blobs(again) == set()


def test_half_moved_things_are_collected(
    store: Store, import_tar: Import, reopen: Callable[[], Store]
) -> None:
    """A kill between moving and indexing leaves orphans; they go, and do not get in the way."""
    image = import_tar(rootfs(b"1"), "tool")
    index = Path(store.base, "index.json")
    document = json.loads(index.read_text())
    document["manifests"] = []
    index.write_text(json.dumps(document))
    record = Path(f"{image.layers[0]}.json")
    record.unlink()  # the directory came, its record did not

    again = reopen()

    assert again.list() == []
    assert again.collect(nobody) == Collected(blobs=3, layers=1)
    assert os.listdir(f"{again.base}/layers") == []


def test_an_import_replaces_an_orphan_of_the_same_layer(store: Store, import_tar: Import) -> None:
    """A directory without its record is no layer; the next import of it wins."""
    orphan = Path(store.base, "layers", archives.digest(rootfs(b"1"))[7:])
    (orphan / "half").mkdir(parents=True)

    image = import_tar(rootfs(b"1"), "tool")

    assert image.layers == (str(orphan),)
    assert os.listdir(orphan) == ["file"]


def test_a_damaged_image_is_told_and_can_be_removed(
    store: Store, import_tar: Import, reopen: Callable[[], Store]
) -> None:
    """Its name says what is wrong; rmi -f takes it away; others are not affected."""
    bad = import_tar(rootfs(b"1"), "bad")
    import_tar(rootfs(b"2"), "good")
    Path(store.base, "blobs/sha256", bad.id[7:]).write_text("{}")

    again = reopen()

    assert [one.names for one in again.list()] == [("docker.io/library/good:latest",)]
    with pytest.raises(InvalidArchive, match=r"damaged.*rmi -f"):
        again.resolve("bad")
    again.remove("bad", True, nobody)
    with pytest.raises(ImageNotFound):
        again.resolve("bad")
    again.collect(nobody)
    assert len(blobs(again)) == 3


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    """It is never taken for an empty one: that would collect everything."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/index.json").write_text("{")

    with pytest.raises(Unavailable, match=r"index\.json is damaged"):
        Store(str(tmp_path))


def test_the_store_is_an_oci_layout(store: Store, import_tar: Import) -> None:
    """Whoever reads OCI layouts reads the store."""
    image = import_tar(rootfs(b"1"), "tool")

    index = json.loads(Path(store.base, "index.json").read_text())
    (entry,) = index["manifests"]
    manifest = json.loads(Path(store.base, "blobs/sha256", entry["digest"][7:]).read_text())

    assert json.loads(Path(store.base, "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": "docker.io/library/tool:latest"
    }
    assert manifest["config"]["digest"] == image.id
