"""The file tree of an ordinary container, seen from inside."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kernel.rootfs.conftest import Container

pytestmark = pytest.mark.kernel


def mount_table(container: Container) -> dict[str, tuple[str, set[str]]]:
    """Return mount point to (type, options) as the container sees them."""
    found = {}
    for line in container.run("cat /proc/self/mountinfo").lines:
        fields, _, rest = line.partition(" - ")
        parts = fields.split()
        found[parts[4]] = (rest.split()[0], set(parts[5].split(",")))
    return found


def test_mounts_are_those_of_the_specification(container: Container) -> None:
    """Every file system is where it should be with its attributes, and nothing of the host's."""
    safe = {"nosuid", "nodev", "noexec"}

    found = mount_table(container)

    assert found["/"][0] == "overlay"
    assert found["/proc"] == ("proc", {"rw", "relatime", *safe})
    assert found["/sys"] == ("sysfs", {"ro", "relatime", *safe})
    assert found["/dev"] == ("tmpfs", {"rw", "nosuid"})
    assert found["/dev/pts"] == ("devpts", {"rw", "nosuid", "noexec", "relatime"})
    assert found["/dev/mqueue"] == ("mqueue", {"rw", "relatime", *safe})
    assert found["/dev/shm"] == ("tmpfs", {"rw", "relatime", *safe})
    known = ("/proc", "/sys", "/dev")
    assert [point for point in found if not point.startswith(known)] == ["/"]


def test_devices_and_links(container: Container) -> None:
    """The default devices are there and work, the links lead where they should."""
    nodes = "null zero full random urandom tty"
    outcome = container.run(
        f"cd /dev; stat -c '%n %F %a %t:%T %u' {nodes};"
        "for i in fd stdin stdout stderr core ptmx; do readlink $i; done;"
        "echo gone > null; test -c ptmx && ls pts"
    )

    assert outcome.lines == [
        "null character special file 666 1:3 0",
        "zero character special file 666 1:5 0",
        "full character special file 666 1:7 0",
        "random character special file 666 1:8 0",
        "urandom character special file 666 1:9 0",
        "tty character special file 666 5:0 0",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "/proc/kcore",
        "pts/ptmx",
        "ptmx",
    ]


def test_devices_of_the_specification(container: Container) -> None:
    """More devices are made with mode and owner; a fifo's numbers mean nothing (R7)."""
    container.spec["linux"]["devices"] = [
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o20640,
         "uid": 3, "gid": 4},
        {"path": "/dev/pipe", "type": "p", "major": 9, "minor": 9},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
    ]  # fmt: skip

    outcome = container.run("stat -c '%n %F %a %t:%T %u:%g' /dev/net/tun /dev/pipe /dev/null")

    assert outcome.lines == [
        "/dev/net/tun character special file 640 a:c8 3:4",
        "/dev/pipe fifo 666 0:0 0:0",
        "/dev/null character special file 600 1:3 0:0",
    ]


def test_masked_paths(container: Container) -> None:
    """Masked files read as empty, masked directories are empty and read-only."""
    container.spec["linux"]["maskedPaths"] += ["/no/such/path", "/etc", "/bin/busybox/impossible"]

    outcome = container.run(
        "cat /proc/keys /proc/timer_list; ls /sys/firmware /etc; touch /etc/x 2>&1; echo end"
    )

    assert outcome.lines == [
        "/etc:",
        "",
        "/sys/firmware:",
        "touch: /etc/x: Read-only file system",
        "end",
    ]


def test_readonly_paths(container: Container) -> None:
    """Read-only paths refuse root's writes, also to what is mounted below them."""
    container.mount("/etc/below", "tmpfs", "tmpfs")
    container.spec["linux"]["readonlyPaths"] += ["/etc", "/no/such/path"]

    outcome = container.run(
        "for f in /proc/sys/kernel/domainname /etc/x /etc/below/x; do (echo 1 > $f) 2>&1; done;"
        "touch /root/x && cat /proc/sys/kernel/domainname /etc/hostname"
    )

    assert [line.rsplit(": ", 1)[1] for line in outcome.lines[:3]] == ["Read-only file system"] * 3
    assert outcome.lines[4:] == ["image"]


def test_writes_go_to_the_upper_directory(container: Container) -> None:
    """The image stays as it is; what is written and removed is in the upper directory."""
    outcome = container.run("echo changed > /etc/hostname; rm /bin/ln; cat /etc/hostname")

    assert outcome.lines == ["changed"]
    assert (container.image / "etc/hostname").read_text() == "image\n"
    assert (container.upper / "etc/hostname").read_text() == "changed\n"
    assert (container.upper / "bin/ln").is_char_device()
    assert (container.image / "bin/ln").is_symlink()


def test_readonly_root(container: Container) -> None:
    """A read-only root refuses writes; /dev and tmpfs mounts stay writable."""
    container.spec["root"]["readonly"] = True
    container.mount("/run", "tmpfs", "tmpfs", "nosuid")

    outcome = container.run("touch /x 2>&1; touch /run/x /dev/shm/x && echo written")

    assert outcome.lines == ["touch: /x: Read-only file system", "written"]


def test_plain_directory_as_root(container: Container) -> None:
    """Without layers root.path is the root itself, with what is mounted below it."""
    container.lower = []

    outcome = container.run("echo direct > /written; test -e /proc/1/status && ls /")

    assert "written" in outcome.lines
    assert (container.directory / "image/written").read_text() == "direct\n"


@pytest.mark.parametrize("propagation", ["shared", "rslave", "private", "unbindable"])
def test_rootfs_propagation(container: Container, propagation: str) -> None:
    """linux.rootfsPropagation is the root mount's propagation inside (R5)."""
    container.spec["linux"]["rootfsPropagation"] = propagation

    outcome = container.run("while read -r line; do case $line in *' / / '*) echo $line;; esac; "
                            "done < /proc/self/mountinfo")  # fmt: skip

    optional = outcome.lines[0].split(" - ")[0].split()[6:]
    kinds = {field.split(":")[0] for field in optional}
    assert kinds == {"shared": {"shared"}, "unbindable": {"unbindable"}}.get(propagation, set())


def test_missing_mount_points_are_made(container: Container, tmp_path: Path) -> None:
    """Directories and files that a mount needs appear, through dangling links too."""
    source = tmp_path / "file"
    source.write_text("content\n")
    (container.image / "dangling").symlink_to("/not/yet/there")
    container.mount("/a/b/c", "tmpfs", "tmpfs")
    container.mount("/new/file", "bind", source, "bind", "ro")
    container.mount("/dangling", "bind", source, "bind")

    outcome = container.run("stat -c '%n %F %a' /a/b /a/b/c /new; cat /new/file /not/yet/there")

    assert outcome.lines == [
        "/a/b directory 755",
        "/a/b/c directory 1777",
        "/new directory 755",
        "content",
        "content",
    ]


def test_tmpfs_takes_the_mode_of_what_it_covers(container: Container) -> None:
    """A tmpfs on /tmp is as public as /tmp was, one with a mode of its own has that."""
    (container.image / "etc").chmod(0o750)
    container.mount("/tmp", "tmpfs", "tmpfs", "size=1m")
    container.mount("/etc", "tmpfs", "tmpfs")
    container.mount("/root", "tmpfs", "tmpfs", "mode=711", "nodev")

    outcome = container.run("stat -c '%n %a' /tmp /etc /root")

    assert outcome.lines == ["/tmp 1777", "/etc 750", "/root 711"]


def test_tmpfs_with_copy_up(container: Container) -> None:
    """With tmpcopyup a tmpfs begins with what the image has there, and may be read-only."""
    container.mount("/etc", "tmpfs", "tmpfs", "tmpcopyup", "ro", "nosuid")

    outcome = container.run("cat /etc/hostname; touch /etc/x 2>&1; echo")

    assert outcome.lines == ["image", "touch: /etc/x: Read-only file system", ""]
    assert not (container.upper / "etc/hostname").exists()


def test_kernel_parameters(container: Container) -> None:
    """Parameters of the container's own namespaces are set before /proc/sys is read-only."""
    container.spec["linux"]["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "kernel.msgmax": "9001",
        "net/ipv4/conf/lo/forwarding": "1",
    }

    outcome = container.run(
        "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/msgmax"
        " net/ipv4/conf/lo/forwarding"
    )

    assert outcome.lines == ["0", "9001", "1"]
    assert Path("/proc/sys/kernel/msgmax").read_text() != "9001\n"


def test_unknown_kernel_parameter(container: Container) -> None:
    """A parameter this kernel does not have fails with its file."""
    container.spec["linux"]["sysctl"] = {"net.ipv4.no_such_thing": "1"}

    assert container.run("echo").failed == {
        "step": "sysctls",
        "errno": errno.ENOENT,
        "path": "/proc/sys/net/ipv4/no_such_thing",
    }


def test_volatile_upper(container: Container) -> None:
    """A volatile overlay works once; overlayfs refuses the directories a second time."""
    container.volatile = True

    assert container.run("echo x > /x && cat /x").lines == ["x"]
    failed = container.run("true").failed
    assert failed["step"] == f"overlay {container.staging}"


def test_layers_are_stacked_in_order(container: Container, tmp_path: Path) -> None:
    """A higher layer covers a lower one, a whiteout in it removes; names may hold , and :."""
    top = tmp_path / "top:with,both"
    (top / "etc").mkdir(parents=True)
    (top / "etc/hostname").write_text("top\n")
    (top / "root").touch()
    middle = tmp_path / "middle"
    (middle / "etc").mkdir(parents=True)
    (middle / "etc/hostname").write_text("middle\n")
    (middle / "etc/only").write_text("only\n")
    (top / "root").unlink()
    os.mknod(top / "root", 0o020000, 0)
    container.lower += [middle, top]

    outcome = container.run("cat /etc/hostname /etc/only; test -e /root || echo no root")

    assert outcome.lines == ["top", "only", "no root"]


def test_many_layers_with_long_names(container: Container, tmp_path: Path) -> None:
    """A hundred layers in deep directories: more than mount(2) options could name."""
    base = tmp_path / ("deep" * 40)
    for number in range(100):
        layer = base / f"{number:03}" / ("x" * 100)
        layer.mkdir(parents=True)
        (layer / f"file{number}").touch()
        container.lower.append(layer)

    outcome = container.run("ls / | find / -maxdepth 1 -name 'file*' | while read f; do echo; done")

    assert len(outcome.lines) == 100


def test_missing_layer(container: Container, tmp_path: Path) -> None:
    """A layer that is gone is named in the failure."""
    container.lower.append(tmp_path / "gone")

    assert container.run("true").failed == {
        "step": f"overlay {container.staging}",
        "errno": errno.ENOENT,
        "path": str(tmp_path / "gone"),
    }


def test_console_file_for_a_terminal(container: Container) -> None:
    """A container with a terminal has a /dev/console to bind it on, even if all is read-only."""
    container.spec["process"]["terminal"] = True
    container.spec["root"]["readonly"] = True

    assert container.run("stat -c %F /dev/console").lines == ["regular empty file"]
