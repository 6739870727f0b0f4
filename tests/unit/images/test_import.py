"""``import`` from the archive to the committed image, through the real child process."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aruntime.daemon.unpacking import import_image
from aruntime.errors import InvalidArchive, InvalidReference
from aruntime.images.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners: needs root")


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "root"))
    yield store
    store.close()


def rootfs(path: Path, names: dict[str, bytes]) -> Path:
    """Write a tar archive with some files."""
    with tarfile.open(path, "w") as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return path


async def test_a_rootfs_becomes_an_image_with_one_layer(store: Store, tmp_path: Path) -> None:
    """The image has the name, the configuration and the files it was given."""
    path = rootfs(tmp_path / "a.tar", {"bin/true": b"#!", "etc/hostname": b"x\n"})

    with path.open("rb") as source:
        image = await import_image(
            store, source.fileno(), name="tool", change=['CMD ["/bin/true"]', "ENV A=b"]
        )

    assert image == store.resolve("tool")
    assert image.names == ("docker.io/library/tool:latest",)
    assert (image.config.cmd, image.config.env) == (("/bin/true",), ("A=b",))
    assert image.size == 4
    (layer,) = image.layers
    assert Path(layer, "bin/true").read_bytes() == b"#!"


async def test_a_broken_archive_leaves_nothing(store: Store, tmp_path: Path) -> None:
    """A cut archive is an error and the store is as before."""
    path = rootfs(tmp_path / "a.tar", {"big": bytes(100_000)})
    os.truncate(path, 50_000)

    with path.open("rb") as source, pytest.raises(InvalidArchive, match="'big'"):
        await import_image(store, source.fileno(), name="tool")

    assert store.list() == []
    assert os.listdir(f"{store.base}/ingest") == []
    assert os.listdir(f"{store.base}/layers") == []
    assert os.listdir(f"{store.base}/blobs/sha256") == []


async def test_a_digest_is_no_name_for_an_import(store: Store, tmp_path: Path) -> None:
    """Nobody can choose an image's digest."""
    path = rootfs(tmp_path / "a.tar", {"x": b""})

    with path.open("rb") as source, pytest.raises(InvalidReference):
        await import_image(store, source.fileno(), name=f"tool@sha256:{'0' * 64}")
