"""Plans: which operations, in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aruntime.errors import InvalidSpec
from aruntime.kernel import mounts
from aruntime.rootfs import plan

ROOT = {"lower": ["/l/0", "/l/1"], "upper": "/c/upper", "work": "/c/work", "staging": "/c/rootfs"}
KINDS = ("mount", "pid", "network", "ipc", "uts", "cgroup")
REC = mounts.AT_RECURSIVE


def spec(*entries: dict[str, Any], **linux: Any) -> dict[str, Any]:
    """Return a specification with these mounts."""
    kinds = linux.pop("kinds", KINDS)
    return {
        "root": {"path": "rootfs"},
        "mounts": list(entries),
        "linux": {"namespaces": [{"type": kind} for kind in kinds], **linux},
    }


def entry(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    """Return one mount."""
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def make(given: dict[str, Any], **arguments: Any) -> list[list[Any]]:
    """Return the plan."""
    return plan.plan(given, **{**ROOT, **arguments})


def only(ops: list[list[Any]], *names: str) -> list[list[Any]]:
    """Return the operations with these names."""
    return [op for op in ops if op[0] in names]


def test_order_of_the_phases() -> None:
    """Cut off, mount the root, fill it, protect it, enter it."""
    given = spec(
        entry("/proc", "proc", "proc"),
        entry("/data", "bind", "/srv", "rbind"),
        maskedPaths=["/proc/kcore"],
        readonlyPaths=["/proc/sys"],
        sysctl={"net.ipv4.ip_forward": "1"},
        rootfsPropagation="shared",
    )
    given["root"]["readonly"] = True
    given["process"] = {"terminal": True}

    names = [op[0] for op in make(given)]

    assert names == [
        "private", "overlay", "mount", "source", "bind", "devices", "links", "files", "sysctls",
        "mask", "readonly", "pivot", "propagate", "readonly root",
    ]  # fmt: skip


def test_plan_survives_json() -> None:
    """A plan travels as JSON: nothing of it changes on the way."""
    given = spec(
        entry("/dev/pts", "devpts", "devpts", "newinstance", "gid=5"),
        entry("/sys/fs/cgroup", "cgroup", "cgroup", "ro"),
        kinds=(*KINDS, "user"),
        uidMappings=[{"containerID": 0, "hostID": 5, "size": 9}],
        gidMappings=[{"containerID": 0, "hostID": 5, "size": 9}],
    )
    ops = make(given, cgroups=[(("cpu", "cpuacct"), "/cg/cpu/x")], unified="/cg/unified/x")

    assert json.loads(json.dumps(ops)) == ops


def test_overlay_and_plain_root() -> None:
    """With layers an overlay is the root, without them root.path, relative to the bundle."""
    assert only(make(spec()), "overlay") == [
        ["overlay", "/c/rootfs", ["/l/0", "/l/1"], "/c/upper", "/c/work", []]
    ]
    assert only(make(spec(), volatile=True), "overlay")[0][-1] == ["volatile"]
    ops = make(spec(), lower=[], bundle="/bundle")
    private = [mounts.MS_PRIVATE, REC]
    assert ops[0] == ["source", "/bundle/rootfs", "root", True, private, [0, 0, 0, 0], None]
    assert only(ops, "rootfs") == [["rootfs", "/c/rootfs"]]


def test_slave_root_stays_connected() -> None:
    """A plain root with rslave is opened before the namespace is cut off, as a slave."""
    ops = make(spec(rootfsPropagation="rslave"), lower=[], bundle="/b")

    assert ops[0][4] == [mounts.MS_SLAVE, REC]
    assert ops[1] == ["private"]


@pytest.mark.parametrize(
    ("options", "propagation", "early"),
    [
        (["rbind"], [], False),
        (["rbind", "rprivate"], [], False),
        (["rbind", "rslave"], [mounts.MS_SLAVE, REC], True),
        (["bind", "shared"], [mounts.MS_SHARED, 0], True),
        (["bind", "unbindable"], [mounts.MS_UNBINDABLE, 0], False),
    ],
)
def test_propagation_of_binds(options: list[str], propagation: list[int], early: bool) -> None:
    """Only what shall hear of the host's later mounts is opened before the cut."""
    ops = make(spec(entry("/data", "bind", "/srv", *options)))

    source = only(ops, "source")[0]
    assert source[1:4] == ["/srv", "mount 0", "rbind" in options]
    assert source[4] == propagation
    assert (ops.index(source) < ops.index(["private"])) is early


def test_attributes_of_binds() -> None:
    """ro is for the mount, rro for its submounts; options of file systems mean nothing."""
    ops = make(spec(entry("/data", "bind", "/srv", "rbind", "ro", "rnoexec", "size=1")))

    noexec = mounts.MOUNT_ATTR_NOEXEC
    assert only(ops, "source")[0][5] == [mounts.MOUNT_ATTR_RDONLY, 0, noexec, 0]


def test_tree_that_holds_the_staging_directory() -> None:
    """It is opened before the root is mounted, or the root would be inside its own bind."""
    names = {
        source: [op[0] for op in make(spec(entry("/h", "bind", source, "rbind")))]
        for source in ("/", "/c", "/c/rootfs", "/c/root", "/other")
    }

    early = {source for source, found in names.items()
             if found.index("source") < found.index("overlay")}  # fmt: skip
    assert early == {"/", "/c", "/c/rootfs"}


def test_relative_source() -> None:
    """A relative source starts from the bundle; without one it is an error."""
    given = spec(entry("/data", "bind", "vol", "bind"))

    assert only(make(given, bundle="/b"), "source")[0][1] == "/b/vol"
    with pytest.raises(InvalidSpec, match=r"mounts\[0\]: source 'vol'"):
        make(given)


def test_file_system_arguments() -> None:
    """Attributes become bits, the rest goes to the file system as pairs."""
    options = ("nosuid", "strictatime", "mode=755", "size=65536k", "rprivate")

    ops = make(spec(entry("/dev", "tmpfs", "tmpfs", *options)))

    attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_STRICTATIME
    parameters = [["mode", "755"], ["size", "65536k"]]
    assert only(ops, "mount") == [
        ["mount", "/dev", "tmpfs", "tmpfs", attributes, parameters, 0, False]
    ]


def test_default_devices_and_changed_ones() -> None:
    """The six default devices are always made; the specification's come in their place."""
    tun = {"path": "/dev/net/../null", "type": "c", "major": 10, "minor": 200, "fileMode": 0o20600}
    ops = make(spec(devices=[tun, {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]))

    nodes = {node[0]: node for node in only(ops, "devices")[0][1]}
    assert list(nodes) == [
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"
    ]  # fmt: skip
    assert nodes["/dev/null"] == ["/dev/null", "c", 10, 200, 0o600, 0, 0]
    assert nodes["/dev/tty"] == ["/dev/tty", "c", 5, 0, 0o666, 0, 0]


def test_device_under_a_mount_of_the_user() -> None:
    """Where the user mounts something, no device is made over it."""
    ops = make(spec(entry("/dev/random", "bind", "/dev/urandom", "bind")))

    assert "/dev/random" not in [node[0] for node in only(ops, "devices")[0][1]]


def test_bound_dev_is_left_alone() -> None:
    """A /dev of the host gets neither devices nor links."""
    assert only(make(spec(entry("/dev", "bind", "/dev", "rbind"))), "devices", "links") == []


def test_cgroup_directories() -> None:
    """One directory per v1 hierarchy, named as hosts do, and the cgroup2 group beside them."""
    ops = make(
        spec(entry("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid")),
        cgroups=[(["cpu", "cpuacct"], "/cg/cpu/x"), (["name=systemd"], "/cg/systemd/x")],
        unified="/cg/unified/x",
    )

    attributes = [mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID, 0, 0, 0]
    assert only(ops, "cgroups") == [
        [
            "cgroups",
            "/sys/fs/cgroup",
            attributes,
            [
                ["cpu,cpuacct", "/cg/cpu/x"],
                ["systemd", "/cg/systemd/x"],
                ["unified", "/cg/unified/x"],
            ],
            [["cpu", "cpu,cpuacct"], ["cpuacct", "cpu,cpuacct"]],
        ]
    ]  # fmt: skip


def test_cgroup2_alone() -> None:
    """Where only cgroup2 is mounted its group is bound; where nothing is, nothing."""
    given = spec(entry("/sys/fs/cgroup", "cgroup", "cgroup", "ro"))

    assert only(make(given, unified="/cg/x"), "bind") == [
        ["bind", "/sys/fs/cgroup", "mount 0", False]
    ]
    assert only(make(given), "bind", "cgroups", "source") == []


@pytest.mark.parametrize("names", [["name="], ["name=a/b"], ["name=.."]])
def test_cgroup_hierarchy_with_a_hostile_name(names: list[str]) -> None:
    """A name that is no plain file name is refused."""
    with pytest.raises(InvalidSpec, match="no usable name"):
        make(spec(entry("/sys/fs/cgroup", "cgroup", "cgroup")), cgroups=[(names, "/x")])


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("", "no path below the root"),
        ("/", "no path below the root"),
        ("/a/..", "no path below the root"),
        ("//", "no path below the root"),
        ("/a\0b", "no path below the root"),
        ("/proc/self", "inside /proc"),
        ("/x/../proc/1", "inside /proc"),
    ],
)
def test_refused_destinations(destination: str, words: str) -> None:
    """The root itself and the inside of /proc are no destinations; the mount is named."""
    with pytest.raises(InvalidSpec, match=words) as caught:
        make(spec(entry("/ok", "tmpfs", "tmpfs"), entry(destination, "tmpfs", "tmpfs")))

    assert str(caught.value).startswith("mounts[1]: ")


def test_file_of_proc_that_may_be_covered() -> None:
    """lxcfs and its like may stand in for /proc/meminfo; the operation is marked for it."""
    ops = make(spec(entry("/proc/meminfo", "bind", "/lxcfs/meminfo", "bind")))

    assert only(ops, "bind") == [["bind", "/proc/meminfo", "mount 0", True]]


@pytest.mark.parametrize("kind", ["", "none"])
def test_mount_without_a_type(kind: str) -> None:
    """A mount needs a type or the bind option."""
    with pytest.raises(InvalidSpec, match="no type"):
        make(spec(entry("/x", kind, "x")))
    assert only(make(spec(entry("/x", kind, "/x", "bind"))), "bind")


@pytest.mark.parametrize("field", ["maskedPaths", "readonlyPaths"])
def test_relative_protected_path(field: str) -> None:
    """Masked and read-only paths are absolute."""
    with pytest.raises(InvalidSpec, match=f"linux.{field}"):
        make(spec(**{field: ["proc/kcore"]}))


class TestUserNamespace:
    """With ids of its own a container's host half comes first."""

    @staticmethod
    def given(*entries: dict[str, Any], kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
        """Return a specification with a user namespace: 1000 ids from 70000 on, gid 5 apart."""
        return spec(
            *entries,
            kinds=(*kinds, "user"),
            uidMappings=[{"containerID": 0, "hostID": 70000, "size": 1000}],
            gidMappings=[
                {"containerID": 0, "hostID": 70000, "size": 5},
                {"containerID": 10, "hostID": 80000, "size": 1},
            ],
        )

    def test_host_half(self) -> None:
        """Sources, idmapped layers, the chowned upper directory and the devices come first."""
        host_ops, ops = plan.split(make(self.given(entry("/data", "bind", "/srv", "rbind"))))

        assert [op[0] for op in host_ops] == [
            "private", "source", "nodes", "idmap", "own", "overlay", "enter"
        ]  # fmt: skip
        assert only(host_ops, "own") == [["own", "/c/upper", 70000, 70000]]
        uid_map, gid_map = [[0, 70000, 1000]], [[0, 70000, 5], [10, 80000, 1]]
        assert only(host_ops, "idmap") == [["idmap", ["/l/0", "/l/1"], uid_map, gid_map]]
        assert ops[0] == ["rebind"]
        assert only(ops, "source", "devices") == []

    def test_without_user_namespace_nothing_is_split(self) -> None:
        """All is init's, in one list."""
        ops = make(spec())

        assert plan.split(ops) == ([], ops)

    def test_owners_of_devices(self) -> None:
        """A device's owner is mapped; one that does not exist inside is the container's root."""
        given = self.given()
        given["linux"]["devices"] = [
            {"path": "/dev/a", "type": "c", "major": 1, "minor": 2, "uid": 3, "gid": 10},
            {"path": "/dev/b", "type": "c", "major": 1, "minor": 2, "uid": 5000, "gid": 6},
        ]
        ops = make(given)

        nodes = {node[0]: node[5:] for _, node in only(ops, "nodes")[0][2]}
        assert nodes["/dev/a"] == [70003, 80000]
        assert nodes["/dev/b"] == [70000, 70000]
        keys = [key for key, _ in only(ops, "nodes")[0][2]]
        assert [op[2] for op in only(ops, "bind")] == keys

    def test_devpts_without_the_tty_group(self) -> None:
        """A group that is not mapped would make devpts fail; it is left out."""
        ops = make(self.given(entry("/dev/pts", "devpts", "devpts", "gid=5", "mode=620")))

        assert only(ops, "mount")[0][5] == [["mode", "620"]]
        ops = make(self.given(entry("/dev/pts", "devpts", "devpts", "gid=4")))
        assert only(ops, "mount")[0][5] == [["gid", "4"]]

    @pytest.mark.parametrize(
        ("fstype", "kind", "path"),
        [("proc", "pid", "/proc"), ("sysfs", "network", "/sys"), ("mqueue", "ipc", "/dev/mqueue")],
    )
    def test_views_of_the_hosts_namespaces(self, fstype: str, kind: str, path: str) -> None:
        """What shows a namespace of the host cannot be mounted anew: the host's is bound."""
        kinds = tuple(other for other in KINDS if other != kind)

        ops = make(self.given(entry(path, fstype, fstype, "nosuid"), kinds=kinds))

        assert only(ops, "source")[0][1:4] == [path, "mount 0", True]
        assert only(ops, "mount") == []
        assert only(make(self.given(entry(path, fstype, fstype))), "mount")

    def test_idmapped_bind(self) -> None:
        """A mount's own mappings reach its source."""
        data = entry("/data", "bind", "/srv", "rbind")
        data["uidMappings"] = data["gidMappings"] = [{"containerID": 0, "hostID": 9, "size": 1}]

        ops = make(self.given(data))

        assert only(ops, "source")[0][-1] == [[[0, 9, 1]], [[0, 9, 1]]]
        del data["gidMappings"]
        with pytest.raises(InvalidSpec, match="gidMappings is missing"):
            make(self.given(data))

    def test_missing_root(self) -> None:
        """A container without an id 0 has no owner for its files."""
        given = self.given()
        given["linux"]["uidMappings"] = [{"containerID": 5, "hostID": 70000, "size": 10}]

        with pytest.raises(InvalidSpec, match="id 0 is not mapped"):
            make(given)

    def test_missing_mappings(self) -> None:
        """A user namespace without mappings is refused."""
        with pytest.raises(InvalidSpec, match="uidMappings is missing"):
            make(spec(kinds=(*KINDS, "user")))
