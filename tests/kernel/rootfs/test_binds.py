"""Bind mounts: attributes, submounts, propagation, failures."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kernel.rootfs.conftest import Container

pytestmark = pytest.mark.kernel


@pytest.fixture(name="volume")
def _volume(tmp_path: Path) -> Path:
    """Return a directory of the host with a file and a directory in it."""
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "file").write_text("host\n")
    return volume


def submount(volume: Path) -> str:
    """Return what the test's host does to have a tmpfs below the volume."""
    return f"mounts.mount('tmpfs', '{volume}/sub', 'tmpfs'); open('{volume}/sub/deep', 'w').close()"


def test_bind_is_the_same_directory(container: Container, volume: Path) -> None:
    """What the container writes is in the host's directory."""
    container.mount("/data", "bind", volume, "rbind")

    assert container.run("cat /data/file; echo new > /data/made").lines == ["host"]
    assert (volume / "made").read_text() == "new\n"


def test_readonly_bind(container: Container, volume: Path) -> None:
    """ro makes the bind read-only, though the options that follow touch other attributes."""
    container.mount("/data", "bind", volume, "rbind", "ro", "noexec", "nosuid", "rprivate")

    outcome = container.run(
        "touch /data/x 2>&1; while read -r l; do case $l in *' /data '*) echo $l;; esac; done"
        " < /proc/self/mountinfo"
    )

    assert outcome.lines[0] == "touch: /data/x: Read-only file system"
    assert set(outcome.lines[1].split()[5].split(",")) >= {"ro", "noexec", "nosuid"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("bind",), ["none", "top"]),
        (("rbind",), ["deep", "top", "below"]),
        (("rbind", "ro"), ["deep", "below"]),
        (("rbind", "rro"), ["deep"]),
        (("rbind", "rro", "rw"), ["deep", "top"]),
    ],
)
def test_submounts(
    container: Container, volume: Path, options: tuple[str, ...], expected: list[str]
) -> None:
    """Submounts come along with rbind only; rro makes them read-only too, ro does not."""
    container.fake_host = submount(volume)
    container.mount("/data", "bind", volume, *options)

    outcome = container.run(
        "cd /data; test -e sub/deep && echo deep || echo none; touch x 2>/dev/null && echo top;"
        "test -e sub/deep && touch sub/x 2>/dev/null && echo below; true"
    )

    assert outcome.lines == expected


def test_file_over_file(container: Container, volume: Path) -> None:
    """A file is bound over a file of the image; the image's own stays."""
    container.mount("/etc/hostname", "bind", volume / "file", "bind", "ro")

    assert container.run("cat /etc/hostname").lines == ["host"]
    assert (container.image / "etc/hostname").read_text() == "image\n"


def test_tmpfs_style_options_on_a_bind_are_ignored(container: Container, volume: Path) -> None:
    """Data options mean nothing for a bind and are no error (R8)."""
    container.mount("/data", "bind", volume, "rbind", "size=64k", "mode=755")

    assert container.run("cat /data/file").lines == ["host"]


def test_bind_below_a_bind(container: Container, volume: Path) -> None:
    """Mounts are made in the specification's order: the later one covers a part of the first."""
    container.mount("/data", "bind", volume, "rbind", "ro")
    container.mount("/data/sub", "tmpfs", "tmpfs")

    assert container.run("touch /data/sub/x && ls /data/sub").lines == ["x"]


def test_host_root_does_not_hold_the_container(container: Container) -> None:
    """Binding the host's whole tree shows the staging directory empty, not the new root again."""
    container.mount("/host", "bind", "/", "rbind", "ro")

    assert container.run(f"ls /host{container.staging}; test -e /host/proc/1 && echo").lines == [""]


@pytest.mark.parametrize(
    ("propagation", "arrives", "leaves"),
    [("rprivate", "", ""), ("rslave", "late", ""), ("rshared", "late", "mine")],
)
def test_propagation(
    container: Container, volume: Path, propagation: str, arrives: str, leaves: str
) -> None:
    """Later mounts of the host arrive with slave and shared, the container's leave with shared."""
    go, report = volume / "go", volume / "report"
    for fifo in (go, report):
        os.mkfifo(fifo)
    (volume / "out").mkdir()
    container.fake_host = f"""
mounts.mount({str(volume)!r}, {str(volume)!r}, None, mounts.MS_BIND)
mounts.mount(None, {str(volume)!r}, None, mounts.MS_SHARED)
if os.fork() == 0:
    # the host, while the container runs
    open({str(go)!r}).read()
    mounts.mount("tmpfs", {str(volume / "sub")!r}, "tmpfs")
    open({str(volume / "sub/late")!r}, "w").close()
    open({str(report)!r}, "w").close()
    open({str(go)!r}).read()
    with open({str(report)!r}, "w") as file:
        file.write("".join(os.listdir({str(volume / "out")!r})))
    os._exit(0)
"""
    container.mount("/data", "bind", volume, "rbind", propagation)

    outcome = container.run(
        'cd /data; echo > go; cat report; echo "[$(ls sub)]"; mount -t tmpfs none out;'
        ' touch out/mine; echo > go; echo "[$(cat report)]"'
    )

    assert outcome.lines == [f"[{arrives}]", f"[{leaves}]"]


def test_missing_source(container: Container, tmp_path: Path) -> None:
    """A source that does not exist is named in the failure."""
    container.mount("/data", "bind", tmp_path / "gone", "rbind")

    assert container.run("true").failed == {
        "step": f"source {tmp_path}/gone",
        "errno": errno.ENOENT,
        "path": f"{tmp_path}/gone",
    }


def test_directory_on_a_file(container: Container, volume: Path) -> None:
    """A directory cannot be mounted on a file: the destination is named."""
    container.mount("/etc/hostname", "bind", volume, "rbind")

    assert container.run("true").failed == {
        "step": "bind /etc/hostname",
        "errno": errno.ENOTDIR,
        "path": "/etc/hostname",
    }
