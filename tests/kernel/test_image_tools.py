"""Archives that other programs write are loaded, and other programs read our store."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from aruntime.daemon.unpacking import Loaded, import_image, load_images
from aruntime.images.image import Image
from aruntime.images.store import Store
from tests.conftest import require_program

pytestmark = pytest.mark.kernel

NAME = "docker.io/library/busybox:latest"


@pytest.fixture(name="open_store")
def _open_store(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    stores: list[Store] = []

    def run(name: str) -> Store:
        stores.append(Store(str(tmp_path / name)))
        return stores[-1]

    yield run
    for store in stores:
        store.close()


@pytest.fixture(name="imported")
def _imported(open_store: Callable[[str], Store], busybox_tar: bytes) -> tuple[Store, Image]:
    """Return a store with busybox in it."""
    store = open_store("imported")
    with tempfile.TemporaryFile() as file:
        file.write(busybox_tar)
        file.seek(0)
        make = partial(import_image, store, file.fileno(), name="busybox", change=["CMD sh"])
        return store, trio.run(make)


def load(store: Store, path: Path) -> list[Loaded]:
    """Load an archive."""
    with path.open("rb") as source:
        return trio.run(load_images, store, source.fileno())


def run(*args: str | Path) -> str:
    """Run a program that must succeed."""
    done = subprocess.run([str(arg) for arg in args], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


def tree(path: str) -> list[str]:
    """Describe every file of a layer: name, mode, owner, size or target, time."""
    found = run("find", path, "-printf", "%P %y %m %U:%G %s %l %T@\n").splitlines()
    return sorted(line for line in found if not line.startswith(" d"))


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_archives_of_skopeo(
    imported: tuple[Store, Image],
    open_store: Callable[[str], Store],
    tmp_path: Path,
    form: str,
    compression: str,
) -> None:
    """skopeo reads the store as an OCI layout; what it saves is the same image when loaded."""
    skopeo = require_program("skopeo")
    store, image = imported
    archive = tmp_path / "saved.tar"
    source = f"oci:{store.base}:{NAME}"
    run(skopeo, "--insecure-policy", "copy", source, f"{form}:{archive}:me/busybox:1")
    if compression:
        run(require_program(compression), "-q", archive)
        (archive,) = tmp_path.glob("saved.tar.*")
    other = open_store("other")

    (loaded,) = load(other, archive)

    assert loaded.names == ("docker.io/me/busybox:1",)
    assert loaded.image.config == image.config
    assert loaded.image.diff_ids == image.diff_ids
    assert tree(loaded.image.layers[0]) == tree(image.layers[0])


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_archives_of_podman(
    imported: tuple[Store, Image],
    open_store: Callable[[str], Store],
    tmp_path: Path,
    form: str,
) -> None:
    """podman loads what skopeo wrote of the store, and we load what podman saves of it."""
    podman, skopeo = require_program("podman"), require_program("skopeo")
    store, image = imported
    archive = tmp_path / "in.tar"
    source = f"oci:{store.base}:{NAME}"
    run(skopeo, "--insecure-policy", "copy", source, f"docker-archive:{archive}:me/busybox:1")
    saved = tmp_path / "out.tar"
    with tempfile.TemporaryDirectory(prefix="p") as short:  # podman's limit: 50 bytes
        places = [f"--root={short}/r", f"--runroot={short}/n", f"--tmpdir={short}/t"]
        options = [*places, "--storage-driver=vfs"]
        run(podman, *options, "load", "-i", archive)
        run(podman, *options, "save", "--format", form, "-o", saved, "docker.io/me/busybox:1")

    (loaded,) = load(open_store("other"), saved)

    assert loaded.names == ("docker.io/me/busybox:1",)
    assert loaded.image.config.cmd == image.config.cmd
    assert tree(loaded.image.layers[0]) == tree(image.layers[0])


def test_layers_of_umoci(open_store: Callable[[str], Store], tmp_path: Path) -> None:
    """umoci's whiteouts, hard links and attributes come out as umoci itself unpacks them."""
    umoci = require_program("umoci")
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    run(umoci, "init", "--layout", layout)
    run(umoci, "new", "--image", f"{layout}:tag")
    run(umoci, "unpack", "--image", f"{layout}:tag", bundle)
    rootfs = bundle / "rootfs"
    (rootfs / "dir").mkdir()
    (rootfs / "dir/old").write_text("old")
    (rootfs / "kept").write_text("kept")
    (rootfs / "kept").chmod(0o4755)
    os.link(rootfs / "kept", rootfs / "linked")
    os.setxattr(rootfs / "kept", "user.note", b"\0binary\n")
    run(umoci, "repack", "--refresh-bundle", "--image", f"{layout}:tag", bundle)
    (rootfs / "dir/old").unlink()
    (rootfs / "linked").unlink()
    os.link(rootfs / "kept", rootfs / "again")
    run(umoci, "repack", "--image", f"{layout}:tag", bundle)
    archive = tmp_path / "layout.tar"
    run("tar", "-C", layout, "-cf", archive, ".")

    (loaded,) = load(open_store("store"), archive)

    lower, upper = map(Path, loaded.image.layers)
    assert loaded.names == ()
    assert os.getxattr(lower / "kept", "user.note") == b"\0binary\n"
    assert (lower / "kept").stat().st_mode & 0o7777 == 0o4755
    assert os.path.samefile(lower / "kept", lower / "linked")
    assert (upper / "linked").is_char_device()
    assert (upper / "dir/old").is_char_device()
    assert (upper / "again").read_text() == "kept"


def test_a_debian_root_file_system(
    open_store: Callable[[str], Store], debian_tar: Path, tmp_path: Path
) -> None:
    """A real distribution comes out as GNU tar unpacks it."""
    reference = tmp_path / "reference"
    reference.mkdir()
    run("tar", "--numeric-owner", "-C", reference, "-xpf", debian_tar)
    store = open_store("store")
    with debian_tar.open("rb") as source:
        image = trio.run(partial(import_image, store, source.fileno(), name="debian"))

    assert tree(image.layers[0]) == tree(str(reference))


def test_the_index_is_what_tools_expect(imported: tuple[Store, Image]) -> None:
    """skopeo inspects an image of the store by its name."""
    skopeo = require_program("skopeo")
    store, image = imported

    found = json.loads(run(skopeo, "inspect", "--config", f"oci:{store.base}:{NAME}"))

    assert found["rootfs"]["diff_ids"] == list(image.diff_ids)
    assert found["config"]["Cmd"] == ["/bin/sh", "-c", "sh"]
