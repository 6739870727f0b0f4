"""The meter as a container on each node: the image, the Swarm stack, the pod of the DaemonSet.

Building the image takes a minute and the network, so ARUNTIME_TEST_PEERS=1 asks for these. Nothing
here can start a cluster with a kubelet: podman plays the pod, the kubelet's cgroups and log links
are made as it makes them, and tests/unit/test_manifests.py holds the manifests to schemas.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import certificates, node_image
from tests.bench import docker, podman
from tests.bench.engine import find
from tests.bench.place import CommandFailed, Place, Runner
from tests.conftest import require_program
from tests.harness import wait_until
from tests.kubelet import Kubernetes, parent_usage

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("ARUNTIME_TEST_PEERS"),
        reason="ARUNTIME_TEST_PEERS=1: builds an image, which takes a minute and the network",
    ),
]

DEPLOY = node_image.ROOT / "deploy"
ADDRESS = "https://127.0.0.1:9640"
USER = "prometheus:change me"
CPU = "aruntime_container_cpu_usage_seconds_total"
ENDED = "aruntime_container_finished_timestamp_seconds"
BURN = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; sleep 99"
SLACK_NS = 1_000_000
CGROUP_TREES = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the image of deploy/Containerfile in an archive."""
    for program in docker.PROGRAMS:
        require_program(program)
    archive = tmp_path_factory.mktemp("image") / "aruntime.tar"
    node_image.build(archive)
    return archive


@pytest.fixture
def place() -> Iterator[Place]:
    """Yield where the engine lives; the meter's own cgroup goes with it, if it was not there."""
    parents = [tree / "aruntime" for tree in CGROUP_TREES.iterdir() if tree.is_dir()]
    strangers = {path for path in parents if path.exists()}
    with Place() as made:
        yield made
    for path in parents:
        if path not in strangers and path.exists():
            path.rmdir()


class Node:
    """An engine of a test, and the pages of the meter that runs on it."""

    def __init__(self, runner: Runner, words: list[str], authority: Path) -> None:
        self.runner = runner
        self.words = words
        self.authority = authority

    def run(self, *words: str) -> str:
        """Run a command of the engine; return what it says."""
        return self.runner.output([*self.words, *words]).decode().strip()

    def page(self, path: str, *flags: str) -> str:
        """Ask the meter for a page over TLS; the last line is the status."""
        curl = [require_program("curl"), "-s", "-w", "\n%{http_code}"]
        curl += ["--cacert", str(self.authority)]
        try:
            return self.runner.output([*curl, *flags, f"{ADDRESS}{path}"]).decode()
        except CommandFailed:
            return ""  # nobody listens yet

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics, asked for with the right password."""
        lines = [line for line in self.page("/metrics", "-u", USER).splitlines() if "{" in line]
        parts = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {head: float(value) for head, _, value in parts}

    def sample(self, metric: str, name: str) -> float:
        """A container's sample; -1 while there is none."""
        for head, value in self.metrics().items():
            if head.startswith(f"{metric}{{") and f'name="{name}"' in head:
                return value
        return -1.0

    def wait_for_meter(self) -> None:
        """Wait until /metrics answers; without a password it says 401 and nothing else."""
        wait_until(lambda: self.metrics(), 60, "the meter's metrics")
        for path in ("/metrics", "/healthz", "/"):
            assert self.page(path) == "unauthorized\n\n401"


def web_config(base: Path) -> tuple[certificates.Signed, Path]:
    """Make the server's key, and return it with the authority's certificate."""
    authority = certificates.authority(base / "web")
    return certificates.server(base / "web", authority), authority.certificate


@pytest.fixture
def swarm(place: Place, image: Path) -> Iterator[Node]:
    """Yield a Swarm of one node, whose dockerd is a test's own, with the images it needs."""
    base = place.directory("docker")
    runner = place.runner("docker", private=True, own_network=True)
    socket = f"unix://{base}/docker.sock"
    parent = f"{place.cgroup_parent}/docker"
    # The stack has the socket where docker has it; /run is the runner's own.
    docker.start_daemons(base, runner, socket, "none", parent, "--host=unix:///run/docker.sock")
    client = find("docker")
    assert client is not None
    keys, authority = web_config(base)
    node = Node(runner, [client, "-H", socket], authority)
    node.run("load", "-i", str(image))
    node.run("import", str(node_image.base_tar(base / "cli.tar", Path(client))), "docker:cli")
    node.run("swarm", "init", "--advertise-addr", "127.0.0.1")
    node.run("secret", "create", "aruntime-web-config", str(DEPLOY / "web-config.yml"))
    node.run("secret", "create", "aruntime-server-crt", str(keys.certificate))
    node.run("secret", "create", "aruntime-server-key", str(keys.key))
    for name in ("ledger", "etc"):
        (base / name).mkdir()
    runner.env |= {
        "ARUNTIME_METRICS_ADDRESS": "127.0.0.1:9640",
        "ARUNTIME_METER_CGROUPS": parent,
        "ARUNTIME_LEDGER": f"{base}/ledger",
        "ARUNTIME_ETC": f"{base}/etc",
        "DOCKER_ROOT": f"{base}/data",
    }
    yield node
    node.run("swarm", "leave", "--force")


def shown_exactly(node: Node, name: str, cgroup: str) -> bool:
    """Whether /metrics has the CPU time that the kernel counted of a container, to a millisecond.

    What the container uses has been used; the meter polls each second.
    """
    shown = round(node.sample(CPU, name) * 1e9)
    return 0 <= parent_usage(cgroup) - shown < SLACK_NS


def test_swarm_stack(place: Place, swarm: Node) -> None:
    """The committed stack comes up, meters docker's containers to the millisecond, and goes."""
    swarm.run("stack", "deploy", "-c", str(DEPLOY / "swarm/aruntime.yml"), "aruntime")
    try:
        swarm.wait_for_meter()
        shown = swarm.run("service", "ls", "--format", "{{.Name}} {{.Replicas}}")
        assert shown == "aruntime_meter 1/1"
        run = ["run", "-d", "--network=none", "--user=999", "--name=job"]
        run += ["--label=aruntime.tenant=acme", "--entrypoint=sh", node_image.NAME]
        job = swarm.run(*run, "-c", BURN)
        cgroup = f"{place.cgroup_parent}/docker/{job}"
        wait_until(lambda: parent_usage(cgroup) > 20_000_000, 30, "the job works")
        wait_until(lambda: shown_exactly(swarm, "job", cgroup), 30, "all of it is metered")
        heads = [head for head in swarm.metrics() if head.startswith("aruntime_container_info{")]
        assert any('name="aruntime-meter"' in head for head in heads)
        assert any('name="job"' in head and 'tenant="acme"' in head for head in heads)
        swarm.run("rm", "-f", "job")
        wait_until(lambda: swarm.sample(ENDED, "job") > 0, 30, "the end of the job")
        verified = swarm.run("exec", "aruntime-meter", "aruntime", "ledger", "verify")
        assert "ok" in verified, verified
        used = swarm.run("exec", "aruntime-meter", "aruntime", "usage", "--format", "csv")
        assert ",job," in used
    finally:
        swarm.run("stack", "rm", "aruntime")
        wait_until(lambda: not swarm.run("ps", "-aq"), 60, "nothing of the stack is left")
    assert (place.base / "docker/ledger/ledger.db").exists()
    assert (place.base / "docker/etc/ledger.key").stat().st_mode & 0o077 == 0


@pytest.fixture
def kubelet(place: Place) -> Iterator[Kubernetes]:
    """Yield the cgroups of a node's pods, where the DaemonSet looks for them."""
    if list(CGROUP_TREES.glob("*/kubepods*")):
        pytest.skip("this host has a kubelet's cgroups already")
    made = Kubernetes("/kubepods", place.base / "log-containers")
    yield made
    made.close()


def pod_of(manifest: Path, directories: dict[str, Path]) -> dict[str, Any]:
    """The pod of a manifest's DaemonSet, with other directories of the host for its volumes.

    podman 4.3 refuses ports beside hostNetwork, where they say nothing new.
    """
    documents = list(yaml.safe_load_all(manifest.read_text()))
    template = next(one for one in documents if one["kind"] == "DaemonSet")["spec"]["template"]
    for container in template["spec"]["containers"]:
        del container["ports"]
    for volume in template["spec"]["volumes"]:
        if volume["name"] in directories:
            volume["hostPath"]["path"] = str(directories[volume["name"]])
    metadata = {"name": "aruntime", **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_pod_of_the_daemon_set(place: Place, image: Path, kubelet: Kubernetes) -> None:
    """podman plays the pod: it meters a node's pods by name, and lets in who has the password."""
    require_program("catatonit")
    if missing := podman.missing():
        require_program(missing.split(", ", maxsplit=1)[0])
    base = place.directory("podman")
    node = podman_node(place, image, base)
    directories = {"ledger": base / "ledger", "etc": base / "etc", "logs": kubelet.logs}
    pod = base / "pod.yml"
    pod.write_text(yaml.safe_dump(pod_of(DEPLOY / "kubernetes/daemonset.yml", directories)))
    parents = [tree / "libpod_parent" for tree in CGROUP_TREES.iterdir() if tree.is_dir()]
    strangers = {path for path in parents if path.exists()}
    try:
        node.run("kube", "play", str(pod))
        node.wait_for_meter()
        path = f"burstable/pod0a1b2c3d-0000-4000-8000-00000000000a/{'a' * 64}"
        used_ns = kubelet.run(path, "web", "app", BURN.removesuffix("; sleep 99"))
        seen = (used_ns - SLACK_NS) / 1e9
        wait_until(lambda: node.sample(CPU, "shop/web/app") >= seen, 30, "the pod is metered")
        assert node.sample(CPU, "shop/web/app") <= used_ns / 1e9
        kubelet.remove(path)
        wait_until(lambda: node.sample(ENDED, "shop/web/app") > 0, 30, "its end")
    finally:
        node.run("pod", "rm", "-f", "-a", "-t", "20")
        for parent in parents:
            if parent not in strangers:
                remove_tree(parent)
    assert (base / "ledger/ledger.db").exists()
    assert (base / "etc/ledger.key").stat().st_mode & 0o077 == 0


def podman_node(place: Place, image: Path, base: Path) -> Node:
    """Return a podman with the image and the secret that the pod wants."""
    engine = podman.opened(place, node_image.base_tar(base / "debian.tar"))
    keys, authority = web_config(base)
    node = Node(engine.runner, engine.command("podman")[:-1], authority)
    node.run("load", "-i", str(image))
    # podman 4.3 takes a Secret's data as it stands, where Kubernetes has it in base64.
    files = {
        "web-config.yml": DEPLOY / "web-config.yml",
        "server.crt": keys.certificate,
        "server.key": keys.key,
    }
    secret = {name: path.read_text() for name, path in files.items()}
    (base / "secret.yml").write_text(yaml.safe_dump({"kind": "Secret", "data": secret}))
    node.run("secret", "create", "aruntime-web-config", str(base / "secret.yml"))
    return node


def remove_tree(top: Path) -> None:
    """Remove the cgroups that podman leaves of a pod: they are empty."""
    for directory, _, _ in os.walk(top, topdown=False):
        Path(directory).rmdir()
