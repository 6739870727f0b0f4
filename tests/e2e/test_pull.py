"""pull, and run of an image that is not here, from Debian's registry."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import archives, certificates, proxies, registries
from tests.harness import RunningDaemon, wait_until
from tests.images import Made, made
from tests.proxies import Proxy
from tests.registries import RunningRegistry
from tests.terminal import Terminal

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


@pytest.fixture(name="random_image")
def _random_image(tmp_path: Path) -> Made:
    return made(tmp_path)


@pytest.fixture
def proxy(registry: RunningRegistry) -> Iterator[Proxy]:
    """Yield a proxy before the registry."""
    with proxies.running(registry.host) as found:
        yield found


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


def test_run_pulls_what_is_missing(
    shared_daemon: RunningDaemon, registry: RunningRegistry, busybox_image: Path
) -> None:
    """The seed's transcript of run: said on stderr, so that stdout is the program's."""
    registry.push(busybox_image, "library/hello:latest")
    name = f"{registry.host}/library/hello"

    done = shared_daemon.run("run", "--rm", name, "cat", "/etc/motd")

    assert done.stdout == "hello\n"
    lines = done.stderr.splitlines()
    assert lines[0] == f"Unable to find image '{name}:latest' locally"
    assert lines[1] == "latest: Pulling from library/hello"
    assert lines[-1] == f"Status: Downloaded newer image for {name}:latest"
    assert shared_daemon.run("run", "--rm", name, "true").stderr == ""
    again = shared_daemon.run("run", "--rm", "--pull", "always", name, "true").stderr
    assert f"Status: Image is up to date for {name}:latest" in again
    never = shared_daemon.run("run", "--pull", "never", f"{name}:2", "true", code=125)
    assert never.stderr.startswith("aruntime: no such image")


@pytest.mark.parametrize(
    ("options", "compression"),
    [((), "gzip"), ((), "zstd"), (("--format", "v2s2"), "gzip")],
    ids=["oci gzip", "oci zstd", "docker"],
)
def test_media_types_and_compressions(
    shared_daemon: RunningDaemon,
    registry: RunningRegistry,
    busybox_image: Path,
    options: tuple[str, ...],
    compression: str,
) -> None:
    """What skopeo and docker put there is what comes."""
    registry.push(
        busybox_image, "kinds:1", *options, "--dest-compress-format", compression,
        "--dest-compress",
    )  # fmt: skip
    name = f"{registry.host}/kinds:1"

    shared_daemon.run("pull", name)

    assert shared_daemon.out("run", "--rm", name, "cat", "/etc/motd") == "hello"
    media_type = "distribution.manifest.v2" if options else "oci.image.manifest.v1"
    manifest = registry.blob(registry.digest_of("kinds", "1")).read_text()
    assert media_type in manifest
    assert ("zstd" in manifest) == (compression == "zstd")


def test_an_image_for_several_platforms(
    shared_daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """An index leads to the image for this machine, or for the platform that was asked for."""
    layout = archives.OciLayout()
    entries = []
    for architecture in ("amd64", "arm64"):
        layer = archives.tar(archives.file("arch", architecture.encode()))
        config = json.loads(archives.image_config([layer]))
        config["architecture"] = architecture
        image = layout.image([layer], config=json.dumps(config).encode())
        entries.append({**image, "platform": {"os": "linux", "architecture": architecture}})
    index = layout.add_json(
        {"schemaVersion": 2, "mediaType": f"{archives.OCI}.index.v1+json", "manifests": entries},
        f"{archives.OCI}.index.v1+json",
    )
    (tmp_path / "both.tar").write_bytes(layout.archive(archives.named(index, "both:1")))
    registry.push(tmp_path / "both.tar", "both:1", "--all")
    name = f"{registry.host}/both:1"

    shared_daemon.run("pull", "--platform", "linux/arm64", name)
    assert shared_daemon.out("inspect", "-f", "{{.Architecture}}", name) == "arm64"
    shared_daemon.run("pull", name)
    assert shared_daemon.out("inspect", "-f", "{{.Architecture}}", name) == "amd64"
    missing = shared_daemon.run("pull", "--platform", "linux/s390x", name, code=125)
    assert "has no image for linux/s390x, but for linux/amd64, linux/arm64" in missing.stderr
    by_digest = f"{registry.host}/both@{index['digest']}"
    assert shared_daemon.out("pull", "-q", by_digest) == by_digest


def test_all_tags_of_a_repository(
    shared_daemon: RunningDaemon, registry: RunningRegistry, busybox_image: Path
) -> None:
    """Every tag comes, each with its lines; a tag beside -a is a mistake."""
    for tag in ("1", "2"):
        registry.push(busybox_image, f"tagged:{tag}")
    name = f"{registry.host}/tagged"

    out = shared_daemon.out("pull", "-a", name)

    assert "1: Pulling from tagged" in out
    assert "2: Pulling from tagged" in out
    assert shared_daemon.out("images", "--format", "{{.Tag}}", name).split() == ["1", "2"]
    wrong = shared_daemon.run("pull", "-a", f"{name}:1", code=125)
    assert wrong.stderr.startswith("aruntime: tag can't be used with --all-tags/-a")


def test_a_terminal_gets_bars(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """Lines change in place while bytes move; without a terminal there are none."""
    registry.push(random_image.path, "bars:1")
    gate = threading.Event()
    for part in random_image.parts:
        proxy.spoil(part, cut=2 << 20, gate=gate)
    with Terminal(shared_daemon, "pull", f"{proxy.host}/bars:1", columns=160) as terminal:
        shown = terminal.expect(r"Downloading \[=+> *\] *[\d.]+[kM]B/3\.1\d*MB")
        assert "/3.1" in shown[0]
        gate.set()
        terminal.expect("Status: Downloaded newer image")
        assert terminal.wait() == 0


def test_a_broken_connection_is_taken_up_where_it_broke(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """The rest is asked for by Range, as often as it takes; nothing comes twice."""
    registry.push(random_image.path, "broken:1")
    [first, second, third] = random_image.parts
    proxy.spoil(first, cut=1 << 20)
    proxy.spoil(first, cut=1 << 20)
    proxy.spoil(second, status=429, headers={"Retry-After": "0"})
    proxy.spoil(second, status=503)
    proxy.spoil(third, cut=0)
    proxy.spoil("/manifests/", status=500)

    shared_daemon.run("pull", f"{proxy.host}/broken:1")

    ranges = [one.range for one in proxy.requests("GET", first)]
    assert ranges[0] == ""
    starts = [int(text.removeprefix("bytes=").removesuffix("-")) for text in ranges[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]


def test_a_layer_is_unpacked_while_it_comes(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """Its files are made of what is there, and nothing of it is in the store before the end."""
    registry.push(random_image.path, "growing:1")
    gate = threading.Event()
    fault = proxy.spoil(random_image.parts[1], cut=1 << 20, gate=gate)
    images = shared_daemon.root / "images"
    before = set(images.glob("layers/*"))
    with shared_daemon.popen("pull", f"{proxy.host}/growing:1", stdout=subprocess.PIPE) as pull:
        assert fault.reached.wait(30)
        begun = "ingest/*/unpacking-*/random/1"
        wait_until(lambda: any(file.stat().st_size for file in images.glob(begun)), what=begun)
        assert set(images.glob("layers/*")) == before
        gate.set()
        out, _ = pull.communicate(timeout=60)
    assert pull.returncode == 0
    assert out.count(b": Download complete") == out.count(b": Pull complete") == 3
    assert shared_daemon.out("check", "-q") == ""


def test_a_blob_that_begins_anew_is_unpacked_anew(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """What came first was damaged, and the registry knows no Range: only what is whole counts."""
    registry.push(random_image.path, "anew:1")
    part = random_image.parts[0]
    proxy.spoil(part, cut=1 << 20, alter=_other)
    proxy.spoil(part, whole=True)

    shared_daemon.run("pull", f"{proxy.host}/anew:1")

    assert [one.status for one in proxy.requests("GET", part)] == [200, 200]
    assert shared_daemon.out("check", "-q") == ""


def test_a_registry_restarted_in_mid_pull(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """It dies while layers come and is back a moment later: the pull goes on."""
    registry.push(random_image.path, "restarted:1")
    fault = proxy.spoil(random_image.parts[0], cut=1 << 20)
    with shared_daemon.popen(
        "pull", "-q", f"{proxy.host}/restarted:1", stdout=subprocess.PIPE
    ) as pull:
        assert fault.reached.wait(30)
        registry.stop()
        registry.start()
        out, _ = pull.communicate(timeout=60)
    assert pull.returncode == 0
    assert out.decode() == f"{proxy.host}/restarted:1\n"


def test_what_is_altered_on_its_way_is_refused(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """Layer, configuration, manifest: one line, and nothing of the image stays."""
    registry.push(random_image.path, "altered:1")
    manifest = json.loads(registry.blob(registry.digest_of("altered", "1")).read_text())
    cases = {
        random_image.parts[1]: f"blob {random_image.blobs[1]} came with digest sha256:",
        manifest["config"]["digest"]: "came damaged, or was altered on its way",
        "/manifests/1": "came with digest sha256:",
    }
    for part, text in cases.items():
        proxy.spoil(part, times=20, alter=_other)
        failed = shared_daemon.run("pull", f"{proxy.host}/altered:1", code=125)
        [line] = failed.stderr.splitlines()
        assert text in line
        proxy.faults.clear()
    assert shared_daemon.out("check", "-q", "--fast") == ""
    assert "altered" not in shared_daemon.out("images")


def _other(piece: bytes) -> bytes:
    return piece[:-1] + bytes([piece[-1] ^ 1])


def test_pulls_at_a_time_download_each_blob_once(
    shared_daemon: RunningDaemon, proxy: Proxy, registry: RunningRegistry, random_image: Made
) -> None:
    """Of one image, under two names, and of another image with a layer of it."""
    registry.push(random_image.path, "shared:1")
    registry.push(random_image.path, "shared:2")
    gate = threading.Event()
    fault = proxy.spoil(random_image.parts[0], cut=1 << 20, gate=gate)
    names = [f"{proxy.host}/shared:1", f"{proxy.host}/shared:2", f"{proxy.host}/shared:1"]
    with contextlib.ExitStack() as stack:
        pulls = [
            stack.enter_context(shared_daemon.popen("pull", name, stdout=subprocess.DEVNULL))
            for name in names
        ]
        assert fault.reached.wait(30)
        wait_until(lambda: len(proxy.requests("GET", "/manifests/")) == 3, what="three pulls")
        gate.set()
        assert [pull.wait(60) for pull in pulls] == [0, 0, 0]
    for part in random_image.parts:
        assert len(proxy.requests("GET", part)) == 1
    assert shared_daemon.out("check", "-q") == ""


def test_a_mirror_is_asked_first(
    bare_daemon: RunningDaemon, registry: RunningRegistry, busybox_image: Path, tmp_path: Path
) -> None:
    """What it lacks, and when it is down, comes from the registry itself; the name stays."""
    with registries.running(tmp_path / "second") as mirror, proxies.running(mirror.host) as seen:
        mirror.push(busybox_image, "both:1")
        for name in ("both:1", "only:1"):
            registry.push(busybox_image, name)
        bare_daemon.stop()
        bare_daemon.start(f"--registry-mirror={registry.host}=http://{seen.host}")

        bare_daemon.run("pull", f"{registry.host}/both:1")
        assert seen.requests("GET", "/v2/both/blobs/")
        bare_daemon.run("pull", f"{registry.host}/only:1")
        assert [one.status for one in seen.requests("GET", "/v2/only/manifests/1")] == [404]
        mirror.stop()
        bare_daemon.run("rmi", "-f", f"{registry.host}/both:1")
        bare_daemon.run("pull", f"{registry.host}/both:1")
        assert f"{registry.host}/both" in bare_daemon.out("images")


def test_tls_with_an_authority_of_one_s_own(
    bare_daemon: RunningDaemon, busybox_image: Path, tmp_path: Path
) -> None:
    """certs.d has the authority, and who we are; another authority's word counts nothing."""
    ours, theirs = (certificates.authority(tmp_path / name, name) for name in ("ours", "theirs"))
    signed = certificates.server(tmp_path / "server", ours)
    client = certificates.server(tmp_path / "client", ours, "clientAuth")
    tls = (
        f"  tls: {{certificate: {signed.certificate}, key: {signed.key},"
        f" clientcas: [{ours.certificate}]}}\n"
    )
    with registries.running(tmp_path / "registry", tls) as registry:
        certs = tmp_path / "certs.d" / registry.host
        certs.mkdir(parents=True)
        (certs / "client.cert").write_bytes(client.certificate.read_bytes())
        (certs / "client.key").write_bytes(client.key.read_bytes())
        name = f"{registry.host}/busybox:1"
        registry.push(busybox_image, "busybox:1", "--dest-cert-dir", str(certs))
        bare_daemon.stop()
        bare_daemon.start(f"--certs-dir={tmp_path}/certs.d")
        (certs / "ca.crt").write_bytes(theirs.certificate.read_bytes())
        failed = bare_daemon.run("pull", name, code=125)
        [line] = failed.stderr.splitlines()
        assert "certificate verify failed" in line
        assert f"/{registry.host}/ca.crt" in line

        (certs / "ca.crt").write_bytes(ours.certificate.read_bytes())
        bare_daemon.run("pull", name)
        (certs / "client.cert").unlink()
        failed = bare_daemon.run("pull", name, code=125)
        assert failed.stderr.startswith(f"aruntime: cannot pull {name}: ")
        (certs / "ca.crt").write_text("no certificate\n")
        failed = bare_daemon.run("pull", name, code=125)
        assert f"cannot use certificate {certs}/ca.crt" in failed.stderr


def test_what_cannot_be_pulled(
    shared_daemon: RunningDaemon, registry: RunningRegistry, busybox_image: Path, tmp_path: Path
) -> None:
    """Each in one line that names the image, and says what to do if something can be done."""
    registry.push(busybox_image, "there:1")
    host = registry.host
    cases: dict[str, str] = {
        f"{host}/there:2": f"{host}/there:2 not found: registry {host} has none: manifest unknown",
        f"{host}/gone:1": f"{host}/gone:1 not found: registry {host} has none: ",
        f"{host}/there@sha256:{'0' * 64}": "not found: registry",
        f"{host}/there@sha512:{'0' * 128}": "a digest must be a sha256 one",
        "127.0.0.1:1/there": "cannot pull 127.0.0.1:1/there:latest: cannot reach registry http://",
        f"{host}/There:1": "must be lowercase",
    }
    for name, text in cases.items():
        [line] = shared_daemon.run("pull", name, code=125).stderr.splitlines()
        assert line.startswith("aruntime: ")
        assert text in line
    registry.push(made(tmp_path).path, "bomb:1")
    bomb = shared_daemon.run("pull", "--max-size", "1m", f"{host}/bomb:1", code=125)
    assert "unpacks to more than the allowed 1048576 bytes" in bomb.stderr
    assert shared_daemon.out("check", "-q", "--fast") == ""
