"""docker as a peer: a containerd and a dockerd of our own, never the host's."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench import image
from tests.bench.engine import CommandLine, find, make_bridge
from tests.bench.place import CommandFailed, Place, Runner

PROGRAMS = ("docker", "dockerd", "containerd", "runc")
ADDRESS = "10.214.1.1/24"
SECONDS_TO_START = 30.0
CONTAINERD = """version = 2
root = "{base}/containerd"
state = "{base}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "{base}/opt"
[grpc]
  address = "{base}/containerd.sock"
"""


def missing() -> str:
    """Name the programs docker needs that are not installed; empty if there are none."""
    return ", ".join(program for program in PROGRAMS if find(program) is None)


def opened(place: Place, tar: Path) -> CommandLine:
    """Start docker in a place and import the image."""
    base = place.directory("docker")
    runner = place.runner("docker", private=True)
    socket = f"unix://{base}/docker.sock"
    engine = CommandLine(
        "docker",
        [str(find("docker")), "-H", socket],
        runner,
        networks={"bridge": "bridge", "none": "none"},
    )
    bridge = make_bridge(place, "d", ADDRESS)
    start_daemons(base, runner, socket, bridge, f"{place.cgroup_parent}/docker")
    runner.measure([engine.command("import", str(tar), image.NAME)])
    version = runner.output(engine.command("version", "--format", "{{.Server.Version}}"))
    engine.version = version.decode().strip()
    return engine


def start_daemons(
    base: Path, runner: Runner, socket: str, bridge: str, cgroup_parent: str, *more: str
) -> None:
    """Start containerd and dockerd, which keep all they have in `base`, until dockerd answers.

    `more` are further flags of dockerd.
    """
    config = base / "containerd.toml"
    config.write_text(CONTAINERD.format(base=base))
    (base / "daemon.json").write_text("{}")
    runner.launch([str(find("containerd")), "-c", str(config)], base / "containerd.log")
    wait_for(base / "containerd.sock", base / "containerd.log")
    words = [
        str(find("dockerd")),
        f"--config-file={base}/daemon.json",
        f"--containerd={base}/containerd.sock",
        f"--data-root={base}/data",
        f"--exec-root={base}/exec",
        f"--pidfile={base}/docker.pid",
        f"--bridge={bridge}",
        f"--cgroup-parent={cgroup_parent}",
        f"--host={socket}",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
        "--userland-proxy=false",
        "--oom-score-adjust=0",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--log-driver=json-file",
        *more,
    ]
    runner.launch(words, base / "dockerd.log")
    wait_for(base / "docker.sock", base / "dockerd.log")


def wait_for(socket: Path, log: Path) -> None:
    """Wait until a daemon has made its socket.

    Raises:
        CommandFailed: it does not; the message has the end of its log.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    while not socket.exists():
        if time.monotonic() > deadline:
            raise CommandFailed(f"{socket.name} does not appear: {log.read_text()[-1000:]}")
        time.sleep(0.05)
