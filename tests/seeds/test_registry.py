"""The source document's ``pull``, ``images`` and ``run -it`` of images that are not here yet.

Its images come from Docker Hub; here a mirror of Docker Hub has them: Debian's registry, filled by
skopeo with a debootstrapped system, one layer as centos and four as ubuntu.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import archives, registries
from tests.harness import RunningDaemon
from tests.terminal import PROMPT, Terminal

pytestmark = pytest.mark.e2e

COMPLETE = re.compile(r"[0-9a-f]{12}: Pull complete")
DIGEST = re.compile(r"Digest: sha256:[0-9a-f]{64}")


@pytest.fixture(scope="module")
def fresh(debian_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """Yield a daemon without any image, whose Docker Hub is the mirror."""
    base = tmp_path_factory.mktemp("hub")
    system = debian_tar.read_bytes()
    more = [archives.tar(archives.file(f"etc/ubuntu.{n}", b"%d" % n)) for n in range(3)]
    with registries.running(base / "registry") as hub:
        for name, layers in (("centos", [system]), ("ubuntu", [system, *more])):
            layout = archives.OciLayout()
            image = layout.image(layers, config=archives.image_config(layers, Cmd=["/bin/bash"]))
            path = base / f"{name}.tar"
            path.write_bytes(layout.archive(archives.named(image, name)))
            hub.push(path, f"library/{name}:latest")
            path.unlink()
        daemon = RunningDaemon()
        daemon.extra = [f"--registry-mirror=http://{hub.host}"]
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.destroy()


def test_the_transcripts(fresh: RunningDaemon) -> None:
    """``pull ubuntu``, ``run -it --name test centos /bin/bash``, ``images``, as in the document."""
    lines = fresh.out("pull", "ubuntu").splitlines()
    assert lines[:2] == ["Using default tag: latest", "latest: Pulling from library/ubuntu"]
    assert len([line for line in lines if COMPLETE.fullmatch(line)]) == 4
    assert DIGEST.fullmatch(lines[-3])
    assert lines[-2:] == [
        "Status: Downloaded newer image for ubuntu:latest",
        "docker.io/library/ubuntu:latest",
    ]

    with Terminal(fresh, "run", "-it", "--name", "test", "centos", "/bin/bash") as terminal:
        terminal.expect(r"Unable to find image 'centos:latest' locally\r?\n")
        terminal.expect(r"latest: Pulling from library/centos\r?\n")
        terminal.expect(DIGEST.pattern)
        terminal.expect(r"Status: Downloaded newer image for centos:latest\r?\n")
        prompt = terminal.expect(PROMPT)
        container = fresh.out("ps", "-q", "--no-trunc", "--filter", "name=test")
        assert prompt[1] == container[:12]
        assert "etc" in terminal.ask("ls").split()
        assert terminal.leave() == 0

    header, *rows = fresh.out("images").splitlines()
    assert re.split(r" {2,}", header.strip()) == [
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
    ]
    found = {re.split(r" {2,}", row.strip())[0] for row in rows}
    assert found == {"centos", "ubuntu"}
    with Terminal(fresh, "run", "-it", "ubuntu:latest", "/bin/bash") as terminal:
        terminal.expect(PROMPT)
        assert terminal.ask("cat /etc/ubuntu.2") == "2"
        assert terminal.leave() == 0
    assert fresh.out("check", "-q", "--fast") == ""
