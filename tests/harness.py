"""A real daemon with a real shim, driven through the installed client, and real images."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import require_program

BIN = Path(sys.executable).parent
SUBNETS = itertools.count(1)
START_SECONDS = 20
REMOVE_NETWORKS = """
import pathlib, sys
from aruntime.network import Network, default_definition, store
bridge, subnet, root = sys.argv[1:]
root = pathlib.Path(root) / "networks"
for definition in [default_definition(bridge, subnet), *store.load_all(root)[0]]:
    Network(definition, root / definition.name / "leases").remove()
"""


def wait_until(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Poll a condition of another process until it holds; a busy machine may take its time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.005)


class RunningDaemon:
    """A daemon of a test: its own root, run directory, bridge, subnet and cgroup parent."""

    def __init__(self) -> None:
        number = next(SUBNETS)
        self.client = str(BIN / "aruntime")
        self.program = str(BIN / "aruntimed")
        self.base = Path(tempfile.mkdtemp(prefix=f"aruntime-test-{os.getpid()}-"))
        self.root = self.base / "root"
        self.run_dir = self.base / "run"
        self.bridge = f"art{os.getpid() % 100000}x{number}"[:15]
        # Test runs side by side must not meet. Their pids are close to each other, and each has
        # few daemons at a time.
        own = os.getpid() // 200 % 16 * 16 + number % 16
        self.subnet = f"10.{20 + os.getpid() % 200}.{own}.0/24"
        self.cgroup_parent = f"/aruntime-test-{os.getpid()}-{number}"
        self.extra: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": "/root",
            "ARUNTIME_HOST": f"unix://{self.run_dir}/aruntime.sock",
            "ARUNTIME_RUN_DIR": str(self.run_dir),
            "ARUNTIME_ROOT": str(self.root),
        }

    @property
    def log(self) -> str:
        """What the daemon logged so far."""
        path = self.base / "daemon.log"
        return path.read_text() if path.exists() else ""

    def start(self, *options: str, on_spawn: Callable[[int], None] | None = None) -> None:
        """Start the daemon and wait until its socket answers.

        Args:
            on_spawn: called with its process id before that.
        """
        ready_read, ready_write = os.pipe()
        with open(self.base / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    self.program,
                    f"--root={self.root}",
                    f"--run-dir={self.run_dir}",
                    f"--bridge={self.bridge}",
                    f"--subnet={self.subnet}",
                    f"--cgroup-parent={self.cgroup_parent}",
                    "--metrics-address=127.0.0.1:0",
                    "--log-format=json",
                    f"--ready-fd={ready_write}",
                    *self.extra,
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_write,),
                env=self.env,
            )
        os.close(ready_write)
        if on_spawn is not None:
            on_spawn(self.process.pid)
        with open(ready_read, "rb") as ready:
            assert ready.read(6) == b"ready\n", f"the daemon did not start:\n{self.log}"

    def stop(self) -> None:
        """Stop the daemon in an orderly way; containers run on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def kill(self) -> None:
        """Kill the daemon at once; containers run on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    @property
    def shim_pid(self) -> int:
        """Process id of the shim."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                if os.fsencode(str(self.run_dir)) in words and any(b"shim" in w for w in words):
                    return int(entry.parent.name)
        return 0

    def popen(self, *args: str, **options: object) -> subprocess.Popen[bytes]:
        """Start the client without waiting for it."""
        words = [self.client, *args]
        started: subprocess.Popen[bytes]
        started = subprocess.Popen(words, env=self.env, **options)  # type: ignore[call-overload]  # by name
        return started

    def run(
        self, *args: str, stdin: bytes | None = None, code: int | None = 0, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the client to its end; ``code`` is the exit code asked for (None: any)."""
        done = subprocess.run(
            [self.client, *args],
            env=self.env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if code is not None:
            assert done.returncode == code, (
                f"aruntime {' '.join(args)}: exit {done.returncode}, not {code}\n{out}\n{err}\n"
                f"{self.log[-4000:]}"
            )
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def out(self, *args: str, **options: object) -> str:
        """Return what a successful command printed, without the last line end."""
        return self.run(*args, **options).stdout.removesuffix("\n")  # type: ignore[arg-type]  # by name

    def metrics(self) -> str:
        """Scrape /metrics once."""
        address = (self.run_dir / "metrics.addr").read_text().strip()
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            return str(reply.read().decode())

    def metric(self, name: str, /, **labels: str) -> float:
        """Return one sample of /metrics by name and some of its labels."""
        for line in self.metrics().splitlines():
            head, _, value = line.rpartition(" ")
            family = head.partition("{")[0]
            if family == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
                return float(value)
        raise AssertionError(f"no sample {name} {labels}")

    def cgroup_file(self, controller: str, name: str, container: str = "") -> str:
        """Read a file of the parent's or a container's cgroup."""
        group = Path("/sys/fs/cgroup") / controller / self.cgroup_parent.strip("/")
        return (group / container / name).read_text().strip()

    def load_busybox(self, busybox_tar: bytes, name: str = "busybox:latest") -> None:
        """Import the busybox image."""
        self.run("import", "-", name, stdin=busybox_tar)

    def container_ids(self) -> set[str]:
        """Return the ids of all containers; none while no daemon runs."""
        if self.process is None or self.process.poll() is not None:
            return set()
        return set(self.out("ps", "-aq", "--no-trunc").split())

    def destroy(self) -> None:
        """Remove all containers, stop daemon and shim, remove every trace."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        ids = self.out("ps", "-aq", "--no-trunc").split()
        if ids:
            self.run("rm", "-f", "-v", *ids)
        shim = self.shim_pid
        self.stop()
        if shim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(shim, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{shim}").exists(), what="the shim ends")
        subprocess.run(
            [sys.executable, "-c", REMOVE_NETWORKS, self.bridge, self.subnet, str(self.root)],
            check=True,
        )
        for group in Path("/sys/fs/cgroup").glob(f"*{self.cgroup_parent}"):
            group.rmdir()
        shutil.rmtree(self.base)


@pytest.fixture(scope="session")
def busybox_tar(busybox: str) -> bytes:
    """Return a root file system with busybox and its applets, as a tar archive."""
    return busybox_archive(busybox)


def busybox_archive(busybox: str) -> bytes:
    """Make that archive of a busybox."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, content: bytes | None = None, mode: int = 0o755, link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            elif content is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content) if content is not None else None)

        for directory in ("bin", "etc", "home", "proc", "sys", "dev", "root", "usr", "var", "mnt"):
            add(directory)
        add("tmp", mode=0o1777)
        add("bin/busybox", Path(busybox).read_bytes())
        for applet in applets.stdout.split():
            if applet != "busybox":
                add(f"bin/{applet}", link="busybox")
        add(
            "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n", 0o644
        )
        add("etc/group", b"root:x:0:\nuser:x:1000:\nextra:x:1001:user\n", 0o644)
    return buffer.getvalue()


@pytest.fixture
def bare_daemon() -> Iterator[RunningDaemon]:
    """Yield a daemon that runs, without any image."""
    daemon = RunningDaemon()
    daemon.start()
    yield daemon
    daemon.destroy()


@pytest.fixture
def daemon(bare_daemon: RunningDaemon, busybox_tar: bytes) -> RunningDaemon:
    """Return a running daemon with the image busybox."""
    bare_daemon.load_busybox(busybox_tar)
    return bare_daemon


@pytest.fixture(scope="session")
def debian_tar() -> Path:
    """Return a small real Debian root file system (debootstrap), kept between test runs."""
    return debian_archive()


def debian_archive() -> Path:
    """Return a small real Debian root file system (debootstrap), kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "aruntime-tests"
    archive = cache / "debian-bookworm.tar"
    if archive.exists():
        return archive
    debootstrap = require_program("debootstrap")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aruntime-debootstrap-") as directory:
        rootfs = Path(directory) / "rootfs"
        built = subprocess.run(
            [debootstrap, "--variant=minbase", "bookworm", str(rootfs)],
            capture_output=True,
            text=True,
        )
        assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
        shutil.rmtree(rootfs / "var/cache/apt", ignore_errors=True)
        shutil.rmtree(rootfs / "var/lib/apt/lists", ignore_errors=True)
        partial = archive.with_suffix(".partial")
        subprocess.run(
            ["tar", "--numeric-owner", "-C", str(rootfs), "-cf", str(partial), "."], check=True
        )
    partial.rename(archive)
    return archive
