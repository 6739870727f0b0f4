"""save: what goes into an archive, and that it comes back as it was."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable

import pytest

from aruntime.daemon.unpacking import Loaded
from aruntime.errors import ImageNotFound, InvalidArchive
from aruntime.images import layout
from aruntime.images.image import Image
from aruntime.images.saving import DOCKER_ARCHIVE, FORMATS, OCI_ARCHIVE, Saver, choose
from aruntime.images.store import Store
from tests import archives

Import = Callable[..., Image]
Load = Callable[..., list[Loaded]]


def saved(store: Store, *texts: str, form: str = DOCKER_ARCHIVE) -> bytes:
    """Save images to bytes."""
    with Saver(store, choose(store, texts), form) as saver:
        return b"".join(saver.chunks())


def members(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {one.name: tar.extractfile(one) for one in tar if one.isreg()}
        return {name: file.read() for name, file in files.items() if file is not None}


def forget(store: Store) -> None:
    """Remove all images."""
    for image in store.list():
        store.remove(image.id, True, list)
    store.collect(list)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_saved_comes_back(store: Store, load_tar: Load, form: str) -> None:
    """The same manifest, configuration, layers and names, several images at once."""
    made = archives.OciLayout()
    shared = archives.tar(archives.file("shared", b"s" * 5000))
    one = made.image([shared, archives.tar(archives.file("one"))])
    two = made.image([shared])
    load_tar(
        made.archive(
            archives.named(one, "docker.io/me/one:1"), archives.named(two, "docker.io/me/two:2")
        )
    )
    before = store.list()
    archive = saved(store, "me/one:1", "me/two", form=form)
    forget(store)

    load_tar(archive)

    assert store.list() == before
    assert len([name for name in members(archive) if "blobs/" in name]) == 2 + 2 + 2


def test_an_archive_is_dockers_and_ocis(store: Store, import_tar: Import) -> None:
    """manifest.json leads to configuration and layers, index.json to the manifest."""
    image = import_tar(archives.tar(archives.file("x")), "box:1")
    store.tag("box:1", "box:2")

    files = members(saved(store, "box"))

    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == ["docker.io/library/box:1", "docker.io/library/box:2"]
    assert layout.sha256_of(files[entry["Config"]]) == image.id
    assert [layout.sha256_of(files[path]) for path in entry["Layers"]] == list(image.diff_ids)
    index = json.loads(files["index.json"])
    assert {one["digest"] for one in index["manifests"]} == {image.digest}
    assert [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]] == [
        "docker.io/library/box:1", "docker.io/library/box:2",
    ]  # fmt: skip
    assert files["oci-layout"] == layout.LAYOUT_TEXT
    assert "manifest.json" not in members(saved(store, "box", form=OCI_ARCHIVE))


def test_the_same_image_makes_the_same_bytes(store: Store, import_tar: Import) -> None:
    """Nothing in an archive depends on the time or on an order."""
    import_tar(archives.tar(archives.file("x")), "box")
    assert saved(store, "box") == saved(store, "box:latest")


def test_what_a_text_chooses(store: Store, import_tar: Import) -> None:
    """A tag itself, a repository all its tags, an id no name; every image once."""
    image = import_tar(archives.tar(archives.file("x")), "box:1")
    store.tag("box:1", "box:2")
    store.tag("box:1", "other:1")

    def names(*texts: str) -> list[list[str]]:
        return [one.names for one in choose(store, texts)]

    library = "docker.io/library"
    assert names("box:1") == [[f"{library}/box:1"]]
    assert names("box") == [[f"{library}/box:1", f"{library}/box:2"]]
    assert names(image.id) == names(image.id[7:19]) == [[]]
    assert names("other:1", "box:2", "box:2") == [[f"{library}/other:1", f"{library}/box:2"]]
    for missing in ("box:3", "nothing"):
        with pytest.raises(ImageNotFound):
            names(missing)


def test_a_damaged_layer_is_found_while_it_is_saved(store: Store, import_tar: Import) -> None:
    """Who loads the archive would have to find it otherwise."""
    image = import_tar(archives.tar(archives.file("x", b"1" * 4096)), "box")
    with open(layout.blob_path(store.base, image.diff_ids[0]), "r+b") as blob:
        blob.seek(600)
        blob.write(b"2")

    with pytest.raises(InvalidArchive, match="is damaged"):
        saved(store, "box")


def test_an_image_may_be_removed_while_it_is_saved(store: Store, import_tar: Import) -> None:
    """Its blobs are held from the start."""
    import_tar(archives.tar(archives.file("x")), "box")
    whole = saved(store, "box")
    with Saver(store, choose(store, ["box"]), DOCKER_ARCHIVE) as saver:
        forget(store)
        assert b"".join(saver.chunks()) == whole
