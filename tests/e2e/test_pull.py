"""pull, and run of an image that is not here, from Debian's registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import archives
from tests.harness import RunningDaemon
from tests.registries import RunningRegistry

pytestmark = pytest.mark.e2e


@pytest.fixture(name="busybox_image")
def _busybox_image(tmp_path: Path, busybox_tar: bytes) -> Path:
    """Return an OCI archive of busybox in two layers."""
    path = tmp_path / "busybox.tar"
    layout = archives.OciLayout()
    greeting = archives.tar(archives.file("etc/motd", b"hello\n"))
    image = layout.image([busybox_tar, greeting])
    path.write_bytes(layout.archive(archives.named(image, "localhost/busybox:latest")))
    return path


def test_pull_prints_what_docker_prints(
    bare_daemon: RunningDaemon, registry: RunningRegistry, busybox_image: Path
) -> None:
    """The seed's transcript: default tag, a line for each layer, digest and status."""
    registry.push(busybox_image, "library/busybox:latest")
    name = f"{registry.host}/library/busybox"

    lines = bare_daemon.out("pull", name).splitlines()

    assert lines[:2] == ["Using default tag: latest", "latest: Pulling from library/busybox"]
    complete = [line for line in lines if line.endswith(": Pull complete")]
    assert len(complete) == 2
    digest = registry.digest_of("library/busybox", "latest")
    assert lines[-3:] == [
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}:latest",
        f"{name}:latest",
    ]
    again = bare_daemon.out("pull", f"{name}:latest").splitlines()
    assert again[0] == "latest: Pulling from library/busybox"
    assert f"Status: Image is up to date for {name}:latest" in again
    assert bare_daemon.out("run", "--rm", name, "cat", "/etc/motd") == "hello"
    assert bare_daemon.out("images", "--digests", "--format", "{{.Digest}}") == digest
