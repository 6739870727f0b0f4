"""The image of deploy/Containerfile, built by a real docker, and what stands beside it on a node.

Packages come from Debian and PyPI, so a build takes a minute and needs the network.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from pathlib import Path

from tests.bench import docker
from tests.bench.engine import find
from tests.bench.place import Place
from tests.harness import debian_archive

ROOT = Path(__file__).resolve().parent.parent
NAME = "aruntime:latest"
AUTHORITIES = Path("/usr/local/share/ca-certificates")


def base_tar(path: Path, *programs: Path) -> Path:
    """Write a Debian that stands for debian:bookworm-slim, with programs of this host added.

    A host behind a proxy that looks into TLS trusts an authority of its own; so do its images.
    """
    path.write_bytes(debian_archive().read_bytes())
    with tarfile.open(path, "a") as archive:
        for certificate in sorted(AUTHORITIES.glob("*.crt")):
            archive.add(certificate, f".{certificate}")
        content = b"[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n"
        entry = tarfile.TarInfo("./etc/pip.conf")
        entry.size, entry.mode = len(content), 0o644
        archive.addfile(entry, io.BytesIO(content))
        for program in programs:
            archive.add(program, f"./usr/bin/{program.name}")
    return path


def build(archive: Path) -> None:
    """Build the image as deploy/Containerfile says and save it."""
    with Place() as place:
        base = place.directory("docker")
        runner = place.runner("docker", private=True)
        socket = f"unix://{base}/docker.sock"
        docker.start_daemons(base, runner, socket, "none", f"{place.cgroup_parent}/docker")
        words = [str(find("docker")), "-H", socket]
        debian = base_tar(base / "debian.tar")
        made = [*words, "build", "--network=host", "-t", NAME, "-f", "deploy/Containerfile", "."]
        log = archive.with_suffix(".log")
        runner.measure([[*words, "import", str(debian), "debian:bookworm-slim"]])
        logged = f"cd {shlex.quote(str(ROOT))} && {shlex.join(made)} >{log} 2>&1"
        runner.measure([["/bin/sh", "-c", f"{logged} || {{ tail -n 9 {log} >&2; exit 1; }}"]])
        runner.measure([[*words, "save", "-o", str(archive), NAME]])
