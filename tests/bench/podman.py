"""podman as a peer, with storage, network and configuration of its own.

Its network is the one it has by default, a bridge with masquerading by netavark, and in a network
namespace of its own: podman writes its firewall rules as it does for every user, none in the host.
"""

from __future__ import annotations

import resource
from pathlib import Path

from tests.bench import image
from tests.bench.engine import CommandLine, find
from tests.bench.place import Place

PROGRAMS = ("podman", "conmon", "iptables")
NETAVARK = "/usr/lib/podman/netavark"
NETWORK = "podman"
"""The default one, which needs no configuration."""
CONTAINERS = """[containers]
default_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "{base}/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{base}/tmp"
runtime = "{runtime}"
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{base}/root"
runroot = "/run/bench-podman"
"""


def missing() -> str:
    """Name the programs podman needs that are not installed; empty if there are none."""
    absent = [program for program in PROGRAMS if find(program) is None]
    if not Path(NETAVARK).exists():
        absent.append("netavark")
    if find("crun") is None and find("runc") is None:
        absent.append("crun")
    return ", ".join(absent)


def opened(place: Place, tar: Path) -> CommandLine:
    """Configure podman in a place and import the image."""
    base = place.directory("podman")
    runner = place.runner("podman", private=True, v1_only=True, own_network=True)
    write_configuration(base)
    runner.env |= {
        "CONTAINERS_CONF": f"{base}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{base}/storage.conf",
    }
    engine = CommandLine(
        "podman",
        [str(find("podman"))],
        runner,
        networks={"bridge": NETWORK, "none": "none"},
        run_flags=[f"--cgroup-parent={place.cgroup_parent}/podman"],
        verbs={"remove": ["rm", "-f", "-t", "0"], "pull": ["pull", "--tls-verify=false"]},
    )
    runner.measure([engine.command("import", str(tar), image.NAME)])
    version = runner.output(engine.command("version", "--format", "{{.Client.Version}}"))
    runtime = "crun" if find("crun") else "runc"
    engine.version = f"{version.decode().strip()} with {runtime} and netavark"
    return engine


def write_configuration(base: Path) -> None:
    """Write containers.conf and storage.conf."""
    # By itself podman asks for more than the hard limits, which needs CAP_SYS_RESOURCE; it also
    # lowers its own limit of processes to pid_max.
    nofile = within(10000, resource.RLIMIT_NOFILE)
    nproc = within(10000, resource.RLIMIT_NPROC)
    runtime = "crun" if find("crun") else "runc"
    text = CONTAINERS.format(base=base, runtime=runtime, nofile=nofile, nproc=nproc)
    (base / "containers.conf").write_text(text)
    (base / "storage.conf").write_text(STORAGE.format(base=base))


def within(wanted: int, limit: int) -> int:
    """Return what is wanted of a resource, or the hard limit if that is less."""
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
