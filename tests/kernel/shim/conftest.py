"""A running shim and a root file system for its containers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.shim.commander import Shim


@pytest.fixture
def rootfs(tmp_path: Path, busybox: str) -> Path:
    """Return a root file system of busybox, root's own."""
    root = tmp_path / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root", "old"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in applets.stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"
    )
    (root / "etc" / "group").write_text("root:x:0:\nalice:x:1000:\naudio:x:29:alice\n")
    return root


@pytest.fixture
def shim(tmp_path: Path, rootfs: Path) -> Iterator[Shim]:
    """Return a running shim with us as its daemon."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    running = Shim(run_dir, rootfs)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def shim_class() -> type[Shim]:
    """Return the class, for tests that start a shim their own way."""
    return Shim
