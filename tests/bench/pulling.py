"""The image that all engines pull, and the registry on the loopback that each of them has.

150 MB of Debian in five layers: a debootstrapped system, and four layers of files of it. Every
engine pulls from a docker-registry in its own network namespace; all of them serve one directory.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import archives
from tests.bench.engine import Engine, find
from tests.bench.place import Place, kill
from tests.harness import debian_archive
from tests.registries import CONFIG, free_port

IMAGE_BYTES = 150_000_000
LAYERS = 5
NAME = "debian:bench"
SEED = 5
WAIT = "for i in $(seq 200); do exec 3<>/dev/tcp/127.0.0.1/{port} && exit; sleep 0.05; done; exit 1"


def missing() -> str:
    """Name the programs this needs that are not installed; empty if there are none."""
    wanted = ("docker-registry", "skopeo", "debootstrap")
    return ", ".join(program for program in wanted if find(program) is None)


def write_image(path: Path) -> None:
    """Write the image as an OCI archive of gzipped layers."""
    base = debian_archive().read_bytes()
    share = max(1, (IMAGE_BYTES - len(base)) // (LAYERS - 1))
    layers = [base]
    with tarfile.open(fileobj=io.BytesIO(base)) as source:
        members = [member for member in source.getmembers() if member.isreg() and member.size]
        random.Random(SEED).shuffle(members)
        left = iter(members)
        layers += [_layer(source, left, f"opt/{number}", share) for number in range(1, LAYERS)]
    layout = archives.OciLayout()
    path.write_bytes(layout.archive(archives.named(layout.image(layers), NAME)))


def _layer(
    source: tarfile.TarFile, members: Iterator[tarfile.TarInfo], place: str, share: int
) -> bytes:
    """Return a layer with so many bytes of files of a tar archive, below another directory."""
    buffer = io.BytesIO()
    known: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        while buffer.tell() < share:
            member = next(members)
            copy = tarfile.TarInfo(f"{place}/{member.name.removeprefix('./')}")
            _add_parents(layer, copy.name, known)
            copy.size, copy.mode, copy.mtime = member.size, member.mode, member.mtime
            layer.addfile(copy, source.extractfile(member))
    return buffer.getvalue()


def _add_parents(layer: tarfile.TarFile, name: str, known: set[str]) -> None:
    """List the directories a file is in, as builders do."""
    for parent in reversed(Path(name).parents[:-1]):
        if str(parent) not in known:
            known.add(str(parent))
            entry = tarfile.TarInfo(str(parent))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)


class Served(NamedTuple):
    """The registries at work."""

    names: dict[str, str]
    """Of the image, by engine."""
    pids: list[int]


def cpu_seconds(engine: Engine, without: Sequence[int]) -> float:
    """Return the CPU time of an engine's processes so far, of those that ended too.

    Unlike the time on the clock, other work on the machine hardly changes it.
    """
    ticks = 0
    for pid in {*engine.processes(), engine.runner.process.pid} - set(without):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def registries(place: Place, engines: list[Engine]) -> Iterator[Served]:
    """Yield a registry with the image for each engine."""
    base = place.directory("registry")
    write_image(base / "image.tar")
    hosts: dict[str, str] = {}
    pids: list[int] = []
    try:
        for each in engines:
            port = free_port()
            config = base / f"{each.name}.yml"
            config.write_text(CONFIG.format(storage=base / "storage", port=port, more=""))
            words = ["/usr/bin/env", "OTEL_TRACES_EXPORTER=none", str(find("docker-registry"))]
            pids.append(each.runner.launch([*words, "serve", str(config)], base / "log"))
            each.runner.measure([["/bin/bash", "-c", WAIT.format(port=port)]])
            hosts[each.name] = f"127.0.0.1:{port}"
        _fill(base / "image.tar", next(iter(hosts.values())))
        yield Served({name: f"{host}/{NAME}" for name, host in hosts.items()}, pids)
    finally:
        kill(pids)


def _fill(archive: Path, host: str) -> None:
    subprocess.run(
        [
            str(find("skopeo")), "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
            f"oci-archive:{archive}", f"docker://{host}/{NAME}",
        ],
        check=True, env=os.environ,
    )  # fmt: skip
