"""What check finds in a store that was damaged on purpose, each way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aruntime.images import checking, layout
from aruntime.images.checking import Report
from aruntime.images.image import Image
from aruntime.images.store import Store
from aruntime.images.untag import Holder
from tests import archives

Import = Callable[..., Image]


def checked(store: Store, *holders: Holder, read_content: bool = True) -> Report:
    """Check a store."""
    return checking.check(store, lambda: holders, lambda: None, read_content=read_content)


@pytest.fixture
def image(store: Store, import_tar: Import) -> Image:
    """Return an image of one layer."""
    return import_tar(archives.tar(archives.file("file", b"content")), "tool:1")


def layer_blob(store: Store, image: Image) -> Path:
    """Return the file of a plain layer's archive."""
    return Path(layout.blob_path(store.base, image.diff_ids[0]))


def test_a_whole_store_is_clean(store: Store, image: Image) -> None:
    """Nothing is found, everything was looked at."""
    report = checked(store)

    assert report.findings == ()
    assert (report.images, report.blobs, report.layers) == (1, 3, 1)
    assert report.bytes == sum(
        path.stat().st_size for path in Path(store.base, layout.BLOBS).iterdir()
    )
    assert checked(store, read_content=False).bytes == 0


def test_an_altered_blob_is_found_by_its_digest(store: Store, image: Image) -> None:
    """One byte is enough; sizes alone do not show it."""
    with open(layer_blob(store, image), "r+b") as file:
        file.seek(600)
        file.write(b"\1")

    [finding] = checked(store).findings

    assert finding.grave
    assert finding.blob == image.diff_ids[0]
    assert finding.what.startswith(f"layer {image.diff_ids[0]} of tool:1 is damaged: its content")
    assert checked(store, read_content=False).findings == ()


@pytest.mark.parametrize(
    ("spoil", "what", "is_there"),
    [
        (lambda path: os.truncate(path, 100), "has 100 bytes instead of", True),
        (os.unlink, "is missing", False),
    ],
)
def test_a_cut_or_missing_blob_is_found(
    store: Store, image: Image, spoil: Callable[[Path], None], what: str, is_there: bool
) -> None:
    """Without a look at the content."""
    spoil(layer_blob(store, image))

    [finding] = checked(store, read_content=False).findings

    assert what in finding.what
    assert bool(finding.blob) == is_there


@pytest.mark.parametrize("part", ["manifest", "configuration"])
def test_a_damaged_document_is_found_once(store: Store, image: Image, part: str) -> None:
    """What it would lead to is not complained about too."""
    digest = image.digest if part == "manifest" else image.id
    path = Path(layout.blob_path(store.base, digest))
    path.write_bytes(path.read_bytes().replace(b"sha256:", b"sha256;"))

    [finding] = checked(store).findings

    assert finding.what.startswith(f"{part} {digest} of tool:1 is damaged")


def test_a_missing_or_unreadable_layer_is_found(store: Store, image: Image) -> None:
    """It can be unpacked from its blob, unless that is damaged too."""
    record = Path(f"{image.layers[0]}.json")
    text = record.read_bytes()
    for spoil in (record.unlink, lambda: record.write_bytes(text[:-5])):
        spoil()
        [finding] = [one for one in checked(store).findings if one.grave]
        assert finding.unpackable == (image.digest, image.diff_ids[0])
        assert "is not unpacked, or its record is damaged" in finding.what
        record.write_bytes(text)
    assert checked(store).findings == ()

    record.unlink()
    layer_blob(store, image).unlink()
    assert all(finding.unpackable is None for finding in checked(store).findings)


def test_what_a_container_stands_on_is_needed(store: Store, image: Image) -> None:
    """A layer of a removed image stays while a container has it, and is missed when it is gone."""
    holder = Holder(
        id="1" * 64, name="web", image_id=image.id, layers=tuple(image.layers), running=True
    )
    store.remove("tool:1", True, list)
    assert {finding.grave for finding in checked(store, holder).findings} == {False}
    store.collect(lambda: [holder])
    assert checked(store, holder).findings == ()

    os.rename(image.layers[0], f"{image.layers[0]}-gone")

    graves = [finding for finding in checked(store, holder).findings if finding.grave]
    assert [one.what for one in graves] == [
        f"{image.layers[0]}, which container web is made of, is gone"
    ]


def test_what_nobody_needs_only_takes_room(store: Store, image: Image) -> None:
    """Blobs, layers and leftovers are told of, but nothing is lost."""
    Path(layout.blob_path(store.base, f"sha256:{'a' * 64}")).write_bytes(b"")
    Path(layout.layer_path(store.base, "b" * 64)).mkdir()
    Path(store.base, layout.INGEST, "c").mkdir()

    findings = checked(store).findings

    assert [finding.grave for finding in findings] == [False, False, False]
    assert [finding.what.partition(":")[0] for finding in findings] == [
        "1 blobs that no image needs",
        "1 layers that no image or container needs",
        "1 leftovers of pulls or loads that were killed",
    ]
    with store.ingest():  # another's, under way
        assert len(checked(store).findings) == 3


def test_doors_left_open_are_found(store: Store) -> None:
    """Others must not reach setuid programs of images."""
    os.chmod(f"{store.base}/{layout.LAYERS}", 0o755)

    [finding] = checked(store).findings

    assert "layers belongs to user 0 and has mode 755" in finding.what


def test_a_damaged_image_keeps_what_it_still_leads_to(
    reopen: Callable[[], Store], import_tar: Import
) -> None:
    """A collection while one layer is missing does not take the rest of the image."""
    image = import_tar(archives.tar(archives.file("file", b"content")), "tool:1")
    os.unlink(f"{image.layers[0]}.json")

    store = reopen()
    assert store.list() == []
    store.collect(list)

    assert layer_blob(store, image).exists()
    [finding] = checked(store).findings
    assert finding.unpackable == (image.digest, image.diff_ids[0])
