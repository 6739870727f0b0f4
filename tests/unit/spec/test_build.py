"""From a configuration to an OCI specification with docker's defaults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aruntime import spec as oci
from aruntime.container.config import ContainerConfig, Device, Mount, Ulimit
from aruntime.errors import InvalidSpec
from aruntime.kernel.capabilities import NAMES, NUMBERS
from aruntime.spec.capabilities import DEFAULT_CAPABILITIES, effective_capabilities
from aruntime.spec.mounts import tmpfs_options

ALL_CAPABILITIES = (1 << len(NAMES)) - 1
ETC = {"/etc/hosts": "/c/hosts", "/etc/hostname": "/c/hostname", "/etc/resolv.conf": "/c/resolv"}


def config(**more: Any) -> ContainerConfig:
    """A configuration with the least there is."""
    fields: dict[str, Any] = {
        "id": "ab" * 32,
        "name": "box",
        "created_ns": 1,
        "image": "busybox",
        "image_id": "sha256:00",
        "args": ["true"],
        "hostname": "abababababab",
    }
    return ContainerConfig(**{**fields, **more})


def build(what: ContainerConfig, **more: Any) -> dict[str, Any]:
    """Build with the usual surroundings."""
    given: dict[str, Any] = {
        "rootfs": "/r",
        "etc_files": ETC,
        "volumes": {"data": "/v/data/_data"},
        "capabilities": ALL_CAPABILITIES,
    }
    return oci.build(what, **{**given, **more})


def mounts_of(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Mounts by destination."""
    return {mount["destination"]: mount for mount in spec["mounts"]}


def kinds(spec: dict[str, Any]) -> set[str]:
    """Types of the namespaces."""
    return {entry["type"] for entry in spec["linux"]["namespaces"]}


def test_a_plain_container_has_docker_s_defaults() -> None:
    """Namespaces, file systems, masks, capabilities, environment; and it is valid JSON."""
    spec = build(config(env=["A=1", "PATH=/bin"]))
    oci.validate(json.loads(json.dumps(spec)))
    assert kinds(spec) == {"mount", "uts", "ipc", "pid", "network", "cgroup", "time"}
    assert list(mounts_of(spec)) == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
        "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
    ]  # fmt: skip
    assert mounts_of(spec)["/sys"]["options"] == ["nosuid", "noexec", "nodev", "ro"]
    assert "/proc/kcore" in spec["linux"]["maskedPaths"]
    assert "/proc/sys" in spec["linux"]["readonlyPaths"]
    process = spec["process"]
    caps = process["capabilities"]
    assert set(caps["bounding"]) == set(DEFAULT_CAPABILITIES)
    assert caps["effective"] == caps["permitted"] == caps["bounding"]
    assert "inheritable" not in caps
    assert process["env"] == ["PATH=/bin", "HOSTNAME=abababababab", "A=1"]
    assert spec["hostname"] == "abababababab"
    assert spec["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert len(spec["linux"]["resources"]["devices"]) == 12
    assert spec["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"


def test_a_terminal_brings_term_and_its_size() -> None:
    """-t."""
    process = build(config(tty=True), console_size=(24, 80))["process"]
    assert process["terminal"]
    assert "TERM=xterm" in process["env"]
    assert process["consoleSize"] == {"height": 24, "width": 80}


@pytest.mark.parametrize(
    ("add", "drop", "more", "less"),
    [
        (["CAP_SYS_ADMIN"], [], {"CAP_SYS_ADMIN"}, set()),
        ([], ["CAP_CHOWN"], set(), {"CAP_CHOWN"}),
        (["CAP_CHOWN"], ["ALL"], {"CAP_CHOWN"}, set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
        (["ALL"], ["CAP_SYS_ADMIN"], set(NAMES) - {"CAP_SYS_ADMIN"}, {"CAP_SYS_ADMIN"}),
        ([], ["ALL"], set(), set(DEFAULT_CAPABILITIES)),
        (["CAP_KILL"], ["CAP_KILL"], {"CAP_KILL"}, set()),
    ],
)
def test_capabilities_are_added_and_dropped(
    add: list[str], drop: list[str], more: set[str], less: set[str]
) -> None:
    """docker's rules for ALL and single names."""
    found = build(config(cap_add=add, cap_drop=drop))["process"]["capabilities"]["bounding"]
    assert set(found) == (set(DEFAULT_CAPABILITIES) | more) - less


def test_a_container_gets_no_capability_the_daemon_lacks() -> None:
    """Clamped, with one warning that names what is missing."""
    warnings: list[str] = []
    mask = ALL_CAPABILITIES & ~(1 << NUMBERS["CAP_SYS_RESOURCE"])
    spec = build(config(privileged=True), capabilities=mask, warnings=warnings)
    assert "CAP_SYS_RESOURCE" not in spec["process"]["capabilities"]["bounding"]
    assert len(spec["process"]["capabilities"]["bounding"]) == len(NAMES) - 1
    assert warnings == ["the daemon itself lacks CAP_SYS_RESOURCE: the container does without"]
    assert effective_capabilities([], [], privileged=False, available=mask)[1] == []


def test_capability_names_are_normalised() -> None:
    """Any case, with or without the prefix, each once; unknown ones are refused."""
    assert oci.normalise_capabilities(["net_admin", "CAP_NET_ADMIN", "all"]) == [
        "CAP_NET_ADMIN", "ALL",
    ]  # fmt: skip
    with pytest.raises(ValueError, match='unknown capability: "CAP_FOO"'):
        oci.normalise_capabilities(["foo"])


def test_a_numeric_user_has_no_effective_capabilities() -> None:
    """As execve would leave it; the bounding set stays."""
    process = build(config(user="1000:1001"))["process"]
    assert process["user"] == {"uid": 1000, "gid": 1001}
    assert process["capabilities"]["effective"] == []
    assert process["capabilities"]["bounding"]
    assert build(config(user="www:adm"))["process"]["user"] == {"uid": 0, "gid": 0}


def test_privileged_takes_the_fences_down() -> None:
    """All devices, no masks, writable /sys."""
    node = {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}
    spec = build(config(privileged=True), host_devices=[node])
    assert "maskedPaths" not in spec["linux"]
    assert "rw" in mounts_of(spec)["/sys"]["options"]
    assert spec["linux"]["devices"] == [node]
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "maskedPaths" not in build(config(systempaths_unconfined=True))["linux"]


def test_devices_are_nodes_and_rules() -> None:
    """--device moves the nodes found at the source; --device-cgroup-rule adds rules only."""
    node = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
    what = config(
        devices=[Device(source="/dev/null", target="/dev/x", permissions="r")],
        device_cgroup_rules=["c 42:* rw"],
    )
    linux = build(what, devices={"/dev/null": [node]})["linux"]
    assert linux["devices"] == [{**node, "path": "/dev/x"}]
    assert linux["resources"]["devices"][-2:] == [
        {"allow": True, "type": "c", "access": "r", "major": 1, "minor": 3},
        {"allow": True, "type": "c", "access": "rw", "major": 42},
    ]
    with pytest.raises(InvalidSpec, match="/dev/null was not looked up"):
        build(what)


def test_a_device_directory_keeps_its_names() -> None:
    """--device /dev/snd:/dev/sound."""
    node = {"path": "/dev/snd/pcm/0", "type": "c", "major": 116, "minor": 1}
    what = config(devices=[Device(source="/dev/snd", target="/dev/sound")])
    linux = build(what, devices={"/dev/snd": [node]})["linux"]
    assert linux["devices"][0]["path"] == "/dev/sound/pcm/0"


def test_mounts_of_the_user_come_parents_first_and_win() -> None:
    """A mount over a default replaces it, one over /dev all below it."""
    what = config(
        mounts=[
            Mount(type="bind", source="/h", target="/a/b/c", read_only=True),
            Mount(type="volume", source="data", target="/a", read_only=True),
            Mount(type="tmpfs", target="/run", options=("exec", "size=1m")),
            Mount(type="bind", source="/h2", target="/etc/hosts", recursive=False),
            Mount(type="bind", source="/dev", target="/dev", propagation="rslave"),
            Mount(type="bind", source="/s", target="/s", read_only=True, submounts_writable=True),
        ]
    )
    spec = build(what)
    found = mounts_of(spec)
    assert found["/a/b/c"]["options"] == ["rbind", "rro", "rprivate"]
    assert found["/a"] == {
        "destination": "/a", "type": "bind", "source": "/v/data/_data",
        "options": ["rbind", "ro", "rprivate"],
    }  # fmt: skip
    assert found["/s"]["options"] == ["rbind", "ro", "rprivate"]
    assert found["/run"]["options"] == ["nosuid", "nodev", "exec", "size=1m"]
    assert found["/etc/hosts"]["source"] == "/h2"
    assert found["/etc/hosts"]["options"] == ["bind", "rprivate"]
    assert not {"/dev/pts", "/dev/shm", "/dev/mqueue"} & set(found)
    order = list(found)
    assert order.index("/a") < order.index("/a/b/c")
    assert spec["linux"]["rootfsPropagation"] == "rslave"
    oci.validate(spec)


def test_a_volume_needs_a_directory() -> None:
    """Who builds has made it before."""
    what = config(mounts=[Mount(type="volume", source="gone", target="/x")])
    with pytest.raises(InvalidSpec, match="volume gone has no directory"):
        build(what)


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/sys/kernel"])
def test_nothing_is_mounted_over_proc(target: str) -> None:
    """It could redirect what the runtime writes there (CVE-2019-16884)."""
    with pytest.raises(InvalidSpec, match="inside /proc"):
        build(config(mounts=[Mount(type="tmpfs", target=target)]))
    build(config(mounts=[Mount(type="bind", source="/x", target="/proc/meminfo")]))


def test_tmpfs_options_of_the_user_win() -> None:
    """exec takes noexec away."""
    assert tmpfs_options(["dev", "ro", "rw"]) == ["noexec", "nosuid", "dev", "rw"]


def test_a_read_only_root_has_read_only_etc_files() -> None:
    """--read-only."""
    spec = build(config(read_only=True))
    assert spec["root"] == {"path": "/r", "readonly": True}
    assert "ro" in mounts_of(spec)["/etc/hosts"]["options"]


def test_namespaces_follow_the_modes() -> None:
    """host leaves one out, container: joins by path."""
    spec = build(config(pid_mode="host", uts_mode="host", cgroupns_mode="host"))
    assert kinds(spec) == {"mount", "time", "ipc", "network"}
    assert "hostname" not in spec
    what = config(network_mode="container:abc")
    with pytest.raises(InvalidSpec, match="no path of the network namespace of container:abc"):
        build(what)
    joined = build(what, namespace_paths={"network": "/proc/7/ns/net"})
    assert {"type": "network", "path": "/proc/7/ns/net"} in joined["linux"]["namespaces"]
    assert joined["linux"]["sysctl"] == {}


def test_ipc_modes_decide_about_shared_memory() -> None:
    """host binds the host's, none has none."""
    shm = mounts_of(build(config(shm_size=1 << 20)))["/dev/shm"]
    assert "size=1048576" in shm["options"]
    assert "/dev/shm" not in mounts_of(build(config(ipc_mode="none")))
    host = mounts_of(build(config(ipc_mode="host")))
    assert host["/dev/shm"]["source"] == "/dev/shm"
    assert host["/dev/mqueue"]["type"] == "mqueue"


def test_a_user_namespace_has_a_range() -> None:
    """--userns auto; without a range there is no guess."""
    mounts = [
        Mount(type="volume", source="data", target="/d"),
        Mount(type="bind", source="/h", target="/h"),
    ]
    what = config(userns_mode="auto", mounts=mounts)
    spec = build(what, id_range=(100_000, 65_536))
    linux = spec["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    assert mounts_of(spec)["/d"]["uidMappings"] == linux["uidMappings"]
    assert mounts_of(spec)["/d"]["gidMappings"] == linux["gidMappings"]
    assert "uidMappings" not in mounts_of(spec)["/h"]
    oci.validate(spec)
    assert linux["gidMappings"] == linux["uidMappings"]
    assert "net.ipv4.ping_group_range" not in linux["sysctl"]
    with pytest.raises(InvalidSpec, match="no range of ids"):
        build(what)


def test_limits_and_the_rest_are_carried_over() -> None:
    """ulimits, sysctls, resources, annotations, seccomp by reference."""
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW"}
    what = config(
        ulimits=[Ulimit(name="nofile", soft=10, hard=-1)],
        sysctls={"net.core.somaxconn": "1"},
        resources={"memory": {"limit": 1 << 26}},
        annotations={"k": "v"},
        no_new_privileges=True,
        oom_score_adj=-5,
        domainname="example.org",
    )
    spec = build(what, seccomp=seccomp, cgroups_path="/aruntime/x")
    oci.validate(spec)
    assert spec["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}
    ]
    assert spec["linux"]["resources"]["memory"] == {"limit": 1 << 26}
    assert spec["linux"]["sysctl"]["net.core.somaxconn"] == "1"
    assert spec["linux"]["seccomp"] is seccomp
    assert spec["linux"]["cgroupsPath"] == "/aruntime/x"
    assert spec["process"]["noNewPrivileges"]
    assert spec["process"]["oomScoreAdj"] == -5
    assert spec["domainname"] == "example.org"
    assert spec["annotations"] == {"k": "v"}


def test_device_rules_are_parsed() -> None:
    """--device-cgroup-rule."""
    assert oci.device_rule("b 8:* rmw") == {
        "allow": True, "type": "b", "access": "rmw", "major": 8,
    }  # fmt: skip
    assert oci.device_rule("a *:* rwm") == {"allow": True, "type": "a", "access": "rwm"}
    malformed = ("", "x 1:2 r", "c 1 r", "c 1:2", "c 1:2 q", "c 1:2 rwmm", "c x:3 r", "c 1:3:4 r")
    for text in malformed:
        with pytest.raises(InvalidSpec, match="invalid device cgroup format"):
            oci.device_rule(text)
