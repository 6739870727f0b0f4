"""The launch payload: an OCI specification turned into steps, or refused by name."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from aruntime.container import launch, messages
from aruntime.errors import InvalidSpec
from aruntime.kernel import capabilities
from aruntime.kernel.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

DEFAULT = ("pid", "mount", "uts", "ipc", "network", "cgroup")
IDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def spec(
    *,
    kinds: tuple[str, ...] = DEFAULT,
    linux: dict[str, Any] | None = None,
    top: dict[str, Any] | None = None,
    **process: Any,
) -> dict[str, Any]:
    """Return a specification; keywords are fields of ``process``."""
    return {
        "process": {"args": ["true"], "cwd": "/", **process},
        "linux": {"namespaces": [{"type": kind} for kind in kinds], **(linux or {})},
        **(top or {}),
    }


def built(made: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return the decoded payload."""
    options = {"container_id": "c", "cgroup_dirs": ["/cg"], "mounts": [["private"]], **options}
    return messages.decode(launch.payload(made, **options))


def test_namespaces_are_born_or_unshared() -> None:
    """The PID namespace takes a fork, the others wait until cgroups and sockets are there."""
    fields = built(spec())
    assert fields["clone"] == CLONE_NEWPID
    others = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP
    assert fields["unshare"] == others
    assert (fields["version"], fields["kind"], fields["id"]) == (1, "launch", "c")
    assert (fields["cgroups"], fields["mounts"], fields["join"]) == (["/cg"], [["private"]], [])


def test_what_init_is_born_into_is_known_beforehand() -> None:
    """Unless another process comes first, or a namespace is joined."""
    assert launch.born_into(spec()) == built(spec())["clone"] == CLONE_NEWPID
    timed = spec(kinds=(*DEFAULT, "time"))
    assert launch.born_into(timed) == built(timed)["clone"] == CLONE_NEWPID | CLONE_NEWTIME
    assert launch.born_into(spec(kinds=("mount",))) == 0
    offsets = {"timeOffsets": {"boottime": {"secs": 1}}}
    assert launch.born_into(spec(kinds=(*DEFAULT, "time"), linux=offsets)) is None
    maps = {"uidMappings": IDS, "gidMappings": IDS}
    assert launch.born_into(spec(kinds=(*DEFAULT, "user"), linux=maps)) is None
    joined = spec()
    joined["linux"]["namespaces"][0]["path"] = "/proc/1/ns/pid"
    assert launch.born_into(joined) is None


def test_types_not_named_are_the_hosts() -> None:
    """``--network host`` is a specification without a network namespace."""
    fields = built(spec(kinds=("mount",)))
    assert (fields["clone"], fields["unshare"]) == (0, CLONE_NEWNS)


def test_paths_are_joined() -> None:
    """From the specification and from the caller, who may pass descriptors."""
    linux = {
        "namespaces": [
            {"type": "mount"},
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/x"},
            {"type": "ipc"},
        ]
    }
    fields = built(spec(linux=linux), join={"ipc": "fd:other"})
    assert fields["join"] == [[CLONE_NEWNET, "/run/netns/x"], [CLONE_NEWIPC, "fd:other"]]
    assert fields["unshare"] == CLONE_NEWNS


def test_user_namespace_splits_the_mounts() -> None:
    """What needs the host's privileges goes to the intermediate process."""
    made = spec(kinds=(*DEFAULT, "user"), linux={"uidMappings": IDS, "gidMappings": IDS})
    ops = [["private"], ["overlay"], ["enter"], ["rebind"], ["pivot"]]
    fields = built(made, mounts=ops)
    assert fields["host_mounts"] == ops[:3]
    assert fields["mounts"] == ops[3:]
    assert fields["user_namespace"] == {
        "uid_map": [[0, 100000, 65536]],
        "gid_map": [[0, 100000, 65536]],
    }
    assert fields["clone"] == CLONE_NEWPID | CLONE_NEWNS
    assert not fields["unshare"] & (CLONE_NEWUSER | CLONE_NEWNS)


def test_time_namespace_with_and_without_offsets() -> None:
    """Without offsets a process is simply born into it; they can be set only from outside."""
    assert built(spec(kinds=(*DEFAULT, "time")))["clone"] & CLONE_NEWTIME
    offsets = {"monotonic": {"secs": -5, "nanosecs": 7}}
    fields = built(spec(kinds=(*DEFAULT, "time"), linux={"timeOffsets": offsets}))
    assert fields["time_offsets"] == [["monotonic", -5, 7]]
    assert not fields["clone"] & CLONE_NEWTIME


def test_process_fields() -> None:
    """Everything of ``process`` arrives."""
    fields = built(
        spec(
            top={"hostname": "h", "domainname": "d"},
            args=["sh", "-c", "é"],
            env=["A=1", "B="],
            cwd="/w",
            terminal=True,
            consoleSize={"height": 24, "width": 80},
            oomScoreAdj=-5,
            noNewPrivileges=True,
            user={"uid": 1, "gid": 2, "additionalGids": [3], "umask": 0o77},
        ),
        bpf=b"\x01" * 8,
        init=True,
        netlink=[{"host": "", "inside": "x", "netns_fd": 250}],
    )
    assert fields["args"] == ["sh", "-c", "é"]
    assert fields["env"] == ["A=1", "B="]
    assert (fields["cwd"], fields["terminal"], fields["console_size"]) == ("/w", True, [24, 80])
    assert (fields["oom_score_adj"], fields["no_new_privileges"]) == (-5, True)
    assert fields["user"] == {"uid": 1, "gid": 2, "additional_gids": [3]}
    assert fields["umask"] == 0o77
    assert base64.b64decode(fields["seccomp"]) == b"\x01" * 8
    assert (fields["hostname"], fields["domainname"], fields["init"]) == ("h", "d", True)
    assert fields["netlink"] == [{"host": "", "inside": "x", "netns_fd": 250}]


def test_optional_fields_are_left_out() -> None:
    """An unset value is no field, never a null."""
    fields = built(spec(consoleSize={"height": 0, "width": 0}))
    for name in (
        *("seccomp", "console_size", "oom_score_adj", "umask", "hostname"),
        *("user_namespace", "time_offsets", "host_mounts"),
    ):
        assert name not in fields


def test_typed_user_overrides_numbers() -> None:
    """Names travel as typed: only the rootfs knows them."""
    fields = built(spec(user={"uid": 7}), user="name:group", groups=["audio"])
    assert fields["user"] == {"name": "name:group", "groups": ["audio"]}
    assert built(spec(), user="")["user"] == {"name": "", "groups": []}


def test_rlimits() -> None:
    """Names with and without prefix, unlimited as -1 and as 64 bits of ones."""
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2},
        {"type": "core", "soft": 0, "hard": (1 << 64) - 1},
        {"type": "RLIMIT_LOCKS", "soft": -1, "hard": -1},
    ]
    assert built(spec(rlimits=limits))["rlimits"] == [
        ["nofile", 7, 1, 2],
        ["core", 4, 0, -1],
        ["locks", 10, -1, -1],
    ]


def test_capabilities_become_masks() -> None:
    """Unknown ones are warned about (runtime-spec 1.1), not refused."""
    sets = {"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_FROM_2030"], "effective": ["CAP_KILL"]}
    fields = built(spec(capabilities=sets))
    kill = 1 << capabilities.NUMBERS["CAP_KILL"]
    assert fields["capabilities"] == {
        "bounding": 1 | kill,
        "effective": kill,
        "permitted": 0,
        "inheritable": 0,
        "ambient": 0,
    }
    assert len(fields["warnings"]) == 1
    assert "CAP_FROM_2030" in fields["warnings"][0]


def test_exec_joins_what_the_container_owns() -> None:
    """One descriptor, every namespace that is not the host's, the user namespace included."""
    linux = {
        "namespaces": [{"type": kind} for kind in ("pid", "mount", "user")]
        + [{"type": "network", "path": "/x"}]
    }
    made = spec(linux=linux)
    content = launch.exec_payload(
        made, {"args": ["id"]}, container_id="c", cgroup_dirs=["/cg"], join={"ipc": "fd:y"}
    )
    fields = messages.decode(content)
    mask = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC
    assert fields["join"] == [[mask, "fd:target"]]
    assert (fields["kind"], fields["clone"], fields["unshare"]) == ("exec", 0, 0)
    assert fields["args"] == ["id"]
    assert fields["cwd"] == "/"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"args": []}, "process.args is empty"),
        ({"args": [""]}, "process.args is empty"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"env": ["A=\0"]}, "NUL"),
        ({"cwd": "relative"}, "not an absolute path"),
        ({"kinds": ("pid",)}, "mount namespace"),
        ({"kinds": ("mount", "mount")}, "twice"),
        ({"kinds": ("mount", "cpu")}, "'cpu' is unknown"),
        ({"kinds": ("mount", "user")}, "uidMappings is empty"),
        ({"kinds": ("mount",), "top": {"hostname": "x"}}, "no UTS namespace"),
        (
            {"kinds": ("mount", "time"), "linux": {"timeOffsets": {"realtime": {}}}},
            "no clock 'realtime'",
        ),
        ({"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, "ulimit 'x' is unknown"),
        ({"rlimits": [{"type": "cpu", "soft": 2, "hard": 1}]}, "exceeds the hard"),
        ({"rlimits": [{"type": "cpu", "soft": -1, "hard": 1}]}, "exceeds the hard"),
        ({"rlimits": [{"type": "cpu", "soft": 1, "hard": 1}] * 2}, "given twice"),
        ({"user": {"uid": 1 << 31}}, "outside 0"),
        ({"user": {"uid": -1}}, "outside 0"),
        ({"user": {"uid": 0, "additionalGids": [1 << 32]}}, "outside 0"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], text: str) -> None:
    """Each refusal is one line that says which field."""
    with pytest.raises(InvalidSpec, match=text) as caught:
        built(spec(**change))
    assert "\n" not in str(caught.value)


def test_the_mount_namespace_cannot_be_another_ones() -> None:
    """A container's tree is built in a namespace of its own."""
    with pytest.raises(InvalidSpec, match="mount namespace"):
        built(spec(), join={"mount": "/proc/1/ns/mnt"})
