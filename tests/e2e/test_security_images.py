"""Images made to trap whoever builds a container from them: each stays inside or is refused.

Every test has a canary on the host that the trap points at. The attacks are those published
against other runtimes; the numbers are theirs.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import archives
from tests.harness import RunningDaemon, wait_until
from tests.programs import SWAP_FOR_EVER
from tests.terminal import Terminal

pytestmark = pytest.mark.e2e

Trap = Callable[..., str]
UP = "../" * 12
HOST_SECRET = "/etc/shadow"


@pytest.fixture(scope="module")
def trap(shared_daemon: RunningDaemon, busybox_tar: bytes) -> Trap:
    """Return a function that imports busybox with members replaced and names the image."""
    made = 0

    def build(*members: archives.Member, change: tuple[str, ...] = ()) -> str:
        nonlocal made
        made += 1
        replaced = {member.name for member, _ in members}
        kept: list[archives.Member] = []
        with tarfile.open(fileobj=io.BytesIO(busybox_tar)) as base:
            for member in base.getmembers():
                if member.name not in replaced:
                    file = base.extractfile(member) if member.isreg() else None
                    kept.append((member, file.read() if file else b""))
        flags = [word for line in change for word in ("--change", line)]
        name = f"trap:{made}"
        content = archives.tar(*kept, *members)
        shared_daemon.run("import", *flags, "-", name, stdin=content)
        return name

    return build


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a directory of the host with a file in it, which nothing may change."""
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "file").write_text("untouched")
    return directory


def untouched(canary: Path) -> bool:
    """Whether the canary is as it was made."""
    listed = [path.name for path in canary.iterdir()]
    return listed == ["file"] and (canary / "file").read_text() == "untouched"


TTL = "/proc/sys/net/ipv4/ip_default_ttl"
"""A parameter of the container's own network namespace: harmless, should the trap spring."""


@pytest.mark.parametrize("name", ["dev/null", "dev/zero", "dev/console"])
def test_device_is_a_link_into_proc(shared_daemon: RunningDaemon, trap: Trap, name: str) -> None:
    """CVE-2025-31133: masks are no writable binds of what the image's /dev/null points at."""
    image = trap(archives.symlink(name, TTL))
    script = (
        f"stat -c %t:%T /dev/null; echo 99 > /proc/timer_list; cat /proc/timer_list; cat {TTL};"
        f"echo 1 > {TTL}"
    )
    done = shared_daemon.run("run", "--rm", image, "sh", "-c", script, code=1)

    assert done.stdout.split() == ["1:3", "64"]
    assert "Read-only file system" in done.stderr


def test_console_is_a_link(shared_daemon: RunningDaemon, trap: Trap, canary: Path) -> None:
    """CVE-2025-52565: the terminal is not mounted on what the image's /dev/console points at."""
    image = trap(archives.symlink("dev/console", f"{UP}{canary}/file"))
    with Terminal(shared_daemon, "run", "-it", "--rm", image, "sh") as terminal:
        terminal.expect("# ")
        terminal.type("echo gotcha > /dev/console; stat -c %F /dev/console; exit 4\n")
        terminal.expect("character special file")
        assert terminal.wait() == 4
    assert untouched(canary)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("absolute", [True, False])
def test_mount_point_is_a_link(
    shared_daemon: RunningDaemon, trap: Trap, canary: Path, name: str, absolute: bool
) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2026-41579: /proc, /sys or /dev lead out of the root."""
    image = trap(archives.symlink(name, f"{'' if absolute else UP}{canary}"))
    script = f"echo 1 > /{name}/planted; mount | wc -l"
    done = shared_daemon.run("run", "--rm", image, "sh", "-c", script, code=None)

    assert untouched(canary)
    if done.returncode == 125:
        assert done.stderr.count("\n") == 1
    else:
        kinds = shared_daemon.out("run", "--rm", image, "sh", "-c", "cat /proc/self/mounts")
        assert all(f" {kind} " in kinds for kind in ("proc", "sysfs", "tmpfs"))


@pytest.mark.parametrize(
    "target",
    ["/proc", "/proc/", "/proc/self", "/proc/1/attr", "/proc/sys", "/x/../proc/self", "/in/self"],
)
def test_nothing_covers_proc(
    shared_daemon: RunningDaemon, trap: Trap, tmp_path: Path, target: str
) -> None:
    """CVE-2019-16884, CVE-2025-52881: what the runtime writes below /proc cannot be redirected."""
    image = trap(archives.symlink("in", "/proc"))
    (tmp_path / "planted").touch()
    for flags in (("-v", f"{tmp_path}:{target}"), ("--tmpfs", target)):
        done = shared_daemon.run("run", "--rm", *flags, image, "true", code=125)
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("target", ["/out", "/out/new", "/out/new/deep"])
@pytest.mark.parametrize("absolute", [True, False])
def test_destination_leads_out(
    shared_daemon: RunningDaemon,
    trap: Trap,
    canary: Path,
    tmp_path: Path,
    target: str,
    absolute: bool,
) -> None:
    """CVE-2021-30465: a bind's destination behind a link of the image is made inside the root."""
    image = trap(archives.symlink("out", f"{'' if absolute else UP}{canary}"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine").touch()
    bind = ("-v", f"{source}:{target}")
    done = shared_daemon.run("run", "--rm", *bind, image, "ls", target, code=None)

    assert untouched(canary)
    assert done.returncode == 125 or done.stdout == "mine\n"
    done = shared_daemon.run(
        "run", "--rm", "--tmpfs", target, image, "touch", f"{target}/x", code=None
    )
    assert untouched(canary)


@pytest.mark.parametrize("name", ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc"])
def test_generated_files_behind_links(
    shared_daemon: RunningDaemon, trap: Trap, canary: Path, name: str
) -> None:
    """Files that the runtime puts into /etc are not written through links of the image."""
    aim = canary if name == "etc" else canary / "file"
    image = trap(archives.symlink(name, f"{UP}{aim}"))
    script = "for f in hosts hostname resolv.conf; do echo planted >> /etc/$f; done"
    shared_daemon.run("run", "--rm", image, "sh", "-c", script, code=None)

    assert untouched(canary)


def test_working_directory_behind_a_link(
    shared_daemon: RunningDaemon, trap: Trap, canary: Path
) -> None:
    """A working directory that has to be made is made inside, by -w and by the image's own."""
    link = archives.symlink("out", f"{UP}{canary}")
    image = trap(link, change=("WORKDIR /out/by/image",))
    for flags in ((), ("-w", "/out/by/flag")):
        shared_daemon.run("run", "--rm", *flags, image, "touch", "here", code=None)

    assert untouched(canary)


@pytest.mark.parametrize("volume", [f"/{UP}etc", "/out", "/out/sub", "/"])
def test_volumes_of_the_image(
    shared_daemon: RunningDaemon, trap: Trap, canary: Path, volume: str
) -> None:
    """CVE-2022-23648: a VOLUME copies nothing of the host into the container."""
    image = trap(archives.symlink("out", f"{UP}{canary}"), change=(f'VOLUME ["{volume}"]',))
    script = f"cat {volume}/shadow {volume}/file /etc/shadow"
    done = shared_daemon.run("run", "--rm", image, "sh", "-c", script, code=None)

    assert done.stdout == ""
    assert untouched(canary)


def test_accounts_behind_links(shared_daemon: RunningDaemon, trap: Trap, canary: Path) -> None:
    """/etc/passwd and /etc/group of the image are read inside the root, or not at all."""
    (canary / "file").write_text("spy:x:0:0:::\n")
    image = trap(
        archives.symlink("etc/passwd", f"{UP}{canary}/file"),
        archives.symlink("etc/group", f"{UP}{canary}/file"),
    )
    done = shared_daemon.run("run", "--rm", "-u", "spy", image, "id", code=None)

    assert done.returncode in (125, 126)
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["etc/passwd", "etc/group"])
@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_accounts_that_are_no_files(
    shared_daemon: RunningDaemon, trap: Trap, name: str, kind: bytes
) -> None:
    """A pipe in their place keeps nobody waiting."""
    image = trap(archives.entry(name, kind))
    done = shared_daemon.run("run", "--rm", "-u", "user", image, "id", code=None, timeout=20)

    assert done.returncode in (125, 126)


@pytest.mark.parametrize(
    "variable",
    ["LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/evil", "PYTHONPATH=/evil", "PYTHONHOME=/evil"],
)
def test_environment_of_the_image(shared_daemon: RunningDaemon, trap: Trap, variable: str) -> None:
    """Variables of the image are the program's; they move nothing in what starts it."""
    image = trap(
        archives.file("evil/sitecustomize.py", b"raise SystemExit(99)"),
        archives.file("evil/os.py", b"raise SystemExit(99)"),
        change=(f"ENV {variable}",),
    )
    for flags in ((), ("--init",)):
        assert variable in shared_daemon.out("run", "--rm", *flags, image, "env").splitlines()
    name = shared_daemon.out("run", "-d", image, "sleep", "999")
    assert variable in shared_daemon.out("exec", "-w", "/evil", name, "env").splitlines()
    shared_daemon.run("rm", "-f", name)


def test_libraries_of_the_image_are_not_loaded(shared_daemon: RunningDaemon, trap: Trap) -> None:
    """CVE-2019-14271: no name service, loader configuration or module of the image is opened.

    They are pipes here: whoever opened one would wait for ever.
    """
    traps = (
        "etc/ld.so.preload", "etc/ld.so.cache", "etc/nsswitch.conf", "etc/localtime",
        "lib/x86_64-linux-gnu/libnss_files.so.2", "lib64/libnss_files.so.2", "pyvenv.cfg",
        "usr/lib/python3.11/os.py", "usr/lib/locale/locale-archive", "etc/gai.conf",
    )  # fmt: skip
    image = trap(*(archives.entry(name, tarfile.FIFOTYPE) for name in traps))
    name = shared_daemon.out("run", "-d", "-u", "user", "--init", image, "sleep", "999", timeout=20)

    assert shared_daemon.out("exec", "-u", "user", name, "id", "-u", timeout=20) == "1000"
    shared_daemon.run("rm", "-f", name)


@pytest.mark.parametrize(
    "member",
    [
        archives.file(f"{UP}tmp/aruntime-planted", b"x"),
        archives.file("/tmp/aruntime-planted", b"x"),
        archives.hard_link("stolen", f"{UP}etc/shadow"),
        archives.hard_link("stolen", "/etc/shadow"),
        archives.symlink("stolen", f"{UP}etc/shadow"),
        archives.file("a\0b", b"x"),
        archives.symlink(".", "/tmp"),
        archives.symlink("..", "/tmp"),
    ],
    ids=lambda member: f"{member[0].type!r} {member[0].name!r}",
)
def test_archives_that_reach_out(shared_daemon: RunningDaemon, member: archives.Member) -> None:
    """CVE-2014-9356: names and links of an archive mean the image's root, or it is refused."""
    planted = Path("/tmp/aruntime-planted")
    before = os.stat(HOST_SECRET)
    done = shared_daemon.run("import", "-", "reach:out", stdin=archives.tar(member), code=None)
    if done.returncode == 0:
        shared_daemon.run("rmi", "reach:out")
    else:
        assert done.stderr.count("\n") == 1

    assert not planted.exists()
    assert (os.stat(HOST_SECRET).st_nlink, os.stat(HOST_SECRET).st_ctime) == (
        before.st_nlink,
        before.st_ctime,
    )


def test_later_layers_do_not_follow_links(
    shared_daemon: RunningDaemon, busybox_tar: bytes, canary: Path
) -> None:
    """A link in one layer, a file below it in the next: neither reaches the host."""
    layers = [
        busybox_tar,
        archives.tar(archives.symlink("out", f"{UP}{canary}")),
        archives.tar(
            archives.file("out/planted", b"x"),
            archives.file("out/.wh.file", b""),
            archives.file("out/.wh..wh..opq", b""),
        ),
    ]
    done = shared_daemon.run("load", stdin=archives.docker_archive(layers, "layers:1"), code=None)

    assert untouched(canary)
    if done.returncode == 0:
        shared_daemon.run("run", "--rm", "layers:1", "touch", "/out/more", code=None)
        assert untouched(canary)


def test_an_image_that_unpacks_to_too_much(shared_daemon: RunningDaemon) -> None:
    """A small archive that unpacks beyond the limit is refused, and nothing of it is kept."""
    before = sorted(path.name for path in (shared_daemon.root / "images").rglob("*"))
    content = archives.tar(archives.file("zeros", bytes(32 << 20)))
    done = shared_daemon.run("import", "--max-size", "16m", "-", "bomb:1", stdin=content, code=125)

    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (shared_daemon.root / "images").rglob("*")) == before


def test_a_layer_that_is_not_what_its_digest_says(
    shared_daemon: RunningDaemon, busybox_tar: bytes
) -> None:
    """CVE-2014-8179: content that differs from its digest is refused."""
    config = archives.image_config([b"something else"])
    content = archives.docker_archive([busybox_tar], "forged:1", config=config)
    done = shared_daemon.run("load", stdin=content, code=None)

    assert done.returncode != 0
    assert "forged" not in shared_daemon.out("images")


@pytest.mark.parametrize("running", [True, False])
def test_copying_loads_nothing_of_the_container(
    shared_daemon: RunningDaemon, trap: Trap, tmp_path: Path, running: bool
) -> None:
    """CVE-2019-14271: what cp and export need is loaded before they enter a container.

    Libraries and modules of the image are pipes: whoever opened one would wait for ever.
    """
    traps = (
        "etc/ld.so.preload", "etc/ld.so.cache", "etc/nsswitch.conf", "etc/localtime", "pyvenv.cfg",
        "lib/x86_64-linux-gnu/libnss_files.so.2", "usr/lib/python3.11/os.py",
        "usr/lib/locale/locale-archive", "usr/lib/python3.11/encodings/__init__.py",
    )  # fmt: skip
    image = trap(*(archives.entry(name, tarfile.FIFOTYPE) for name in traps))
    verb = ("run", "-d") if running else ("create",)
    name = shared_daemon.out(*verb, "--network", "none", image, "sleep", "999")

    shared_daemon.run("cp", f"{name}:/bin/busybox", str(tmp_path), timeout=20)
    shared_daemon.run("cp", str(tmp_path / "busybox"), f"{name}:/tmp/", timeout=20)
    shared_daemon.run("export", "-o", str(tmp_path / "e"), name, timeout=20)
    shared_daemon.run("diff", name, timeout=20)
    shared_daemon.run("commit", name, "loads:nothing", timeout=20)
    shared_daemon.run("rmi", "loads:nothing")


def test_copying_while_paths_are_exchanged(
    shared_daemon: RunningDaemon, busybox_tar: bytes, canary: Path, tmp_path: Path
) -> None:
    """CVE-2018-15664: a directory that is now one, now a link to / leads nowhere but inside."""
    daemon = shared_daemon
    with tarfile.open(fileobj=io.BytesIO(busybox_tar)) as base:
        kept = [(one, (base.extractfile(one) or io.BytesIO()).read() if one.isreg() else b"")
                for one in base.getmembers()]  # fmt: skip
    daemon.run(
        "import", "-", "swap",
        stdin=archives.tar(*kept, archives.file("swap", SWAP_FOR_EVER, mode=0o755)),
    )  # fmt: skip
    script = f"mkdir -p /a{canary} {canary}; ln -s / /l; echo inside > /a{canary}/file; exec /swap"
    daemon.run("run", "-d", "--name", "swapping", "--cpus", "0.5", "swap", "sh", "-c", script)
    (tmp_path / "in").write_text("planted")
    got = tmp_path / "got"
    for _ in range(6):
        daemon.run("cp", f"swapping:/a{canary}/file", str(got), code=None)
        assert not got.exists() or got.read_text() in ("inside\n", "planted")
        daemon.run("cp", str(tmp_path / "in"), f"swapping:/a{canary}/file", code=None)
        daemon.run("exec", "swapping", "sh", "-c", f"echo inside > /a{canary}/file", code=None)
        assert untouched(canary)
        got.unlink(missing_ok=True)
    daemon.run("rm", "-f", "swapping")
    daemon.run("rmi", "swap")


@pytest.mark.parametrize("running", [True, False])
def test_copying_to_a_link_out(
    shared_daemon: RunningDaemon, canary: Path, tmp_path: Path, running: bool
) -> None:
    """CVE-2021-41089: what a link in the container points at is in the container."""
    daemon = shared_daemon
    daemon.run("run", "--name", "linked", "busybox", "ln", "-s", f"{canary}/file", "/d")
    if running:
        daemon.run("rm", "linked")
        daemon.run("run", "-d", "--name", "linked", "busybox", "sh", "-c",
                   f"ln -s {canary}/file /d; ln -s {canary} /e; sleep 999")  # fmt: skip
        wait_until(lambda: "/e" in daemon.out("diff", "linked"))
    (tmp_path / "in").write_text("planted")
    (tmp_path / "dir").mkdir()
    for source, target in (("in", "/d"), ("dir/.", "/d"), ("in", "/e/file"), ("dir", "/e")):
        daemon.run("cp", f"{tmp_path}/{source}", f"linked:{target}", code=None)
        assert untouched(canary)
    assert daemon.run("cp", "-L", "linked:/d", str(tmp_path / "out"), code=None).returncode != 0
    daemon.run("rm", "-f", "linked")


def test_devices_and_setuid_files_of_a_container(
    shared_daemon: RunningDaemon, tmp_path: Path
) -> None:
    """A copy on the host gives nobody a device or root; -a is for those who mean it."""
    daemon = shared_daemon
    script = "mkdir /x; mknod /x/disk b 8 0; cp /bin/busybox /s; chmod 6755 /s"
    daemon.run("run", "--name", "maker", "busybox", "sh", "-c", script)
    assert "is a device" in daemon.run("cp", "maker:/x", str(tmp_path), code=125).stderr
    daemon.run("cp", "maker:/s", str(tmp_path))
    assert (tmp_path / "s").stat().st_mode & 0o7777 == 0o755
    daemon.run("cp", "-a", "maker:/s", str(tmp_path / "trusted"))
    assert (tmp_path / "trusted").stat().st_mode & 0o7777 == 0o6755
    daemon.run("rm", "maker")
