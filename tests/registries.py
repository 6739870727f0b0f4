"""Debian's docker-registry on the loopback, filled by skopeo, and ways to make it misbehave."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_program

START_SECONDS = 20
CONFIG = """version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
{more}
"""


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningRegistry:
    """A registry with storage of its own; starting it again keeps port and content."""

    def __init__(self, base: Path, more: str = "") -> None:
        self.program = require_program("docker-registry")
        self.base = base
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.storage = base / "storage"
        self.config = base / "config.yml"
        base.mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG.format(storage=self.storage, port=self.port, more=more))

    def start(self) -> None:
        """Start it and wait until it listens."""
        with open(self.base / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "serve", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, (self.base / "log").read_text()
            assert time.monotonic() < deadline, "the registry does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def push(self, archive: Path, name: str, *options: str, kind: str = "oci-archive") -> None:
        """Fill it with the image of an archive, by skopeo."""
        done = subprocess.run(
            [
                require_program("skopeo"), "--insecure-policy", "copy", "-q",
                "--dest-tls-verify=false", *options, f"{kind}:{archive}",
                f"docker://{self.host}/{name}",
            ],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def blob(self, digest: str) -> Path:
        """Return the file a blob is in."""
        found = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{found[:2]}/{found}/data"

    def digest_of(self, name: str, tag: str) -> str:
        """Return the digest a tag stands for."""
        tags = self.storage / f"docker/registry/v2/repositories/{name}/_manifests/tags"
        return (tags / tag / "current/link").read_text().strip()

    def catalogue(self) -> str:
        """Ask which repositories there are."""
        with urllib.request.urlopen(f"http://{self.host}/v2/_catalog", timeout=10) as reply:
            return str(reply.read().decode())


@contextlib.contextmanager
def running(base: Path, more: str = "") -> Iterator[RunningRegistry]:
    """Run a registry while the block runs; its storage goes with it."""
    registry = RunningRegistry(base, more)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    """Yield an empty registry that speaks plain HTTP."""
    with running(tmp_path / "registry") as found:
        yield found
