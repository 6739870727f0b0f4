"""Images, volumes and specifications that try to reach the host; each test is one attack."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aruntime.errors import InvalidSpec

if TYPE_CHECKING:
    from tests.kernel.rootfs.conftest import Container

pytestmark = pytest.mark.kernel


def without_dev(container: Container) -> None:
    """Leave /dev to the image: nothing is mounted there or below."""
    mounts = container.spec["mounts"]
    mounts[:] = [entry for entry in mounts if not entry["destination"].startswith("/dev")]


def test_null_of_the_image_is_not_used_for_masks(container: Container) -> None:
    """A masked path is not bound to what the image's /dev/null leads to (CVE-2025-31133).

    The canary is a parameter of the container's own network namespace.
    """
    without_dev(container)
    (container.image / "dev/null").symlink_to("/proc/sys/net/ipv4/conf/lo/log_martians")
    container.spec["linux"]["devices"] = []
    container.spec["linux"]["readonlyPaths"] = []

    outcome = container.run("true")

    # The device that should be there is a link: refused before anything is masked.
    assert outcome.failed["step"] == "devices"
    assert (outcome.failed["errno"], outcome.failed["path"]) == (errno.EEXIST, "/dev/null")


def test_masks_are_the_hosts_null_device(container: Container, tmp_path: Path) -> None:
    """Even if /dev comes from a bind the attacker owns, a mask is a real null device."""
    without_dev(container)
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "null").symlink_to("/proc/sys/net/ipv4/conf/lo/log_martians")
    container.mount("/dev", "bind", dev, "bind")
    container.spec["linux"]["readonlyPaths"] = []

    outcome = container.run(
        "echo 1 > /proc/keys; stat -c '%F %t:%T' /proc/keys;"
        "cat /proc/sys/net/ipv4/conf/lo/log_martians"
    )

    assert outcome.lines == ["character special file 1:3", "0"]


def test_console_of_the_image_stays_inside(container: Container, canary: Path) -> None:
    """A /dev/console that links out of the root makes nothing there (CVE-2025-52565)."""
    without_dev(container)
    (container.image / "dev/console").symlink_to(f"{canary.parent}/made")
    container.spec["process"]["terminal"] = True

    outcome = container.run("readlink /dev/console; ls " + str(canary.parent))

    assert outcome.lines == [f"{canary.parent}/made", "made"]


@pytest.mark.parametrize("where", ["proc", "sys"])
def test_proc_is_a_symbolic_link(container: Container, canary: Path, where: str) -> None:
    """/proc and /sys are not mounted through a link (CVE-2019-19921, CVE-2023-27561)."""
    (container.image / where).rmdir()
    (container.image / where).symlink_to("etc")

    failed = container.run("true").failed

    assert failed == {"step": f"mount /{where}", "errno": errno.ELOOP, "path": f"/{where}"}


def test_dangling_proc(container: Container, canary: Path) -> None:
    """A /proc that links to nothing is not made up elsewhere."""
    (container.image / "proc").rmdir()
    (container.image / "proc").symlink_to(f"{canary.parent}/proc")

    assert container.run("true").failed["errno"] == errno.ELOOP


@pytest.mark.parametrize("destination", ["/proc/self", "/proc/1/attr", "/proc/sys/../self/x"])
def test_mount_inside_proc(container: Container, tmp_path: Path, destination: str) -> None:
    """Nothing is mounted where the runtime itself reads and writes (CVE-2019-16884)."""
    container.mount(destination, "bind", tmp_path, "bind")

    with pytest.raises(InvalidSpec, match="inside /proc"):
        container.plan()


def test_mount_inside_proc_through_a_link(container: Container, tmp_path: Path) -> None:
    """Nor does a link of the image get a mount in there."""
    (container.image / "shortcut").symlink_to("/proc/self")
    container.mount("/shortcut", "bind", tmp_path, "bind")

    failed = container.run("true").failed

    assert failed == {"step": "bind /shortcut", "errno": errno.EPERM, "path": "/shortcut"}


def test_mount_through_a_magic_link(container: Container, tmp_path: Path) -> None:
    """/proc/self/root and its like are no way out: the kernel does not follow them for us."""
    (container.image / "shortcut").symlink_to("/proc/self/root")
    container.mount("/shortcut/etc", "bind", tmp_path, "bind")

    assert container.run("true").failed["errno"] == errno.ELOOP


def test_fake_proc(container: Container, tmp_path: Path) -> None:
    """Only a procfs may be bound on /proc: writes would go to a file (CVE-2025-52881)."""
    container.spec["mounts"] = [
        entry for entry in container.spec["mounts"] if entry["destination"] != "/proc"
    ]
    container.mount("/proc", "bind", tmp_path, "bind")

    failed = container.run("true").failed

    assert failed == {"step": "bind /proc", "errno": errno.EPERM, "path": "/proc"}


def test_sysctls_go_to_a_procfs_of_our_own(container: Container, tmp_path: Path) -> None:
    """Without a /proc of the container's, parameters are still written to the kernel."""
    container.spec["mounts"] = [
        entry for entry in container.spec["mounts"] if entry["destination"] != "/proc"
    ]
    fake = container.image / "proc/sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ip_forward").write_text("fake")
    container.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    container.spec["linux"]["maskedPaths"] = container.spec["linux"]["readonlyPaths"] = []

    outcome = container.run(
        "cat /proc/sys/net/ipv4/ip_forward; echo; mount -t proc none /proc;"
        "cat /proc/sys/net/ipv4/ip_forward"
    )

    assert outcome.lines == ["fake", "1"]


@pytest.mark.parametrize(
    ("link", "destination"),
    [
        ("{host}", "/link/made"),
        ("../../../../../..{host}", "/link/made"),
        ("{host}/made", "/link"),
        ("/link2", "/link/made"),
    ],
    ids=["absolute", "dots", "dangling", "two links"],
)
def test_destination_through_a_link(
    container: Container, canary: Path, tmp_path: Path, link: str, destination: str
) -> None:
    """A destination that leads out of the root by links is made inside (CVE-2021-30465)."""
    (container.image / "link").symlink_to(link.format(host=canary.parent))
    (container.image / "link2").symlink_to(str(canary.parent))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/mark").touch()
    container.mount(destination, "bind", tmp_path / "source", "bind")

    outcome = container.run(f"ls {canary.parent}/made")

    assert outcome.lines == ["mark"]


def test_destination_is_a_link_to_what_the_host_has(
    container: Container, canary: Path, tmp_path: Path
) -> None:
    """A destination that is a link to a directory of the host is the one inside."""
    (container.image / "link").symlink_to(str(canary.parent))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/mark").touch()
    container.mount("/link", "bind", tmp_path / "source", "bind")

    assert container.run(f"ls {canary.parent}").lines == ["mark"]


def test_destination_with_dots(container: Container, tmp_path: Path) -> None:
    """Dots in a destination end at the root."""
    (tmp_path / "source").mkdir()
    container.mount("/../../../../made", "bind", tmp_path / "source", "bind")

    assert "made" in container.run("ls /").lines


@pytest.mark.parametrize("mounted", [True, False])
def test_dev_is_a_symbolic_link(container: Container, canary: Path, mounted: bool) -> None:
    """A /dev that links out of the root gets its devices inside (CVE-2026-41579)."""
    (container.image / "dev").rmdir()
    (container.image / "dev").symlink_to(str(canary.parent))
    if not mounted:
        without_dev(container)

    outcome = container.run("stat -c %t:%T /dev/null; readlink /dev")

    assert outcome.lines == ["1:3", str(canary.parent)]


@pytest.mark.parametrize("path", ["/etc/shadow-of-host", "/link/shadow"])
def test_masks_stay_inside(container: Container, canary: Path, path: str) -> None:
    """Masked and read-only paths that lead out of the root touch nothing there."""
    (container.image / "etc/shadow-of-host").symlink_to(str(canary))
    (container.image / "link").symlink_to(str(canary.parent))
    container.spec["linux"]["maskedPaths"] = [path, "/link/canary"]
    container.spec["linux"]["readonlyPaths"] = [path, "/link", "/link/canary"]

    assert container.run("echo fine").lines == ["fine"]
    assert canary.read_text() == "untouched"


def test_device_in_the_place_of_something_else(container: Container) -> None:
    """A device is not made on top of, nor taken to be, another file of the image."""
    without_dev(container)
    os.mknod(container.image / "dev/zero", 0o020666, os.makedev(1, 3))

    failed = container.run("true").failed

    assert failed == {"step": "devices", "errno": errno.EEXIST, "path": "/dev/zero"}


def test_loop_of_links(container: Container, tmp_path: Path) -> None:
    """A loop of links ends as an error."""
    (container.image / "a").symlink_to("b/x")
    (container.image / "b").symlink_to("a/x")
    container.mount("/a/x", "bind", tmp_path, "bind")

    assert container.run("true").failed["errno"] == errno.ELOOP


def test_escaped_host_mounts(container: Container) -> None:
    """The old root is gone: no process finds the host's tree above the new one."""
    outcome = container.run(
        "cd /; cd ../../../..; ls; while read a b c d e f; do case $e in /) echo root;; esac; done"
        " < /proc/self/mountinfo"
    )

    assert "etc" in outcome.lines
    assert "var" not in outcome.lines
    assert outcome.lines.count("root") == 2  # the directory and the only mount on /


RACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
first, second = (os.fsencode(path) for path in sys.argv[1:])
print(flush=True)
while libc.renameat2(-100, first, -100, second, 2) == 0:  # RENAME_EXCHANGE
    pass
"""


def test_race_of_directory_and_link(
    container: Container, canary: Path, tmp_path: Path, interpreter: str
) -> None:
    """A destination inside a volume whose parts change places all the time (CVE-2021-30465).

    Whatever each start meets, nothing appears in the host's directory: see the canary.
    """
    volume = tmp_path / "volume"
    (volume / "part").mkdir(parents=True)
    (volume / "link").symlink_to(str(canary.parent))
    container.mount("/volume", "bind", volume, "bind")
    container.mount("/volume/part/made", "tmpfs", "tmpfs")
    racer = subprocess.Popen(
        [interpreter, "-I", "-c", RACER, str(volume / "part"), str(volume / "link")],
        stdout=subprocess.PIPE,
    )
    assert racer.stdout is not None
    racer.stdout.read(1)
    try:
        codes = [container.run("true").code for _ in range(40)]
    finally:
        racer.kill()
        racer.wait()
        racer.stdout.close()

    assert 0 in codes
