"""Executing operations: failures and what is held, without touching a mount."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from aruntime.rootfs import apply


def test_failure_names_step_errno_and_path(tmp_path: Path) -> None:
    """A failing operation is told in words; the path is the plan's."""
    with pytest.raises(apply.StepFailed, match="own") as caught:
        apply.apply([["own", f"{tmp_path}/gone", 0, 0]])

    assert caught.value.step == f"own {tmp_path}/gone"
    assert (caught.value.error.errno, caught.value.error.filename) == (
        errno.ENOENT,
        f"{tmp_path}/gone",
    )


def test_held_descriptors_are_closed_on_failure(tmp_path: Path) -> None:
    """After a failure nothing stays open, whoever opened it."""
    fd = os.open("/", os.O_PATH)

    with pytest.raises(apply.StepFailed):
        apply.apply([["own", f"{tmp_path}/gone", 0, 0]], {"root": fd})

    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_held_descriptors_are_returned(tmp_path: Path) -> None:
    """What the first half of a plan holds is handed on; the umask is as before."""
    fd = os.open(tmp_path, os.O_PATH)
    umask = os.umask(0o027)

    held = apply.apply([["links", [["/a/link", "target"]]]], {"root": fd})

    assert os.umask(umask) == 0o027
    assert held == {"root": fd}
    assert os.readlink(tmp_path / "a/link") == "target"
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o755
    os.close(fd)


def test_error_without_a_path_gets_the_operations(tmp_path: Path) -> None:
    """A failure of a descriptor's call is told with the path the operation is about."""
    fd = os.open(tmp_path, os.O_PATH)
    (tmp_path / "data").touch()
    source = os.open(tmp_path / "data", os.O_PATH)

    with pytest.raises(apply.StepFailed) as caught:
        apply.apply([["bind", "/data", "source", False]], {"root": fd, "source": source})

    assert caught.value.error.filename == "/data"


def test_describe() -> None:
    """Every operation has words for errors and --debug."""
    assert apply.describe(["private"]) == "private"
    assert apply.describe(["bind", "/data", "mount 3", False]) == "bind /data"
    assert apply.describe(["mask", ["/proc/kcore"]]) == "mask"
