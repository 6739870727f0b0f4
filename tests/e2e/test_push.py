"""push: into Debian's registry, through a network that breaks, and what others make of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import archives, proxies, spec_registry
from tests.conftest import require_program
from tests.harness import RunningDaemon
from tests.registries import RunningRegistry

pytestmark = pytest.mark.e2e

LARGE_BYTES = 40 << 20
"""Of a layer that goes in several chunks."""


def manifest_of(registry: RunningRegistry, name: str, tag: str) -> dict[str, object]:
    """Return the manifest a tag stands for in a registry."""
    found: dict[str, object] = json.loads(registry.blob(registry.digest_of(name, tag)).read_text())
    return found


def import_large(daemon: RunningDaemon, name: str) -> None:
    """Import an image with a layer that does not compress."""
    content = os.urandom(1 << 20) * (LARGE_BYTES >> 20)  # beyond zlib's window
    daemon.run("import", "-", name, stdin=archives.tar(archives.file("large", content)))


def test_push_prints_what_docker_prints(
    shared_daemon: RunningDaemon, registry: RunningRegistry
) -> None:
    """Repository, a line for each layer, digest; the second time everything is there."""
    name = f"{registry.host}/team/busybox"
    shared_daemon.run("tag", "busybox", name)

    lines = shared_daemon.out("push", name).splitlines()

    digest = registry.digest_of("team/busybox", "latest")
    size = registry.blob(digest).stat().st_size
    assert lines[:2] == [
        "Using default tag: latest",
        f"The push refers to repository [{name}]",
    ]
    assert lines[2].endswith(": Preparing")
    assert lines[-2].endswith(": Pushed")
    assert lines[-1] == f"latest: digest: {digest} size: {size}"
    again = shared_daemon.out("push", f"{name}:latest").splitlines()
    assert again[0] == f"The push refers to repository [{name}]"
    assert again[-2].endswith(": Layer already exists")
    assert again[-1] == lines[-1]
    assert shared_daemon.out("images", "--digests", "--format", "{{.Digest}}", name) == digest
    assert shared_daemon.out("push", "-q", name) == f"{name}:latest"


def test_a_plain_layer_goes_compressed_and_the_image_stays_the_same(
    shared_daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """import keeps an archive plain; registries get gzip, podman and skopeo read it back."""
    content = archives.tar(archives.file("etc/motd", b"plain\n"))
    shared_daemon.run("import", "-", "plain", stdin=content)
    before = shared_daemon.out("images", "-q", "--no-trunc", "plain")
    name = f"{registry.host}/plain"
    shared_daemon.run("tag", "plain", name)

    shared_daemon.run("push", name)

    manifest = manifest_of(registry, "plain", "latest")
    layers = manifest["layers"]
    assert isinstance(layers, list)
    assert layers[0]["mediaType"].endswith("tar+gzip")
    assert shared_daemon.out("images", "-q", "--no-trunc", "plain") == before
    subprocess.run(
        [
            require_program("skopeo"), "--insecure-policy", "copy", "-q", "--src-tls-verify=false",
            f"docker://{name}:latest", f"docker-archive:{tmp_path}/back.tar:back:1",
        ],
        check=True,
    )  # fmt: skip
    shared_daemon.run("rmi", "-f", "plain", f"{name}:latest")
    assert shared_daemon.out("load", "-i", str(tmp_path / "back.tar")) == "Loaded image: back:1"
    assert shared_daemon.out("images", "-q", "--no-trunc", "back:1") == before
    assert shared_daemon.out("pull", "-q", name) == f"{name}:latest"
    assert shared_daemon.out("images", "-q", "--no-trunc", name) == before


def test_layers_of_another_repository_are_mounted(
    shared_daemon: RunningDaemon, registry: RunningRegistry
) -> None:
    """What the registry has in another repository does not travel again."""
    first, second = f"{registry.host}/one/busybox:1", f"{registry.host}/two/busybox:1"
    shared_daemon.run("tag", "busybox", first)
    shared_daemon.run("push", first)
    shared_daemon.run("tag", first, second)

    with proxies.running(registry.host) as proxy:
        third = f"{proxy.host}/three/busybox:1"
        shared_daemon.run("tag", first, f"{proxy.host}/one/busybox:1")
        shared_daemon.run("tag", first, third)
        shared_daemon.run("push", third)
        bodies = proxy.requests("PATCH", "") + proxy.requests("PUT", "/blobs/")

    # Only the configuration, which is no layer.
    assert len(bodies) == 1
    assert ": Mounted from one/busybox" in shared_daemon.out("push", second)


def test_push_all_tags(shared_daemon: RunningDaemon, registry: RunningRegistry) -> None:
    """-a pushes every name of the repository, and nothing of others."""
    name = f"{registry.host}/busybox"
    for tag in ("1", "2"):
        shared_daemon.run("tag", "busybox", f"{name}:{tag}")
    shared_daemon.run("tag", "busybox", f"{registry.host}/other:1")

    out = shared_daemon.out("push", "-a", name)

    assert "1: digest: sha256:" in out
    assert "2: digest: sha256:" in out
    assert "other" not in registry.catalogue()
    wrong = shared_daemon.run("push", "-a", f"{name}:1", code=125)
    assert wrong.stderr.startswith("aruntime: tag can't be used with --all-tags/-a")
    missing = shared_daemon.run("push", "-a", f"{registry.host}/none", code=125)
    assert "an image does not exist locally with the tag" in missing.stderr


def test_an_upload_that_breaks_goes_on_where_it_broke(shared_daemon: RunningDaemon) -> None:
    """A connection cut in a chunk costs what was under way: the registry is asked how far it got.

    Debian's registry forgets such uploads, so this one does what the specification says.
    """
    with spec_registry.running() as registry:
        name = f"{registry.host}/large"
        import_large(shared_daemon, name)
        registry.cuts = [3 << 20, 0]

        shared_daemon.run("push", name)

        assert len(registry.starts) == 5
        assert registry.starts[0] == 0
        assert registry.starts[1] >= 3 << 20
        assert ("large", "latest") in registry.manifests


def test_registries_that_want_it_otherwise(shared_daemon: RunningDaemon) -> None:
    """Larger chunks, none at all, no mounts: the blob gets there."""
    with spec_registry.running() as registry:
        name = f"{registry.host}/large"
        import_large(shared_daemon, name)
        registry.chunk_min = 30 << 20
        shared_daemon.run("push", name)
        assert registry.starts == [0, 30 << 20]

        registry.blobs.clear()
        registry.chunk_min, registry.takes_chunks, registry.knows_mounts = 0, False, False
        shared_daemon.run("tag", name, f"{registry.host}/other")
        shared_daemon.run("push", f"{registry.host}/other")
        assert ("other", "latest") in registry.manifests
        assert max(map(len, registry.blobs.values())) > 40 << 20


def test_docker_s_registry_gets_an_upload_anew(
    shared_daemon: RunningDaemon, registry: RunningRegistry
) -> None:
    """It forgets an upload whose connection broke, and says so; a busy moment is waited for."""
    with proxies.running(registry.host) as proxy:
        name = f"{proxy.host}/large"
        import_large(shared_daemon, name)
        first = proxy.spoil("/blobs/uploads/", method="PATCH", cut_request=3 << 20)
        proxy.spoil("/blobs/uploads/", method="PUT", status=503)

        shared_daemon.run("push", name)

        assert first.reached.is_set()
        assert len(proxy.requests("PATCH", "/blobs/uploads/")) >= 3
    digest = registry.digest_of("large", "latest")
    pulled = shared_daemon.run("pull", "-q", f"{registry.host}/large@{digest}")
    assert pulled.stdout.strip().endswith(digest)


def test_a_registry_restarted_in_mid_push(
    shared_daemon: RunningDaemon, registry: RunningRegistry
) -> None:
    """The registry dies while a layer comes in and is back a moment later: the push succeeds."""
    with proxies.running(registry.host) as proxy:
        name = f"{proxy.host}/large"
        import_large(shared_daemon, name)
        fault = proxy.spoil("/blobs/uploads/", method="PATCH", cut_request=5 << 20)
        with shared_daemon.popen("push", "-q", name, stdout=subprocess.PIPE) as push:
            assert fault.reached.wait(60)
            registry.stop()
            registry.start()
            out, _ = push.communicate(timeout=60)
        assert push.returncode == 0
        assert out.decode() == f"{name}:latest\n"
    assert "large" in registry.catalogue()


def test_a_damaged_blob_is_not_pushed(
    shared_daemon: RunningDaemon, registry: RunningRegistry
) -> None:
    """A layer that rotted on the disk is named; nothing false reaches the registry."""
    name = f"{registry.host}/rotten"
    content = archives.tar(archives.file("random", os.urandom(1 << 20)))
    shared_daemon.run("import", "-", name, stdin=content)
    blob = shared_daemon.root / "images/blobs/sha256" / archives.digest(content)[7:]
    with open(blob, "r+b") as file:
        file.seek(1 << 10)
        file.write(b"rotten")

    failed = shared_daemon.run("push", name, code=125)

    [line] = failed.stderr.splitlines()
    assert line.startswith(f"aruntime: blob sha256:{blob.name} of the image store is damaged")
    assert not (registry.storage / "docker/registry/v2/repositories/rotten/_manifests").exists()


def test_a_damaged_compressed_blob_is_not_pushed(
    shared_daemon: RunningDaemon, registry: RunningRegistry
) -> None:
    """The registry refuses what has another digest; the error says whose fault it is."""
    layout = archives.OciLayout()
    image = layout.image([archives.tar(archives.file("random", os.urandom(1 << 20)))])
    name = f"{registry.host}/rotten:1"
    shared_daemon.run("load", stdin=layout.archive(archives.named(image, name)))
    [digest] = [key for key, blob in layout.blobs.items() if len(blob) > 1 << 19]
    with open(shared_daemon.root / "images/blobs/sha256" / digest[7:], "r+b") as file:
        file.seek(1 << 10)
        file.write(b"rotten")

    failed = shared_daemon.run("push", name, code=125)

    [line] = failed.stderr.splitlines()
    assert line.startswith(f"aruntime: blob {digest} of the image store is damaged or gone")
    assert not (registry.storage / "docker/registry/v2/repositories/rotten/_manifests").exists()


def test_what_cannot_be_pushed(shared_daemon: RunningDaemon) -> None:
    """No image, a digest, a registry that is not there: one line each."""
    for args, text in (
        (("push", "nothing"), "no such image: docker.io/library/nothing:latest"),
        (("push", f"busybox@sha256:{'0' * 64}"), "a digest is what a registry answers"),
    ):
        [line] = shared_daemon.run(*args, code=125).stderr.splitlines()
        assert text in line
    shared_daemon.run("tag", "busybox", "127.0.0.1:1/busybox")
    failed = shared_daemon.run("push", "127.0.0.1:1/busybox", code=125)
    [line] = failed.stderr.splitlines()
    assert line.startswith(
        "aruntime: cannot push 127.0.0.1:1/busybox:latest: cannot reach registry"
    )
