"""A commit that dies before any of its calls to the disk leaves all of an image, or nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from aruntime.daemon.unpacking import Loaded
from aruntime.errors import ImageNotFound
from aruntime.images import checking, layout
from aruntime.images.store import Store
from tests import archives

Load = Callable[..., list[Loaded]]
PROGRAM = Path(__file__).with_name("crashing_commit.py")
MOST = 200


def test_killed_before_every_call(store: Store, load_tar: Load, tmp_path: Path) -> None:
    """Whatever the moment: after the next open, check calls the store clean."""
    made = archives.OciLayout()
    layers = [archives.tar(archives.file(f"etc/{n}", bytes([n]) * 100)) for n in (1, 2)]
    load_tar(made.archive(archives.named(made.image(layers), "tool:1")))
    source = taken_apart(store, tmp_path / "source")

    outcomes: list[bool] = []
    for number in range(MOST):
        root = tmp_path / f"root-{number}"
        died = subprocess.run([sys.executable, str(PROGRAM), str(root), str(source), str(number)])
        outcomes.append(opened_anew(root))
        shutil.rmtree(root)
        if died.returncode == 0:
            break
        assert died.returncode == 9

    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)  # once it is there, it stays
    assert len(outcomes) > 10


def taken_apart(store: Store, source: Path) -> Path:
    """Copy a store's only image into what an ingest directory looks like."""
    for name in (layout.BLOBS, layout.LAYERS):
        shutil.copytree(f"{store.base}/{name}", source / name, symlinks=True)
    [manifest] = store.index.manifests.values()
    request = {
        "media_type": manifest.media_type, "digest": manifest.digest, "size": manifest.size,
        "names": ["docker.io/library/tool:1"],
    }  # fmt: skip
    (source / "request.json").write_text(json.dumps(request))
    return source


def opened_anew(root: Path) -> bool:
    """Open a store as the next daemon does, check it, and tell whether the image is there."""
    store = Store(str(root))
    try:
        store.collect(list)
        report = checking.check(store, list, lambda: None)
        assert report.findings == ()
        try:
            image = store.resolve("tool:1")
        except ImageNotFound:
            assert report.blobs == report.layers == 0
            return False
        assert (report.blobs, report.layers) == (4, 2)
        assert (Path(image.layers[1]) / "etc/2").read_bytes() == b"\2" * 100
        return True
    finally:
        store.close()
