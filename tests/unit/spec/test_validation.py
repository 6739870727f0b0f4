"""What a config.json written elsewhere may say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import InvalidSpec
from aruntime.spec import validate

SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "process": {
        "cwd": "/",
        "args": ["sh"],
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
    },
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "hooks": {"prestart": [{"path": "/bin/true", "timeout": 5}]},
    "linux": {
        "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "network"}],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2}],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []},
        "sysctl": {"net.core.somaxconn": "1"},
    },
    "unknown": {"is": "allowed"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The valid specification with one member replaced; ``...`` removes it."""
    spec = copy.deepcopy(SPEC)
    *parents, last = path.split(".")
    at: Any = spec
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at.setdefault(name, {})
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return spec


def test_a_valid_specification_passes() -> None:
    """With members nobody knows, too."""
    validate(SPEC)
    validate({"ociVersion": "1.2.1", "root": {"path": "/r"}})


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("ociVersion", ..., "ociVersion: is missing"),
        ("ociVersion", "2.0.0", "ociVersion: must be 1.x.y"),
        ("root", ..., "root: is missing"),
        ("root.path", "", "root.path: must not be empty"),
        ("root.readonly", "yes", "root.readonly: must be true or false"),
        ("hostname", "x" * 65, "hostname: is longer than 64 bytes"),
        ("process.cwd", "tmp", "process.cwd: must be an absolute path"),
        ("process.args", [], "process.args: must name a program"),
        ("process.args", ["a\0b"], r"process.args\[0\]: must be text without NUL"),
        ("process.env", ["=x"], r"process.env\[0\]: must be NAME=value"),
        ("process.user.uid", -1, "process.user.uid: must be a whole number from 0"),
        ("process.user.uid", 1 << 32, "process.user.uid: must be a whole number"),
        ("process.user.uid", True, "process.user.uid: must be a whole number"),
        ("process.capabilities.bounding", "CAP_KILL", "bounding: must be a list"),
        ("process.rlimits.0.soft", 3, r"rlimits\[0\].soft: exceeds the hard limit 2"),
        ("process.rlimits.0.type", "NOFILE", r"rlimits\[0\].type: must be an RLIMIT_ name"),
        ("process.oomScoreAdj", 2000, "process.oomScoreAdj: must be a whole number"),
        ("mounts.0.destination", ..., r"mounts\[0\].destination: is missing"),
        ("mounts.0", {"destination": "/x", "type": "bind"}, r"mounts\[0\].source: is missing"),
        ("mounts.0", {"destination": "/proc/self", "type": "tmpfs"},
         r"mounts\[0\].destination: /proc/self is inside /proc"),
        ("hooks.prestart.0.path", "true", r"hooks.prestart\[0\].path: must be an absolute path"),
        ("linux.namespaces.0.type", "moon", r"linux.namespaces\[0\].type: must be one of"),
        ("linux.namespaces.0.type", "uts", r"linux.namespaces\[1\].type: uts is given twice"),
        ("linux.namespaces.2.path", "net", r"linux.namespaces\[2\].path: must be an absolute"),
        ("linux.namespaces.1", {"type": "ipc"}, "hostname: needs a uts namespace"),
        ("linux.namespaces.2", {"type": "user"}, "linux.uidMappings: a user namespace needs"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}],
         "linux.uidMappings: mappings need a user namespace"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 0}],
         r"linux.uidMappings\[0\].size: must be a whole number from 1"),
        ("linux.timeOffsets", {"monotonic": {"secs": 1}}, "linux.timeOffsets: offsets need"),
        ("linux.devices.0.type", "x", r"linux.devices\[0\].type: must be one of b, c, p, u"),
        ("linux.devices.0.major", ..., r"linux.devices\[0\].major: is missing"),
        ("linux.resources.devices.0.access", "rx", r"devices\[0\].access: must be of the letters"),
        ("linux.seccomp.defaultAction", "ALLOW", "linux.seccomp.defaultAction: must be one of"),
        ("linux.seccomp.syscalls", [{"names": ["x"]}], r"syscalls\[0\].action: is missing"),
        ("linux.sysctl", {"kernel.core_pattern": "x"}, "is not in a separate kernel namespace"),
        ("linux.sysctl", {"net.x/../../kernel.y": "x"}, "is not the name of a setting"),
        ("linux.sysctl", {"kernel.msgmax": "1"}, "needs a ipc namespace"),
        ("linux.maskedPaths", ["proc"], r"linux.maskedPaths\[0\]: must be an absolute path"),
        ("linux.rootfsPropagation", "up", "linux.rootfsPropagation: must be one of"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(path: str, value: Any, field: str) -> None:
    """``field: reason``."""
    with pytest.raises(InvalidSpec, match=field):
        validate(changed(path, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab/=.", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "path", "names", "args"]), inner, max_size=2)
    ),
    max_leaves=4,
)
PATHS = st.sampled_from(
    [
        "process", "process.args", "process.user", "process.rlimits", "root", "mounts", "hooks",
        "linux", "linux.namespaces", "linux.seccomp", "linux.devices", "linux.resources",
        "linux.sysctl", "annotations", "linux.uidMappings", "linux.timeOffsets", "hostname",
    ]
)  # fmt: skip


@given(PATHS, JSON)
def test_any_json_is_accepted_or_refused(path: str, value: Any) -> None:
    """Never another exception, whatever stands in a field."""
    try:
        validate(changed(path, value))
    except InvalidSpec as error:
        assert ": " in error.message


@given(JSON)
def test_any_document_is_accepted_or_refused(value: Any) -> None:
    """Nor for something that is no specification at all."""
    with pytest.raises(InvalidSpec):
        validate(value)
