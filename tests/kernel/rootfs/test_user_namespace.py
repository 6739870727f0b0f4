"""A container with ids of its own: idmapped layers, a chowned upper directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aruntime.rootfs import plan

if TYPE_CHECKING:
    from tests.kernel.rootfs.conftest import Container

pytestmark = pytest.mark.kernel

FIRST = 700_000_000
COUNT = 65536


@pytest.fixture(name="mapped")
def _mapped(container: Container) -> Container:
    """Return a container whose root is an ordinary user of the host.

    Its files lie where the mapped user may not even look, as those of a real daemon.
    """
    container.use_user_namespace(FIRST, COUNT)
    container.directory.chmod(0o700)
    return container


def test_layers_appear_with_their_own_owners(mapped: Container) -> None:
    """A file of root in a layer is root's inside; the layer on disk is as it was."""
    (mapped.image / "etc/user").touch()
    os.chown(mapped.image / "etc/user", 1000, 65534)

    outcome = mapped.run("id -u; cat /proc/self/uid_map; stat -c '%n %u:%g' / /etc /etc/* /bin")

    assert outcome.lines[0] == "0"
    assert outcome.lines[1].split() == ["0", str(FIRST), str(COUNT)]
    assert outcome.lines[2:] == [
        "/ 0:0",
        "/etc 0:0",
        "/etc/hostname 0:0",
        "/etc/user 1000:65534",
        "/bin 0:0",
    ]
    assert os.stat(mapped.image / "etc/user").st_uid == 1000
    assert os.stat(mapped.image / "etc").st_uid == 0


def test_new_files_belong_to_the_mapped_ids(mapped: Container) -> None:
    """What is made, changed or given away inside carries the host's ids in the upper directory."""
    outcome = mapped.run(
        "echo x > /made; echo y >> /etc/hostname; touch /given; chown 7:8 /given;"
        "stat -c '%n %u:%g' /made /etc/hostname /given; rm /bin/ln; test -e /bin/ln || echo gone"
    )

    assert outcome.lines == ["/made 0:0", "/etc/hostname 0:0", "/given 7:8", "gone"]
    owners = {
        name: (status.st_uid - FIRST, status.st_gid - FIRST)
        for name in (".", "made", "etc/hostname", "given")
        for status in [os.stat(mapped.upper / name)]
    }
    assert owners == {".": (0, 0), "made": (0, 0), "etc/hostname": (0, 0), "given": (7, 8)}


def test_a_second_start_finds_its_files(mapped: Container) -> None:
    """The upper directory of an earlier run is used again, with the same owners inside."""
    assert mapped.run("echo kept > /file; chown 5:6 /file").lines == []

    outcome = mapped.run("cat /file; stat -c %u:%g /file; echo more >> /file && cat /file")

    assert outcome.lines == ["kept", "5:6", "kept", "more"]


def test_same_tree_as_without_user_namespace(mapped: Container) -> None:
    """Devices, links, masks, read-only paths and views are there all the same."""
    outcome = mapped.run(
        "stat -c '%n %F %a %t:%T %u' /dev/null /dev/tty; echo x > /dev/null; readlink /dev/fd;"
        "cat /proc/keys; ls /sys/firmware; (echo 1 > /proc/sys/kernel/domainname) 2>&1;"
        "test -c /dev/pts/ptmx && test -d /dev/mqueue && touch /dev/shm/x && echo complete"
    )

    assert outcome.lines[:3] == [
        "/dev/null character special file 666 1:3 0",
        "/dev/tty character special file 666 5:0 0",
        "/proc/self/fd",
    ]
    assert outcome.lines[3].endswith("Read-only file system")
    assert outcome.lines[4] == "complete"


def test_devices_of_the_specification(mapped: Container) -> None:
    """A device's owner is a number inside; the container cannot make devices for itself."""
    mapped.spec["linux"]["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "uid": 3, "gid": 4}
    ]

    outcome = mapped.run("stat -c '%a %t:%T %u:%g' /dev/fuse; mknod /null c 1 3 2>&1; echo end")

    assert outcome.lines == ["666 a:e5 3:4", "mknod: /null: Operation not permitted", "end"]


def test_bind_sources_are_opened_with_the_hosts_rights(mapped: Container, tmp_path: Path) -> None:
    """A source below a directory closed to the mapped user is mounted, owned by nobody."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    (volume / "file").write_text("readable\n")
    mapped.mount("/data", "bind", volume, "rbind")

    outcome = mapped.run("cat /data/file; stat -c %u /data/file; touch /data/x 2>&1; echo end")

    assert outcome.lines == ["readable", "65534", "touch: /data/x: Permission denied", "end"]


def test_idmapped_bind(mapped: Container, tmp_path: Path) -> None:
    """A mount with mappings of its own is root's inside and root's on the host."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    mapped.mount("/data", "bind", volume, "rbind")
    mappings = mapped.spec["linux"]["uidMappings"]
    mapped.spec["mounts"][-1] |= {"uidMappings": mappings, "gidMappings": mappings}

    outcome = mapped.run("touch /data/x; chown 9 /data/x; stat -c %u /data /data/x")

    assert outcome.lines == ["0", "9"]
    assert os.stat(volume / "x").st_uid == 9


def test_readonly_root_cannot_be_undone(mapped: Container) -> None:
    """A read-only bind of the host's stays so although the container may mount."""
    mapped.spec["root"]["readonly"] = True
    mapped.mount("/data", "bind", mapped.image, "rbind", "ro")

    outcome = mapped.run("touch /x 2>&1; touch /data/x 2>&1; echo end")

    assert outcome.lines == [
        "touch: /x: Read-only file system",
        "touch: /data/x: Read-only file system",
        "end",
    ]


def test_shared_host_namespaces(mapped: Container) -> None:
    """With the host's network, the host's /sys is bound: a new one would be refused."""
    namespaces = mapped.spec["linux"]["namespaces"]
    namespaces[:] = [entry for entry in namespaces if entry["type"] not in ("network", "ipc")]
    mapped.spec["mounts"] = [
        entry for entry in mapped.spec["mounts"] if entry["destination"] != "/dev/mqueue"
    ]

    outcome = mapped.run("ls /sys/class/net | while read n; do test $n = lo && echo $n; done; true")

    assert outcome.lines == ["lo"]


def test_layer_that_cannot_be_idmapped(mapped: Container) -> None:
    """A layer on a file system without idmapped mounts is named in the failure."""
    mapped.lower.append(Path("/proc/self"))

    failed = mapped.run("true").failed

    assert (failed["step"], failed["errno"]) == ("idmap", errno.EINVAL)
    assert failed["path"] == "/proc/self"


def test_split(mapped: Container, container: Container) -> None:
    """The host's half ends by entering the new root; the other begins by binding it anew."""
    host_ops, ops = plan.split(mapped.plan())

    names = [op[0] for op in host_ops]
    assert names[0] == "private"
    assert names[-2:] == ["overlay", "enter"]
    assert ops[0] == ["rebind"]
    assert ops[-1] == ["pivot"]
